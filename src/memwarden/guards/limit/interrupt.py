"""Raise an exception in a running thread, at a point where that does no harm.

CPython raises such an exception where the thread next checks for one: at the end of a call, at a jump backward and at
the start of a function. The point is judged first, while this thread holds the interpreter lock.

Two gaps are left for the end of a block to close. A call in C code may itself raise, and the thread then continues in a
handler with the exception still pending. And on a busy machine the lock may change hands between judging and raising.
"""

from __future__ import annotations

import dis
import enum
import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from memwarden.guards.limit.finally_blocks import in_finally


class Interrupted(BaseException):
    """Stops a block that exceeded its limit. Not an ``Exception``: code that swallows those is stopped, too.

    It never leaves the block: there it becomes :class:`~memwarden.errors.LimitExceeded`.
    """


#: Instructions at the end of which a thread checks for an exception.
_CHECKS = frozenset(
    dis.opmap[name]
    for name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "PRECALL", "RESUME")
    if name in dis.opmap
)


class InterruptSafety(enum.Enum):
    """Judgement on the point at which a thread is."""

    #: In the block, where an exception is ordinary.
    SAFE = enum.auto()
    #: In the block, in something that should be completed: a ``finally``, a handler, the code of a lock.
    PROTECTED = enum.auto()
    #: In the block, at an instruction without a check: which later one raises is not known.
    UNCERTAIN = enum.auto()
    #: Not in the block, or in memwarden's own code: before or after it, or in a coroutine that waits.
    OUTSIDE = enum.auto()


#: Packages with code that holds locks or half-made state between two instructions; code that they call is judged alone.
_PROTECTED = frozenset(
    (
        *("_weakrefset", "asyncio", "concurrent", "contextlib", "importlib", "logging", "multiprocessing", "queue"),
        *("selectors", "socket", "socketserver", "ssl", "subprocess", "tempfile", "threading", "weakref"),
    )
)
#: Methods that callers rely on to complete; an exception in the last one is lost.
_CLEANUP = frozenset(("__exit__", "__aexit__", "__del__"))


def innermost_frame(thread: int) -> FrameType | None:
    """Return the frame that a thread executes; None when it has ended."""
    return sys._current_frames().get(thread)


def handled_exception(thread: int) -> Any:
    """Return the exception that a thread is handling."""
    current = sys._current_exceptions().get(thread)
    return current[1] if isinstance(current, tuple) else current  # Python 3.11 has (type, value, traceback)


def judge(frame: FrameType | None, block: FrameType, entered_at: int, handling: bool) -> InterruptSafety:
    """Return how safe it is to interrupt a thread with the innermost frame ``frame``.

    ``block`` is the frame of the block, ``entered_at`` the instruction there that entered it, ``handling`` whether the
    thread handles an exception that it did not handle when the block was entered.
    """
    inner = frame
    while inner is not None and inner is not block:
        inner = inner.f_back
    if frame is None or inner is None or (package := _package(frame)) == "memwarden":
        return InterruptSafety.OUTSIDE
    if package in _PROTECTED or handling:
        return InterruptSafety.PROTECTED
    inner = frame
    while inner is not block and inner is not None:
        if inner.f_code.co_name in _CLEANUP or in_finally(inner.f_code, inner.f_lasti):
            return InterruptSafety.PROTECTED
        inner = inner.f_back
    if in_finally(block.f_code, block.f_lasti, entered_at):
        return InterruptSafety.PROTECTED
    return InterruptSafety.SAFE if frame.f_code.co_code[frame.f_lasti] in _CHECKS else InterruptSafety.UNCERTAIN


def _package(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name.partition(".")[0].removeprefix("_frozen_") if isinstance(name, str) else ""


class Absorbed(BaseException):
    """Replaces a pending interruption that is no longer wanted, and is caught on the spot.

    CPython can clear a pending exception, too, but before 3.13 it goes on checking for one: each check is slower, and a
    program under a profiler hangs (seen with 3.11).
    """


#: Threads that were interrupted and have not absorbed since.
interrupted_threads: set[int] = set()
_set_async_exc: Callable[[int, type[BaseException]], int] | None = None


def load() -> None:
    """Import ``ctypes`` while there is memory for it. Without it no thread is interrupted."""
    global _set_async_exc
    if _set_async_exc is None:
        try:
            import ctypes

            _set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
            _set_async_exc.argtypes, _set_async_exc.restype = (ctypes.c_ulong, ctypes.py_object), ctypes.c_int
        except (ImportError, AttributeError):
            _set_async_exc = _unavailable


def _unavailable(thread: int, error: type[BaseException]) -> int:
    return 0


def interrupt(thread: int) -> None:
    """Raise :class:`Interrupted` where the thread next checks for an exception."""
    assert _set_async_exc is not None
    interrupted_threads.add(thread)
    _set_async_exc(thread, Interrupted)


def absorber(thread: int) -> Callable[[], object]:
    """Return a C call that raises, at its end, :class:`Absorbed` in this thread in place of what is pending."""
    load()
    assert _set_async_exc is not None
    return functools.partial(_set_async_exc, thread, Absorbed)


def absorb(thread: int) -> None:
    """Clear the pending interruption of the calling thread."""
    if thread in interrupted_threads:
        try:
            absorber(thread)()
            for _ in range(3):
                pass  # it is raised here at the latest
        except (Absorbed, Interrupted):
            pass
        interrupted_threads.discard(thread)
