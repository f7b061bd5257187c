"""Caches of the program that may be cleared when memory is short."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol

from memwarden.actions.rss_delta import Resident, RssDelta, told
from memwarden.actions.trim import trim_allocator
from memwarden.errors import ActionFailed, SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.facts import CacheFill
from memwarden.model.verdicts import PressureLevel
from memwarden.process.fork_hooks import reset_after_fork


class LruCached(Protocol):
    """A function that ``functools.lru_cache`` (or ``functools.cache``) has wrapped."""

    def cache_clear(self) -> None: ...

    def cache_info(self) -> Any: ...


class _Cache:
    """One registration. ``clear``, ``size`` and ``most`` give the callables, or None when their object is gone."""

    def __init__(
        self,
        name: str,
        level: PressureLevel,
        clear: Callable[[], Callable[[], object] | None],
        size: Callable[[], Callable[[], int] | None] | None,
        most: Callable[[], int | None] | None = None,
    ) -> None:
        self.name, self.level, self.clear, self.size, self.most = name, level, clear, size, most


class Caches:
    """A registry of caches, and the action that clears them: the cheapest first.

    ``level`` says from which pressure level on a cache may be cleared: one that is cheap to fill again from
    MODERATE, a dear one from CRITICAL. A decision whose ``details["level"]`` is lower leaves it alone; one that says
    no level clears all. Methods and lru functions are held weakly, so that what is registered may die; other
    callables (a function, a lambda, the ``clear`` of a dict) are held until they are taken off.

    Clearers are called on the thread that calls actions. One that raises is told, and the others are cleared all
    the same. Afterwards the allocator is trimmed, where that is possible: until then what was freed mostly stays.
    Safe to use from any thread, and in a child after fork.
    """

    name = "caches"
    harms = False

    def __init__(self, *, resident: Resident | None = None) -> None:
        self._resident = resident
        self._lock = threading.Lock()
        self._caches: list[_Cache] = []
        reset_after_fork(self)

    def register(
        self,
        clear: Callable[[], object],
        name: str,
        *,
        level: PressureLevel = PressureLevel.HIGH,
        size: Callable[[], int] | None = None,
        most: int | None = None,
    ) -> Callable[[], None]:
        """Let ``clear`` be called when memory is short; the result takes it off again.

        ``size`` gives the number of entries: it is told, and a cache with none is left alone. With ``most``, the
        entries that it may have, a cache that fills explains a rise to the leak verdict of a watch of this program;
        ``size`` is then called at each sample. Raises :class:`SettingsError` for what cannot be called.
        """
        if most is not None and (size is None or most <= 0):
            raise SettingsError(f"cache {name!r}: most={most!r} needs a number above 0, and size= to go with it")
        for each in (clear, size):
            if each is not None and not callable(each):
                raise SettingsError(f"cache {name!r}: {each!r} cannot be called; register the method that clears it")
        return self._add(_Cache(name, level, _held(clear), None if size is None else _held(size), lambda: most))

    def register_lru(
        self, function: LruCached, name: str | None = None, *, level: PressureLevel = PressureLevel.HIGH
    ) -> Callable[[], None]:
        """Let the cache of a ``functools.lru_cache`` function be cleared; the result takes it off again."""
        if not hasattr(function, "cache_clear") or not hasattr(function, "cache_info"):
            raise SettingsError(f"{function!r} has no cache: it is not wrapped by functools.lru_cache")
        reference = weakref.ref(function)

        def clear() -> Callable[[], object] | None:
            alive = reference()
            return None if alive is None else alive.cache_clear

        def size() -> Callable[[], int] | None:
            alive = reference()
            return None if alive is None else lambda: int(alive.cache_info().currsize)

        def most() -> int | None:
            alive = reference()
            return None if alive is None else alive.cache_info().maxsize

        return self._add(_Cache(name or str(getattr(function, "__qualname__", function)), level, clear, size, most))

    def _add(self, cache: _Cache) -> Callable[[], None]:
        with self._lock:
            self._caches = sorted([*self._caches, cache], key=lambda each: each.level.rank)

        def remove() -> None:
            with self._lock:
                self._caches = [each for each in self._caches if each is not cache]

        return remove

    @property
    def names(self) -> tuple[str, ...]:
        """What is registered and still there, in the order of clearing."""
        return tuple(cache.name for cache in self._living())

    def fills(self) -> list[CacheFill]:
        """How full those are that have a bound."""
        found = []
        for cache in self._living():
            most = None if cache.most is None else cache.most()
            size = None if cache.size is None or not most else cache.size()
            if size is not None:
                found.append(CacheFill(size(), most))
        return found

    def _living(self) -> list[_Cache]:
        with self._lock:
            self._caches = [cache for cache in self._caches if cache.clear() is not None]
            return self._caches

    def run(self, decision: Decision) -> Outcome:
        begun, returned = time.monotonic(), RssDelta(self._resident)
        cleared: list[str] = []
        failed: list[str] = []
        for cache in self._living():
            if cache.level.rank <= _rank(decision):
                try:
                    self._clear(cache, cleared)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - the others are to be cleared all the same
                    failed.append(f"{cache.name} raised {error!r}")
        if not cleared and not failed:
            return Outcome(decision=decision, done=False, message="no cache to clear that holds anything")
        told_of = [f"cleared {', '.join(cleared)}"] if cleared else []
        if cleared:
            try:
                trim_allocator()
            except ActionFailed:
                pass  # what the allocator gives back by itself is measured all the same
            told_of.append(told(returned.bytes()))
        message = "; ".join([*told_of, *failed])
        return Outcome(decision=decision, done=bool(cleared), message=message, seconds=time.monotonic() - begun)

    def _clear(self, cache: _Cache, cleared: list[str]) -> None:
        clear, size = cache.clear(), None if cache.size is None else cache.size()
        count = None if size is None else size()
        if clear is not None and count != 0:
            clear()
            cleared.append(cache.name if count is None else f"{cache.name} ({count} entries)")

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread of the parent."""
        self._lock = threading.Lock()


def _rank(decision: Decision) -> int:
    """The level that a decision was made at; the highest where it says none."""
    try:
        return PressureLevel(str((decision.details or {}).get("level")).lower()).rank
    except ValueError:
        return PressureLevel.CRITICAL.rank


def _held(call: Callable[[], Any]) -> Callable[[], Callable[[], Any] | None]:
    """How to come by a callable: weakly, where it is the method of an object that may die."""
    if isinstance(call, MethodType):
        try:
            return weakref.WeakMethod(call)
        except TypeError:
            pass  # of an object that cannot be weakly referenced
    return lambda: call
