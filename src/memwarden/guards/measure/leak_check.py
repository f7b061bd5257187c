"""Memory that repeated calls of a function leave behind: allocator blocks, and resident bytes.

Blocks of Python's allocator are counted exactly, so that one small object per call is found. Large objects bypass that
allocator and are found in the resident size, above its noise. Both are read several times, and only steady growth
counts: a cache that fills up and a table that is doubled once are no leaks.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from memwarden.actions.rss_delta import noise
from memwarden.actions.trim import trim_allocator
from memwarden.errors import ActionFailed, SettingsError
from memwarden.model.units import size_text
from memwarden.readers.factory import rss_function

#: Batches of calls, with a reading after each.
BATCHES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCheck:
    """Memory left by each call."""

    calls: int
    #: Blocks of at most 512 bytes, from the batch that left fewest; 0 where one batch left none.
    blocks: float
    #: Resident bytes; 0 where they did not grow in each batch, or not above noise; None where they cannot be read.
    resident: float | None
    #: Types of which more objects exist, with the number per call, the largest first.
    types: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        leaked = [f"{self.blocks:.1f} blocks", "" if not self.resident else size_text(self.resident)]
        found = ", ".join(f"{count:.1f} {name}" for name, count in self.types)
        return " and ".join(filter(None, leaked)) + " stay of each call" + (f": {found}" if found else "")


def check_leaks(function: Callable[[], object], calls: int = 100, warm_up: int = 10) -> LeakCheck:
    """Call a function ``warm_up`` times, then ``calls`` times, and return what each call left behind.

    Raises :class:`~memwarden.errors.SettingsError` for fewer than 5 calls, and anything that the function raises.
    """
    if calls < BATCHES or warm_up < 0:
        raise SettingsError(f"calls {calls!r}, warm_up {warm_up!r}: at least {BATCHES} calls, and no negative warm-up")
    batch = calls // BATCHES
    resident = rss_function()
    blocks, sizes = array("q", [0] * (BATCHES + 1)), array("q", [0] * (BATCHES + 1))

    def read(number: int) -> None:
        gc.collect()
        with contextlib.suppress(ActionFailed):  # no glibc
            trim_allocator()
        sizes[number] = 0 if resident is None else resident()
        blocks[number] = sys.getallocatedblocks()

    for _ in range(max(warm_up, 1)):
        function()
    for number in range(BATCHES + 1):
        read(number)
    own = max(map(int.__sub__, blocks[1:], blocks[:-1]))  # blocks that a reading itself leaves
    read(0)
    for number in range(BATCHES):
        for _ in range(batch):
            function()
        read(number + 1)
    least = (min(after - before for before, after in pairwise(blocks)) - max(own, 0)) / batch
    grown = min(after - before for before, after in pairwise(sizes))
    steady = grown > 0 and sizes[-1] - sizes[0] >= noise()
    leaked = least if least >= 1 else 0.0
    kept = None if resident is None else (sizes[-1] - sizes[0]) / (batch * BATCHES) if steady else 0.0
    return LeakCheck(
        calls=batch * BATCHES,
        blocks=leaked,
        resident=kept,
        types=_types(function, batch) if leaked or kept else (),
    )


def _types(function: Callable[[], object], calls: int) -> tuple[tuple[str, float], ...]:
    """Return the types of which further calls leave more objects; only those that the garbage collector tracks."""
    _count_types()  # the first count allocates caches of its own
    before = _count_types()
    for _ in range(calls):
        function()
    more = _count_types()
    more.subtract(before)
    return tuple((name, count / calls) for name, count in more.most_common(5) if count >= calls)


def _count_types() -> Counter[str]:
    gc.collect()
    return Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
