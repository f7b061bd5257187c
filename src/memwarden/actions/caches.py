"""Caches of the program that may be cleared when memory is short."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple, Protocol

from memwarden.actions.rss_delta import Resident, RssDelta, as_text
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


class _Cache(NamedTuple):
    """One registration. ``clear`` and ``size`` return the callables, or None if there is none (any more)."""

    name: str
    level: PressureLevel
    clear: Callable[[], Callable[[], object] | None]
    size: Callable[[], Callable[[], int] | None]
    most: int | None


class Caches:
    """A registry of caches, and the action that clears them: the cheapest first.

    ``level`` is the pressure level from which on a cache may be cleared: MODERATE for one that is cheap to fill again,
    CRITICAL for an expensive one. A decision with a lower ``details["level"]`` leaves it alone; one without a level
    clears all. Methods and lru functions are referenced weakly; other callables (a function, a lambda, the ``clear``
    of a dict) are kept until they are unregistered.

    Clearers are called on the thread that calls actions. The outcome names one that raises, and the others are cleared
    all the same. Afterwards the allocator is trimmed, if possible: until then it keeps most of the freed memory. Safe
    to use from any thread, and in a child after fork.
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
        """Register ``clear`` to be called when memory is short; return a function that unregisters it.

        ``size`` returns the number of entries: an empty cache is left alone. With ``most``, its maximum, a cache that
        fills explains a rise to the leak verdict of this program; ``size`` is then called at each sample. Raises
        :class:`SettingsError` for an argument that cannot be called.
        """
        if most is not None and (size is None or most <= 0):
            raise SettingsError(f"cache {name!r}: most={most!r} needs a number above 0, and size= to go with it")
        for each in (clear, size):
            if each is not None and not callable(each):
                raise SettingsError(f"cache {name!r}: {each!r} cannot be called; register the method that clears it")
        cache = _Cache(name, level, _reference(clear), _reference(size), most)
        with self._lock:
            self._caches = sorted([*self._caches, cache], key=lambda each: each.level.rank)

        def remove() -> None:
            with self._lock:
                self._caches = [each for each in self._caches if each is not cache]

        return remove

    def register_lru(
        self, function: LruCached, name: str | None = None, *, level: PressureLevel = PressureLevel.HIGH
    ) -> Callable[[], None]:
        """Register the cache of a ``functools.lru_cache`` function; return a function that unregisters it."""
        if not hasattr(function, "cache_clear") or not hasattr(function, "cache_info"):
            raise SettingsError(f"{function!r} has no cache: it is not wrapped by functools.lru_cache")
        reference = weakref.ref(getattr(function.cache_clear, "__self__", function))

        def size() -> int:
            alive = reference()
            return 0 if alive is None else alive.cache_info().currsize

        called = name or str(getattr(function, "__qualname__", function))
        most = function.cache_info().maxsize or None
        return self.register(function.cache_clear, called, level=level, size=size, most=most)

    @property
    def names(self) -> tuple[str, ...]:
        """Registered caches that still exist, in the order of clearing."""
        return tuple(cache.name for cache in self._living())

    def fills(self) -> list[CacheFill]:
        """Return the fill of each cache that has a maximum."""
        sizes = [(cache.size(), cache.most) for cache in self._living() if cache.most]
        return [CacheFill(size(), most) for size, most in sizes if size is not None]

    def _living(self) -> list[_Cache]:
        with self._lock:
            self._caches = [cache for cache in self._caches if cache.clear() is not None]
            return self._caches

    def run(self, decision: Decision) -> Outcome:
        start, returned = time.monotonic(), RssDelta(self._resident)
        cleared: list[str] = []
        failed: list[str] = []
        for cache in self._living():
            if cache.level.rank <= _rank(decision):
                try:
                    self._clear(cache, cleared)
                except (Exception, SystemExit) as error:  # noqa: BLE001 - the others are to be cleared all the same
                    failed.append(f"{cache.name} raised {error!r}")
        if not cleared and not failed:
            return Outcome(decision=decision, done=False, message="no registered cache has an entry to clear")
        parts = [f"cleared {', '.join(cleared)}"] if cleared else []
        if cleared:
            try:
                trim_allocator()
            except ActionFailed:
                pass  # what the allocator returns by itself is measured all the same
            parts.append(as_text(returned.bytes()))
        message = "; ".join([*parts, *failed])
        return Outcome(decision=decision, done=bool(cleared), message=message, seconds=time.monotonic() - start)

    def _clear(self, cache: _Cache, cleared: list[str]) -> None:
        clear, size = cache.clear(), cache.size()
        count = None if size is None else size()
        if clear is not None and count != 0:
            clear()
            cleared.append(cache.name if count is None else f"{cache.name} ({count} entries)")

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread of the parent."""
        self._lock = threading.Lock()


def _rank(decision: Decision) -> int:
    """Return the rank of a decision's level; the highest if it has none."""
    try:
        return PressureLevel(str((decision.details or {}).get("level")).lower()).rank
    except ValueError:
        return PressureLevel.CRITICAL.rank


def _reference(call: Callable[[], Any] | None) -> Callable[[], Any]:
    """Return a reference to a callable: a weak one to the method of an object."""
    try:
        if isinstance(call, MethodType):
            return weakref.WeakMethod(call)
        owner, name = weakref.ref(call.__self__), call.__name__  # type: ignore[union-attr]
        return lambda: getattr(owner(), name, None)
    except (AttributeError, TypeError):
        return lambda: call  # no method, or one of an object that cannot be weakly referenced
