"""An exception put into a running thread, at a place where it does no harm.

CPython raises such an exception where the thread stands: between two instructions when it runs Python code, after the
call when it is in C code. Whoever holds the interpreter's lock sees where that is, because nobody moves meanwhile. So
the place is judged first, the exception is set, and the place is looked at again: had the interpreter changed hands in
between, the exception is taken back.
"""

from __future__ import annotations

import enum
import sys
from types import FrameType
from typing import Any

from memwarden.guards.cleanups import cleaning_up


class Interrupted(BaseException):
    """Ends a block that is past its limit. Not an ``Exception``, so that code which swallows those is ended, too.

    It never leaves the block: there it becomes :class:`~memwarden.errors.LimitExceeded`.
    """


class Place(enum.Enum):
    """Where a thread stands."""

    #: In the block, where an exception is an ordinary thing.
    OPEN = enum.auto()
    #: In the block, and in something that should be finished: a ``finally``, a handler, the innards of a lock.
    SHELTERED = enum.auto()
    #: Not in the block: before or after it, or the block is suspended (a coroutine that waits).
    AWAY = enum.auto()


#: Modules whose own code holds locks or half-made state between two instructions. What they call is judged by itself.
_DELICATE = frozenset(
    (
        *("_weakrefset", "asyncio", "concurrent", "contextlib", "importlib", "logging", "memwarden", "multiprocessing"),
        *("queue", "selectors", "socket", "socketserver", "ssl", "subprocess", "tempfile", "threading", "weakref"),
    )
)
#: Functions that others rely on being run to their end; an exception in the last one is lost.
_FINISHING = frozenset(("__exit__", "__aexit__", "__del__"))


def _delicate(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0].removeprefix("_frozen_") in _DELICATE


def innermost(thread: int) -> FrameType | None:
    """Where a thread is; None when it has ended."""
    return sys._current_frames().get(thread)


def handled(thread: int) -> Any:
    """The exception that a thread is handling."""
    told = sys._current_exceptions().get(thread)
    return told[1] if isinstance(told, tuple) else told  # Python 3.11 tells three things


def place(frame: FrameType | None, block: FrameType, begun_at: int, handled_before: bool) -> Place:
    """Where a thread stands whose innermost frame is ``frame``.

    ``block`` is the frame that holds the block, ``begun_at`` the instruction there that began it, ``handled_before``
    whether the exception that is being handled was so when the block began.
    """
    inner = frame
    while inner is not None and inner is not block:
        inner = inner.f_back
    if frame is None or inner is None:
        return Place.AWAY
    if _delicate(frame) or not handled_before:
        return Place.SHELTERED
    inner = frame
    while inner is not block and inner is not None:
        if inner.f_code.co_name in _FINISHING or cleaning_up(inner.f_code, inner.f_lasti):
            return Place.SHELTERED
        inner = inner.f_back
    return Place.SHELTERED if cleaning_up(block.f_code, block.f_lasti, begun_at) else Place.OPEN


class _Setter:
    """``PyThreadState_SetAsyncExc``, or nothing where this Python cannot be asked."""

    def __init__(self) -> None:
        self._call: Any = None
        try:
            import ctypes

            self._call = ctypes.pythonapi.PyThreadState_SetAsyncExc
            self._call.argtypes, self._call.restype = (ctypes.c_ulong, ctypes.py_object), ctypes.c_int
            self._nothing = ctypes.py_object()  # a NULL
        except (ImportError, AttributeError):
            pass

    def put(self, thread: int) -> bool:
        """Have :class:`Interrupted` raised; False where that cannot be."""
        return self._call is not None and self._call(thread, Interrupted) == 1

    def take_back(self, thread: int) -> None:
        """As if nothing had been asked, when it has not been raised yet."""
        if self._call is not None:
            self._call(thread, self._nothing)


_setter: _Setter | None = None


def prepare() -> None:
    """Load what is needed, while there is memory for it."""
    global _setter
    if _setter is None:
        _setter = _Setter()


def interrupt(thread: int, frame: FrameType) -> bool:
    """Raise :class:`Interrupted` where ``frame``, the innermost of the thread, stands; False when it has moved on."""
    assert _setter is not None
    stands = frame.f_lasti
    if not _setter.put(thread):
        return False
    if innermost(thread) is frame and frame.f_lasti == stands:
        return True
    _setter.take_back(thread)
    return False


def take_back(thread: int) -> None:
    """Take back what has not been raised yet."""
    if _setter is not None:
        _setter.take_back(thread)
