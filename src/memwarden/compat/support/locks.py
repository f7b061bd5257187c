"""A lock that is open in a forked child, even where another thread held it in the parent."""

from __future__ import annotations

import threading

from memwarden.process.fork_hooks import reset_after_fork


class Lock:
    """A plain lock for short sections. A thread that held it at a fork does not exist in the child."""

    def __init__(self) -> None:
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Replace it by a fresh lock, open."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
