"""An exception put into a running thread, at a place where it does no harm.

CPython raises such an exception where the thread next looks for one: at the end of a call, at a jump back and at the
begin of a function. Whoever holds the interpreter's lock sees where the thread stands, because nobody moves meanwhile.
So the place is judged first: it must be one where the thread looks.

A gap is left, which whoever ends a block must close: a call in C code may itself raise, and the thread then goes on
to a handler with an exception still to come.
"""

from __future__ import annotations

import dis
import enum
import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from memwarden.guards.limit.finally_blocks import cleaning_up


class Interrupted(BaseException):
    """Ends a block that is past its limit. Not an ``Exception``, so that code which swallows those is ended, too.

    It never leaves the block: there it becomes :class:`~memwarden.errors.LimitExceeded`.
    """


#: Instructions at whose end a thread looks for an exception.
_LOOKS = frozenset(
    dis.opmap[name]
    for name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "PRECALL", "RESUME")
    if name in dis.opmap
)


class InterruptSafety(enum.Enum):
    """Where a thread stands."""

    #: In the block, where an exception is an ordinary thing.
    OPEN = enum.auto()
    #: In the block, and in something that should be finished: a ``finally``, a handler, the innards of a lock.
    SHELTERED = enum.auto()
    #: In the block, at an instruction that does not look for an exception: which one will is not known.
    BUSY = enum.auto()
    #: Not in the block, or in our own code: before or after it, or the block is suspended (a coroutine that waits).
    AWAY = enum.auto()


#: Modules whose own code holds locks or half-made state between two instructions. What they call is judged by itself.
_DELICATE = frozenset(
    (
        *("_weakrefset", "asyncio", "concurrent", "contextlib", "importlib", "logging", "multiprocessing", "queue"),
        *("selectors", "socket", "socketserver", "ssl", "subprocess", "tempfile", "threading", "weakref"),
    )
)
#: Functions that others rely on being run to their end; an exception in the last one is lost.
_FINISHING = frozenset(("__exit__", "__aexit__", "__del__"))


def _package(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name.partition(".")[0].removeprefix("_frozen_") if isinstance(name, str) else ""


def innermost(thread: int) -> FrameType | None:
    """Where a thread is; None when it has ended."""
    return sys._current_frames().get(thread)


def handled(thread: int) -> Any:
    """The exception that a thread is handling."""
    told = sys._current_exceptions().get(thread)
    return told[1] if isinstance(told, tuple) else told  # Python 3.11 tells three things


def place(frame: FrameType | None, block: FrameType, begun_at: int, handled_before: bool) -> InterruptSafety:
    """Where a thread stands whose innermost frame is ``frame``.

    ``block`` is the frame that holds the block, ``begun_at`` the instruction there that began it, ``handled_before``
    whether the exception that is being handled was so when the block began.
    """
    inner = frame
    while inner is not None and inner is not block:
        inner = inner.f_back
    if frame is None or inner is None or (package := _package(frame)) == "memwarden":
        return InterruptSafety.AWAY
    if package in _DELICATE or not handled_before:
        return InterruptSafety.SHELTERED
    inner = frame
    while inner is not block and inner is not None:
        if inner.f_code.co_name in _FINISHING or cleaning_up(inner.f_code, inner.f_lasti):
            return InterruptSafety.SHELTERED
        inner = inner.f_back
    if cleaning_up(block.f_code, block.f_lasti, begun_at):
        return InterruptSafety.SHELTERED
    return InterruptSafety.OPEN if frame.f_code.co_code[frame.f_lasti] in _LOOKS else InterruptSafety.BUSY


class Absorbed(BaseException):
    """Put in the place of an interruption that is no longer wanted, and caught on the spot.

    CPython takes an exception back, too, but before 3.13 goes on believing that there is one: every look for one then
    takes longer, and a program that is being profiled stands still for ever (seen with 3.11).
    """


#: Threads that were interrupted and have not absorbed since.
asked: set[int] = set()
_put: Callable[[int, type[BaseException]], int] | None = None


def prepare() -> None:
    """Load what is needed, while there is memory for it. Without ``ctypes`` nobody is interrupted."""
    global _put
    if _put is None:
        try:
            import ctypes

            _put = ctypes.pythonapi.PyThreadState_SetAsyncExc
            _put.argtypes, _put.restype = (ctypes.c_ulong, ctypes.py_object), ctypes.c_int
        except (ImportError, AttributeError):
            _put = _nobody


def _nobody(thread: int, error: type[BaseException]) -> int:
    return 0


def interrupt(thread: int) -> None:
    """Raise :class:`Interrupted` where the thread next looks for an exception."""
    assert _put is not None
    asked.add(thread)
    _put(thread, Interrupted)


def absorber(thread: int) -> Callable[[], object]:
    """Raises, as a C call and at its end, :class:`Absorbed` in this thread instead of what is still to come."""
    prepare()
    assert _put is not None
    return functools.partial(_put, thread, Absorbed)


def absorb(thread: int) -> None:
    """Have nothing of ours to come any more in this thread, the calling one."""
    if thread in asked:
        try:
            absorber(thread)()
            for _ in range(3):
                pass  # it is raised here at the latest
        except Absorbed:
            pass
        asked.discard(thread)
