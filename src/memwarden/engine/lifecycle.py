"""The wardens of this process, and what becomes of them at a fork and at the end of the program."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from memwarden.process.fork_hooks import ENGINE, at_fork

#: How long a fork waits for descriptors that are being opened.
FORK_PATIENCE_SECONDS = 1.0


class Mortal(Protocol):
    """What is told of forks and of the end."""

    def stop(self) -> None: ...

    def after_fork(self) -> None:
        """In the child: the threads stayed with the parent, and so do the locks that they hold."""
        ...


_alive: weakref.WeakSet[Mortal] = weakref.WeakSet()
_opening = threading.Lock()
_held_for_fork = False


def add(warden: Mortal) -> None:
    """Have it told, for as long as it exists."""
    _alive.add(warden)


@contextmanager
def opening() -> Iterator[None]:
    """For opening descriptors that are not in their place yet: a fork waits, or its child would have them for good."""
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
    """A program that ends without a word has its last samples written, and what was paused goes on."""
    for warden in list(_alive):
        warden.stop()


at_fork(ENGINE, before=_before, parent=_parent, child=_child)
