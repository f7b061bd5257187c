"""One measured call or block: peak, growth, duration, and the calls that ran at the same time."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from types import TracebackType
from typing import Any
from weakref import ref

from memwarden.errors import ReadError
from memwarden.guards.measure.call_stats import CallStats
from memwarden.guards.measure.peak_rss import PeakScope, PeakScopes, peak_scopes
from memwarden.model.calls import CallMemory, Method

#: The innermost call of this thread or task, and the link to the one around it. Weak: a call that an interrupt tore
#: out of its ``with`` must not live on here.
_Link = tuple["ref[Measurement]", Any]
_innermost: ContextVar[_Link | None] = ContextVar("memwarden_innermost_call", default=None)
#: At most so many names of concurrent calls are kept.
_MOST_SHARED = 16


class Measurement:
    """Context manager that measures one call; make a new one for each.

    Its figures can be read while it runs and afterwards. Reading raises :class:`~memwarden.errors.ReadError` where
    memory could not be read; measuring never does.
    """

    def __init__(
        self,
        name: str,
        stats: CallStats | None = None,
        on_end: Callable[[CallMemory], object] | None = None,
        scopes: PeakScopes = peak_scopes,
    ) -> None:
        self.name, self._stats, self._on_end, self._scopes = name, stats, on_end, scopes
        #: Type of the exception that the call raised; empty while it runs and where it raised none.
        self.error = ""
        self._scope: PeakScope | None = None
        self._outer: _Link | None = None
        self._failure: ReadError | None = None
        self._shared: set[str] = set()
        self._before = self._after = -1
        self._peak = self._rise = self._growth = 0
        self._seconds = self._started = 0.0
        self._exact = True
        self._nested = self._ended = False

    def __enter__(self) -> Measurement:
        if self._ended or self._scope is not None or self._started:
            raise RuntimeError(f"{self.name}: measures one call only; make another for each (track(…))")
        self.resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.suspend()
        finally:
            self.end() if kind is None else self.end(kind.__name__)

    def resume(self) -> None:
        """Start to measure, or continue after :meth:`suspend`."""
        outer = _innermost.get()
        while outer is not None and ((around := outer[0]()) is None or around._scope is None):
            outer = outer[1]  # that call has ended, and this task or generator outlives it
        self._outer = outer
        try:
            self._open(outer)
        except ReadError as failure:
            self._failure = failure
        except BaseException:  # an interrupt: no __exit__ follows
            self._drop()
            raise
        self._started = perf_counter()

    def _open(self, outer: _Link | None) -> None:
        scopes = self._scopes
        with scopes.lock:
            self._scope = scope = scopes.open(self)
            _innermost.set((scope.owner, outer))
            around: set[object] = {self}
            while outer is not None:
                call = outer[0]()
                around.add(call)
                if call is not None and call._scope is not None and call._stats is self._stats:
                    self._nested = self._stats is not None
                outer = outer[1]
            self._note_concurrent(around)
        if not scope.exact:
            self._exact = False
        if self._before < 0:
            self._before = scope.rss

    def _note_concurrent(self, around: set[object]) -> None:
        """Note the measured calls that run at the same time, neither around this one nor within it."""
        for scope in self._scopes.open_scopes:
            other = scope.owner()
            if isinstance(other, Measurement) and other not in around:
                for one, name in ((self, other.name), (other, self.name)):
                    if len(one._shared) < _MOST_SHARED:
                        one._shared.add(name)

    def suspend(self) -> None:
        """Stop measuring until :meth:`resume`: a generator has yielded."""
        seconds = perf_counter() - self._started
        scope = self._scope
        if scope is None:
            return
        if (innermost := _innermost.get()) is not None and innermost[0] is scope.owner:
            _innermost.set(self._outer)
        try:
            peak, rss = self._scopes.close(scope)
        except ReadError as failure:
            self._failure = failure
        else:
            self._add(scope, peak, rss, seconds)
        self._scope = None

    def _add(self, scope: PeakScope, peak: int, rss: int, seconds: float) -> None:
        if scope.inherited:
            self._before = scope.rss
        self._peak = max(self._peak, peak)
        self._rise = max(self._rise, self._growth + peak - scope.rss)
        self._growth += rss - scope.rss
        self._after = rss
        self._seconds += seconds

    def _drop(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            self._scopes.drop(scope)

    def end(self, error: str = "") -> None:
        """Finish; ``error`` is the type of the exception that the call raised."""
        if self._ended:
            return
        self._drop()
        self._ended, self.error = True, error
        if self._failure is not None or self._after < 0:
            if self._stats is not None:
                self._stats.add_unread(bool(error))
            return
        memory = self.memory
        if self._stats is not None:
            self._stats.add(memory, self._nested)
        if self._on_end is not None:
            self._on_end(memory)

    @property
    def memory(self) -> CallMemory:
        """All figures: up to now while it runs, of the whole call afterwards. Raises :class:`ReadError`."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        before, after, peak = self._before, self._after, self._peak
        rise, growth, seconds = self._rise, self._growth, self._seconds
        scope = self._scope
        if scope is not None:
            now, after = self._scopes.peak(scope)
            before = scope.rss if scope.inherited else before
            peak, rise = max(peak, now), max(rise, growth + now - scope.rss)
            growth, seconds = growth + after - scope.rss, seconds + perf_counter() - self._started
        elif after < 0:
            raise ReadError("call", self.name, "absent", "not started: use it with `with`")
        shared = tuple(sorted(self._shared))
        method: Method = "kernel" if self._exact else "sampled"
        return CallMemory(self.name, before, after, peak, rise, growth, seconds, method, shared, self.error)

    @property
    def peak(self) -> int:
        """Highest resident size of the process, in bytes."""
        return self.memory.peak

    @property
    def rise(self) -> int:
        """Peak above the resident size at the start, in bytes."""
        return self.memory.rise

    @property
    def growth(self) -> int:
        """Resident size at the end less that at the start, in bytes."""
        return self.memory.growth

    @property
    def seconds(self) -> float:
        """Duration."""
        return self._seconds if self._scope is None else self._seconds + perf_counter() - self._started

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' ended' if self._ended else ''}>"
