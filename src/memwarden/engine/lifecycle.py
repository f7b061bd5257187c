"""The wardens of this process, at a fork and at its exit."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from memwarden.process.fork_hooks import ENGINE, ForkAware, at_fork

#: A fork waits so long at most for descriptors that are being opened.
FORK_PATIENCE_SECONDS = 1.0


class ForkAndExitAware(ForkAware, Protocol):
    """A part that is stopped at exit, and renewed in a child."""

    def stop(self) -> None: ...


_alive: weakref.WeakSet[ForkAndExitAware] = weakref.WeakSet()
_opening = threading.Lock()
_held_for_fork = False


def add(warden: ForkAndExitAware) -> None:
    """Call its methods at a fork and at exit, for as long as it exists."""
    _alive.add(warden)


@contextmanager
def opening() -> Iterator[None]:
    """Delay a fork while descriptors are opened, or its child would keep copies for ever."""
    with _opening:
        yield


def _before() -> None:
    global _held_for_fork
    _held_for_fork = _opening.acquire(timeout=FORK_PATIENCE_SECONDS)


def _parent() -> None:
    if _held_for_fork:
        _opening.release()


def _child() -> None:
    global _opening
    _opening = threading.Lock()
    for warden in list(_alive):
        warden.after_fork()


@atexit.register
def _end() -> None:
    """Write the last samples, and resume what was paused."""
    for warden in list(_alive):
        warden.stop()


at_fork(ENGINE, before=_before, parent=_parent, child=_child)
