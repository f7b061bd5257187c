"""What stays of a function that is called again and again: in blocks of Python's allocator, and in resident bytes.

Blocks are counted exactly, so that one small object a call is found. Large things do not come from that allocator:
they are found in the resident size, where they are more than noise. Both are looked at several times, and only what
grows each time counts: a cache that fills up and a table that is doubled once are no leaks.
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

#: How many times it is looked.
LOOKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCheck:
    """What stays of each call."""

    calls: int
    #: Blocks of at most 512 bytes, the least of all looks: one that does not grow each time stays at 0.
    blocks: float
    #: Resident bytes; 0 where they did not grow each time, or not above noise; None where they cannot be read.
    resident: float | None
    #: Types of which there are more objects, and how many more for each call, the most first.
    types: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        told = [f"{self.blocks:.1f} blocks", "" if not self.resident else size_text(self.resident)]
        found = ", ".join(f"{count:.1f} {name}" for name, count in self.types)
        return " and ".join(filter(None, told)) + " stay of each call" + (f": {found}" if found else "")


def check_leaks(function: Callable[[], object], calls: int = 100, warm_up: int = 10) -> LeakCheck:
    """Call a function ``warm_up`` times, then ``calls`` times, and see what stays. What it raises is raised.

    Raises :class:`~memwarden.errors.SettingsError` for less than 5 calls.
    """
    if calls < LOOKS or warm_up < 0:
        raise SettingsError(f"calls {calls!r}, warm_up {warm_up!r}: at least {LOOKS} calls, and no negative warm-up")
    batch = calls // LOOKS
    resident = rss_function()
    blocks, sizes = array("q", [0] * (LOOKS + 1)), array("q", [0] * (LOOKS + 1))

    def look(number: int) -> None:
        gc.collect()
        with contextlib.suppress(ActionFailed):  # no glibc
            trim_allocator()
        sizes[number] = 0 if resident is None else resident()
        blocks[number] = sys.getallocatedblocks()

    for _ in range(max(warm_up, 1)):
        function()
    for number in range(LOOKS + 1):
        look(number)
    own = max(map(int.__sub__, blocks[1:], blocks[:-1]))  # what a look itself leaves
    look(0)
    for number in range(LOOKS):
        for _ in range(batch):
            function()
        look(number + 1)
    least = (min(after - before for before, after in pairwise(blocks)) - max(own, 0)) / batch
    grown = min(after - before for before, after in pairwise(sizes))
    steady = grown > 0 and sizes[-1] - sizes[0] >= noise()
    stays = least if least >= 1 else 0.0
    kept = None if resident is None else (sizes[-1] - sizes[0]) / (batch * LOOKS) if steady else 0.0
    return LeakCheck(
        calls=batch * LOOKS,
        blocks=stays,
        resident=kept,
        types=_types(function, batch) if stays or kept else (),
    )


def _types(function: Callable[[], object], calls: int) -> tuple[tuple[str, float], ...]:
    """Of what there is more after some calls more; only what the garbage collector knows."""
    _census()  # the first one makes what is made once
    before = _census()
    for _ in range(calls):
        function()
    more = _census()
    more.subtract(before)
    return tuple((name, count / calls) for name, count in more.most_common(5) if count >= calls)


def _census() -> Counter[str]:
    gc.collect()
    return Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
