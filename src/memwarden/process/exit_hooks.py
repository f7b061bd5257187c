"""What is called when the interpreter ends, in children of multiprocessing, too: those leave without ``atexit``."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

_calls: list[tuple[int, Callable[[], None]]] = []
_armed = 0


def call_at_exit(call: Callable[[], None], order: int) -> None:
    """Have it called at the end; a lower ``order`` is called earlier. Nothing happens before :func:`arm`."""
    _calls.append((order, call))


def arm() -> None:
    """This process has something to do at its end. May be called often."""
    global _armed
    if _armed == os.getpid():
        return
    if not _armed:
        atexit.register(_end)
    _armed = os.getpid()
    process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _end, exitpriority=0)


def _end() -> None:
    for _, call in sorted(_calls, key=lambda each: each[0]):
        call()
