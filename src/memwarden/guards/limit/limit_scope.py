"""One entry into a limit: it counts what a block or call takes, and raises when that is too much."""

from __future__ import annotations

import dis
import errno
import sys
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

from memwarden.errors import CeilingUnavailable, LimitExceeded
from memwarden.guards.limit.interrupt import Interrupted
from memwarden.guards.limit.limit_monitor import monitor
from memwarden.guards.limit.limited_region import LEEWAY, LimitedRegion
from memwarden.guards.limit.proc_files import read_memory
from memwarden.model.units import size_text


class LimitScope:
    """A block under a limit. Sizes are bytes: growth since the entry, or use of the process for an absolute limit."""

    def __init__(
        self, name: str, limit: int, *, absolute: bool = False, refuse: bool = True, leeway: int = LEEWAY
    ) -> None:
        self.name, self._refuse, self._leeway = name, refuse, leeway
        self.region = LimitedRegion(name, limit, absolute)
        self._carried = 0
        #: Call this first when an exception came out of the block, see :meth:`LimitMonitor.enter`.
        self.free_reserve: Callable[[], object] = int
        #: The frame of the ``with`` statement that entered it.
        self.frame: FrameType | None = None
        #: Whether it raised :class:`LimitExceeded` for its own limit.
        self.exceeded = False

    @property
    def limit(self) -> int:
        """The limit."""
        return self.region.limit

    @property
    def peak(self) -> int:
        """The highest use in a sample so far; samples are 1 to 20 ms apart."""
        return max(0, self.region.peak)

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        """Call a function under the limit. Raises :class:`LimitExceeded`, and what the function raises."""
        self.enter(sys._getframe())
        # A pending interruption is raised as leaving starts, so leaving may be repeated.
        try:
            result = function(*args, **options)
        except BaseException as error:
            try:
                self.free_reserve()
                self._leave(error)
            except Interrupted:
                self._leave(error)
            raise
        try:
            self._leave(None)
        except Interrupted as late:
            self._leave(late)
        return result

    def enter(self, frame: FrameType, *, by_helper: bool = False) -> None:
        """Enter the block of ``frame``. Raises :class:`LimitExceeded` when an absolute limit is exceeded already."""
        if sys.platform != "linux":
            raise CeilingUnavailable("memory_limit: needs Linux for now; `memwarden.watch()` and `Warden` work here")
        region = self.region
        self.free_reserve = monitor.enter(
            region, frame, refuse=self._refuse, carried=self._carried, leeway=self._leeway, by_helper=by_helper
        )
        if region.absolute and (used := read_memory()[0]) > region.limit:
            monitor.leave(region)
            raise self._error(used, " before it started")

    def leave(self, error: BaseException | None) -> None:
        """Leave the block, with the exception that came out of it. Raises :class:`LimitExceeded`."""
        try:
            self._leave(error)
        except Interrupted:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        """Raises :class:`LimitExceeded` when it exceeded its limit, and no exception of its own is on its way."""
        region = self.region
        self._carried = taken = monitor.leave(region)
        if region.refusing and _refused(error):
            raise self._error(region.peak, ": an allocation was refused") from error
        if region.exceeded is not None and (error is None or _interrupted(error)):
            # In no variable: the error has this frame, and a cycle would keep the block's memory until a collection.
            if isinstance(error, Interrupted):
                raise self._error(region.exceeded).with_traceback(error.__traceback__) from None
            raise self._error(region.exceeded) from error
        if error is None and taken > region.limit:
            raise self._error(taken)

    def _error(self, used: int, how: str = "") -> LimitExceeded:
        region = self.region
        self.exceeded = True
        kind = "absolute " if region.absolute else ""
        counted = "used by the process" if region.absolute else "taken by this block"
        return LimitExceeded(
            f"exceeded the {kind}{size_text(region.limit)} limit of {self.name}{how} ({size_text(max(0, used))}"
            f" {counted}); raise limit= or give it less work at a time",
            limit=region.limit,
            used=max(0, used),
        )


def _interrupted(error: BaseException) -> bool:
    """Return whether it is the interruption, or an error that the block's code raised because of it."""
    seen = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        if isinstance(each, Interrupted):
            return True
        seen.add(id(each))
        each = each.__cause__ or each.__context__
    return False


def _refused(error: BaseException | None) -> bool:
    """Return whether it reports a failed allocation, and was not raised by a ``raise`` statement."""
    if not isinstance(error, MemoryError) and not (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return False
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_lasti < 0:
        return False
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] not in ("RAISE_VARARGS", "RERAISE")
