"""What calls held: one of them, all of one name, and what stays of each as evidence of a leak.

All sizes are bytes of *resident* memory of the whole process: what a call takes from memory that the process already
holds counts nothing, and what other threads take meanwhile counts, too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

#: How a peak was found. kernel: by the kernel's own mark, to some pages; sampled: by looking every few milliseconds,
#: so that a shorter peak may be missed.
Method = Literal["kernel", "sampled"]


class CallMemory(NamedTuple):
    """What one call, or one block, held."""

    name: str
    #: Resident when it began, and when it ended.
    before: int
    after: int
    #: The most that was resident while it ran.
    peak: int
    #: The most that it held above what was resident when it began.
    rise: int
    #: What stayed (its result included); negative where it gave more back than it took. Of a generator: of its own
    #: steps, without what its consumer did between them.
    growth: int
    seconds: float
    method: Method
    #: Calls of these names ran beside it, neither within it nor around it: its figures hold some of theirs.
    shared: tuple[str, ...] = ()
    #: The type of the exception that ended it; empty where none did.
    error: str = ""


class CallSummary(NamedTuple):
    """All calls of one name. Figures are None before the first call that could be measured."""

    name: str
    calls: int
    #: Of them: ended by an exception; beside others; with sampled peaks; not measured at all.
    failed: int
    shared: int
    sampled: int
    unread: int
    peak: int | None
    rise: int | None
    #: What stayed of all calls together. A call within one of the same name is counted there.
    growth: int | None
    #: Bytes that stay of each further call (see :attr:`CallGrowth.slope`).
    slope: float | None
    seconds: float


class CallGrowth(NamedTuple):
    """What stayed of the calls of one name, as evidence for whoever judges leaks.

    ``points`` are pairs (calls so far, bytes that stayed of all of them), at most 256, spread evenly over all calls.
    Calls beside others are not in them: what stayed cannot be told apart.
    """

    name: str
    calls: int
    points: tuple[tuple[int, int], ...]

    @property
    def slope(self) -> float | None:
        """Bytes that stay of each further call; None for fewer than eight points.

        The median of the slopes between points half of the series apart (Theil's method, incomplete): what only the
        first calls take, and single jumps, do not count. Resident memory grows in steps of up to 1 MiB (an arena), so
        small leaks show after many calls.
        """
        half = len(self.points) // 2
        if half < 4:
            return None
        slopes = sorted(
            (high - low) / (last - first)
            for (first, low), (last, high) in zip(self.points, self.points[half:], strict=False)
        )
        middle = len(slopes) // 2
        return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2


class AllocationLine(NamedTuple):
    """One line of a program and what was allocated there, as an allocation profiler tells it."""

    file: str
    line: int
    size: int
    blocks: int
