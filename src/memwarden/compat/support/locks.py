"""A lock that is open in a forked child, whoever held it in the parent."""

from __future__ import annotations

import os
import threading
import weakref


class Lock:
    """A plain lock for short sections. The thread that held it at a fork does not exist in the child."""

    def __init__(self) -> None:
        self.renew()
        _alive.add(self)

    def renew(self) -> None:
        """A fresh lock, open."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_alive: weakref.WeakSet[Lock] = weakref.WeakSet()


def _child() -> None:
    for lock in list(_alive):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
