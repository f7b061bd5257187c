"""One call or block while it runs: what it holds, what runs beside it, and in the end one value of it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import perf_counter
from types import TracebackType
from typing import Any
from weakref import ref

from memwarden.errors import ReadError
from memwarden.guards.measure.call_stats import CallStats
from memwarden.guards.measure.peak_rss import PeakScope, PeakScopes, marks
from memwarden.model.calls import CallMemory, Method

#: The innermost call of this thread or task, and what is around it. Held weakly: a call that an interrupt has torn out
#: of its ``with`` must not live on here.
_Link = tuple["ref[Measurement]", Any]
_innermost: ContextVar[_Link | None] = ContextVar("memwarden_innermost_call", default=None)
#: Names of others that one call remembers.
_MOST_SHARED = 16


class Measurement:
    """What is measured by ``with``. It measures one call: for another one make another.

    Its figures can be asked for while it runs, and stay afterwards. Asking raises
    :class:`~memwarden.errors.ReadError` where nothing could be read; measuring itself never raises that.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_before",
        "_begun",
        "_ended",
        "_exact",
        "_growth",
        "_mark",
        "_marks",
        "_on_end",
        "_outer",
        "_peak",
        "_rise",
        "_seconds",
        "_shared",
        "_tally",
        "_trouble",
        "_within",
        "error",
        "name",
    )

    def __init__(
        self,
        name: str,
        tally: CallStats | None = None,
        on_end: Callable[[CallMemory], object] | None = None,
        board: PeakScopes = marks,
    ) -> None:
        self.name, self._tally, self._on_end, self._marks = name, tally, on_end, board
        #: The type of the exception that ended it; empty while it runs and where none did.
        self.error = ""
        self._mark: PeakScope | None = None
        self._outer: _Link | None = None
        self._trouble: ReadError | None = None
        self._shared: set[str] | None = None
        self._before = self._after = -1
        self._peak = self._rise = self._growth = 0
        self._seconds = self._begun = 0.0
        self._exact = True
        self._within = self._ended = False

    def __enter__(self) -> Measurement:
        if self._ended or self._mark is not None or self._begun:
            raise RuntimeError(f"{self.name}: one of these measures one call; make another for each (track(…))")
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
        """Begin to measure, or go on after :meth:`suspend`."""
        outer = _innermost.get()
        while outer is not None and ((around := outer[0]()) is None or around._mark is None):
            outer = outer[1]  # that one has ended, and this task or generator lives on
        self._outer = outer
        try:
            self._open(outer)
        except ReadError as trouble:
            self._trouble = trouble
        except BaseException:  # an interrupt: nobody will come to close it
            self._drop()
            raise
        self._begun = perf_counter()

    def _open(self, outer: _Link | None) -> None:
        board = self._marks
        with board.lock:
            self._mark = mark = board.open(self)
            _innermost.set((mark.owner, outer))
            around = 1
            each = outer
            while each is not None:
                call = each[0]()
                if call is not None and call._mark is not None:
                    around += 1
                    if call._tally is self._tally:
                        self._within = self._tally is not None
                each = each[1]
            if len(board.marks) - board.background != around:
                self._meet(outer)
        if not mark.exact:
            self._exact = False
        if self._before < 0:
            self._before = mark.rss

    def _meet(self, outer: _Link | None) -> None:
        """Note who runs beside it: neither around it nor within it."""
        around: set[object] = {self}
        while outer is not None:
            around.add(outer[0]())
            outer = outer[1]
        for mark in self._marks.marks:
            other = mark.owner()
            if isinstance(other, Measurement) and other not in around:
                self._note(other.name)
                other._note(self.name)

    def _note(self, name: str) -> None:
        if self._shared is None:
            self._shared = set()
        if len(self._shared) < _MOST_SHARED:
            self._shared.add(name)

    def suspend(self) -> None:
        """Stop measuring for now: a generator has yielded."""
        seconds = perf_counter() - self._begun
        mark = self._mark
        if mark is None:
            return
        if (innermost := _innermost.get()) is not None and innermost[0] is mark.owner:
            _innermost.set(self._outer)
        try:
            peak, rss = self._marks.close(mark)
        except ReadError as trouble:
            self._trouble = trouble
        except BaseException:  # an interrupt
            self._drop()
            raise
        else:
            self._take(mark, peak, rss, seconds)
        self._mark = None

    def _take(self, mark: PeakScope, peak: int, rss: int, seconds: float) -> None:
        if mark.inherited:
            self._before = mark.rss
        self._peak = max(self._peak, peak)
        self._rise = max(self._rise, self._growth + peak - mark.rss)
        self._growth += rss - mark.rss
        self._after = rss
        self._seconds += seconds

    def _drop(self) -> None:
        mark, self._mark = self._mark, None
        if mark is not None:
            self._marks.drop(mark)

    def end(self, error: str = "") -> None:
        """It is over; ``error`` is the type of the exception that ended it."""
        if self._ended:
            return
        if self._mark is not None:
            self._drop()
        self._ended, self.error = True, error
        if self._trouble is not None or self._after < 0:
            if self._tally is not None:
                self._tally.add_unread(bool(error))
            return
        memory = self.memory
        if self._tally is not None:
            self._tally.add(memory, self._within)
        if self._on_end is not None:
            self._on_end(memory)

    @property
    def memory(self) -> CallMemory:
        """Everything as one value: up to now while it runs, of all of it afterwards. Raises :class:`ReadError`."""
        if self._trouble is not None:
            raise self._trouble.with_traceback(None)
        before, after, peak = self._before, self._after, self._peak
        rise, growth, seconds = self._rise, self._growth, self._seconds
        mark = self._mark
        if mark is not None:
            now, after = self._marks.peak(mark)
            before = mark.rss if mark.inherited else before
            peak, rise = max(peak, now), max(rise, growth + now - mark.rss)
            growth, seconds = growth + after - mark.rss, seconds + perf_counter() - self._begun
        elif after < 0:
            raise ReadError("call", self.name, "absent", "it has not begun: use it with `with`")
        shared = () if self._shared is None else tuple(sorted(self._shared))
        method: Method = "kernel" if self._exact else "sampled"
        return CallMemory(self.name, before, after, peak, rise, growth, seconds, method, shared, self.error)

    @property
    def peak(self) -> int:
        """The most that was resident in the process, in bytes."""
        return self.memory.peak

    @property
    def rise(self) -> int:
        """How far that was above what was resident at the beginning, in bytes."""
        return self.memory.rise

    @property
    def growth(self) -> int:
        """What stayed, in bytes."""
        return self.memory.growth

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self._seconds if self._mark is None else self._seconds + perf_counter() - self._begun

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{' ended' if self._ended else ''}>"
