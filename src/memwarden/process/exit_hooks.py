"""Hooks for the exit of the interpreter, also in children of multiprocessing, which do not run ``atexit``."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

_calls: list[tuple[int, Callable[[], None]]] = []
_armed = 0


def call_at_exit(call: Callable[[], None], order: int) -> None:
    """Register a call for the exit; a lower ``order`` is called earlier. Nothing is called before :func:`arm`."""
    _calls.append((order, call))


def arm() -> None:
    """Call the hooks when this process exits. May be called often."""
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
