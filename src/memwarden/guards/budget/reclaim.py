"""Giving memory back on request: garbage, what the allocator keeps, and caches.

The parts are the actions of the same names; here they are called by hand. :data:`caches` is the registry of this
process that guards clear, too: register what may be thrown away.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from memwarden.actions.caches import Caches
from memwarden.actions.collect import Collect
from memwarden.actions.rss_delta import Resident, RssDelta
from memwarden.actions.trim import trim_allocator
from memwarden.errors import ActionFailed, ReadError, SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.verdicts import PressureLevel
from memwarden.readers.factory import rss_function

T = TypeVar("T")

#: The caches of this process that may be cleared: ``caches.register(clear, name, level=…)``,
#: ``caches.register_lru(function)``.
caches = Caches(resident=rss_function())

#: With more young objects than this the passes over the young ones would cost as much as the full one.
_MANY_YOUNG = 100_000


class Freed(NamedTuple):
    """What a collection freed, and what really left the process."""

    #: Objects that were freed, by the generation that they were in: young, middle, old.
    generations: tuple[int, int, int]
    #: Resident bytes before and after; None where that cannot be measured.
    before: int | None
    after: int | None
    #: Bytes that left the process; 0 when that cannot be told from noise, None when it was not measured.
    returned: int | None
    #: Why the allocator was not trimmed; empty where it was.
    untrimmed: str
    seconds: float

    @property
    def objects(self) -> int:
        """How many objects were freed."""
        return sum(self.generations)


def force_garbage_collection(*, trim: bool = True, resident: Resident | None = None) -> Freed:
    """Collect garbage of all generations now, and have the allocator give back what it keeps (``trim``).

    This is not rationed, and it stops every other thread of the program meanwhile: some 0.1 s for a million objects.
    After single small tasks :class:`CollectEvery` is the better choice. ``resident`` gives the resident size in
    bytes; by default that of this process.
    """
    measure = rss_function() if resident is None else resident
    returned, begun = RssDelta(measure), time.monotonic()
    before = _size(measure)
    # The young ones first, so that it can be told what was freed where. That costs next to nothing, but where the
    # program has switched the collector off, and all its objects are young.
    passes = (2,) if gc.get_count()[0] > _MANY_YOUNG else (0, 1, 2)
    freed = [0, 0, 0]
    for generation in passes:
        freed[generation] = gc.collect(generation)
    untrimmed = "not asked for"
    if trim:
        try:
            trim_allocator()
            untrimmed = ""
        except ActionFailed as error:
            untrimmed = str(error)
    took = time.monotonic() - begun
    after = _size(measure)
    return Freed((freed[0], freed[1], freed[2]), before, after, returned.bytes(), untrimmed, took)


def _size(measure: Resident | None) -> int | None:
    try:
        return None if measure is None else measure()
    except ReadError:
        return None


def clear_caches(level: PressureLevel = PressureLevel.CRITICAL, *, registry: Caches | None = None) -> Outcome:
    """Clear the registered caches that may go from this level on, the cheapest first; the outcome says which.

    At MODERATE those that are cheap to fill again, at CRITICAL all.
    """
    return (caches if registry is None else registry).run(decision("caches", level))


def decision(action: str, level: PressureLevel, reason: str = "asked for") -> Decision:
    """Somebody asked for it, and no rule."""
    return Decision("by hand", action, reason, time.time(), time.monotonic(), details={"level": level.value})


class CollectEvery:
    """Collects garbage once in so many operations (items, chunks, tasks), rationed as the action ``collect`` is.

    ``level`` gives the pressure level: when it has risen since the last time, the next operation collects, however
    many are left. A program that has switched the collector off is left alone.

    ::

        every = CollectEvery(1000)
        for chunk in every.over(chunks):
            work(chunk)
    """

    def __init__(
        self,
        operations: int,
        *,
        level: Callable[[], PressureLevel] | None = None,
        collect: Collect | None = None,
    ) -> None:
        if type(operations) is not int or operations < 1:
            raise SettingsError(f"operations {operations!r}: a whole number, 1 or more, such as 1000")
        self.operations = operations
        self._level = level
        self._collect = Collect(resident=rss_function()) if collect is None else collect
        self._left, self._seen = operations, PressureLevel.LOW

    def done(self, count: int = 1) -> Outcome | None:
        """So many more were done. What came of a collection; None when it was not time for one."""
        self._left -= count
        level = PressureLevel.LOW if self._level is None else self._level()
        rose, self._seen = level.rank > self._seen.rank, level
        if self._left > 0 and not rose:
            return None
        self._left = self.operations
        # After so many of them old objects may be garbage, too.
        return self._collect.run(decision("collect", max(level, PressureLevel.HIGH, key=lambda each: each.rank)))

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each counted when the next one is asked for."""
        for item in items:
            yield item
            self.done()
