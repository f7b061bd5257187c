"""Freeing memory on request: garbage, free memory of the allocator, and caches.

:data:`caches` is the registry of this process, which guards and retries clear too.
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

#: With more young objects than this, collecting the young generations costs as much as a full collection.
_MANY_YOUNG = 100_000


class Freed(NamedTuple):
    """Result of a collection."""

    #: Freed objects by generation: young, middle, old.
    generations: tuple[int, int, int]
    #: Resident bytes before and after; None where they cannot be read.
    before: int | None
    after: int | None
    #: Bytes that left the process; 0 within noise, None where not measured.
    returned: int | None
    #: Why the allocator was not trimmed; empty where it was.
    untrimmed: str
    seconds: float

    @property
    def objects(self) -> int:
        """Number of freed objects."""
        return sum(self.generations)


def force_garbage_collection(*, trim: bool = True, resident: Resident | None = None) -> Freed:
    """Collect garbage of all generations now, and return free memory of the allocator to the system (``trim``).

    It is not rationed and stops all threads meanwhile: some 0.1 s for a million objects. After small tasks use
    :class:`CollectEvery`. ``resident`` returns the resident size in bytes; by default that of this process.
    """
    measure = rss_function() if resident is None else resident
    returned, started = RssDelta(measure), time.monotonic()
    before = _size(measure)
    # The young generations first, for figures per generation. That is cheap unless the program has disabled the
    # collector, so that all objects are young.
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
    took = time.monotonic() - started
    after = _size(measure)
    return Freed((freed[0], freed[1], freed[2]), before, after, returned.bytes(), untrimmed, took)


def _size(measure: Resident | None) -> int | None:
    try:
        return None if measure is None else measure()
    except ReadError:
        return None


def clear_caches(level: PressureLevel = PressureLevel.CRITICAL, *, registry: Caches | None = None) -> Outcome:
    """Clear the caches registered for this pressure level or a lower one, the cheapest first.

    At MODERATE those that are cheap to refill, at CRITICAL all. The outcome's message names them.
    """
    return (caches if registry is None else registry).run(decision("caches", level))


def decision(action: str, level: PressureLevel, reason: str = "asked for") -> Decision:
    """Return a decision that a caller made, not a rule."""
    return Decision("by hand", action, reason, time.time(), time.monotonic(), details={"level": level.value})


class CollectEvery:
    """Collects garbage once every so many operations (items, chunks, tasks), rationed as the action ``collect``.

    ``level`` returns the pressure level: after a rise the next operation collects. Does nothing in a program that has
    disabled the collector.

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
        """Count operations; return the outcome of a collection, None where none was due."""
        self._left -= count
        level = PressureLevel.LOW if self._level is None else self._level()
        rose, self._seen = level.rank > self._seen.rank, level
        if self._left > 0 and not rose:
            return None
        self._left = self.operations
        # HIGH or above: all generations, because after so many operations old objects may be garbage too.
        return self._collect.run(decision("collect", max(level, PressureLevel.HIGH, key=lambda each: each.rank)))

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; each is counted when the next one is requested."""
        for item in items:
            yield item
            self.done()
