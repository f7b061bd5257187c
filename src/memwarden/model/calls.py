"""Memory of calls: of one, of all of one name, and the growth that stays of each as evidence of a leak.

All sizes are bytes of *resident* memory of the whole process: a call that reuses memory
which the process has already counts nothing, and allocations of other threads meanwhile count, too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

#: Source of a peak. kernel: the kernel's own peak, to some pages; sampled: samples every few milliseconds, between
#: which a shorter peak may be missed.
Method = Literal["kernel", "sampled"]


class CallMemory(NamedTuple):
    """Memory of one call, or of one block."""

    name: str
    #: Resident when it started, and when it ended.
    before: int
    after: int
    #: The most that was resident while it ran.
    peak: int
    #: The peak above what was resident when it started.
    rise: int
    #: What stayed (its result included); negative where it freed more than it allocated. Of a generator: of its own
    #: steps, without those of its consumer between them.
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
    """Growth of the calls of one name, as evidence for a leak verdict.

    ``points`` are pairs (calls so far, bytes that stayed of all of them), at most 256, spread evenly over all calls.
    Calls beside others are not in them: their growth cannot be separated.
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
    """One line of a program and what was allocated there, as an allocation profiler reports it."""

    file: str
    line: int
    size: int
    blocks: int
