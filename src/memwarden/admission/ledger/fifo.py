"""Named pipes beside the reservation file, which wake waiting processes."""

from __future__ import annotations

import contextlib
import os


def fifo_path(path: str, ticket: int) -> str:
    """Return the path of the pipe of a ticket; ``path`` is the reservation file's."""
    return f"{path}.{ticket:x}"


def create_fifo(path: str, ticket: int) -> int:
    """Create a waiter's pipe, and return a descriptor of it. Raises ``OSError``."""
    try:
        os.mkfifo(fifo_path(path, ticket), 0o600)
        # Also for writing: a pipe without a writer would be readable all the time.
        return os.open(fifo_path(path, ticket), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        remove_fifo(path, ticket)
        raise


def remove_fifo(path: str, ticket: int) -> None:
    """Remove a waiter's pipe."""
    with contextlib.suppress(OSError):
        os.unlink(fifo_path(path, ticket))


def wake(path: str, ticket: int) -> None:
    """Wake the waiter with this ticket, if there is one."""
    with contextlib.suppress(OSError):
        fd = os.open(fifo_path(path, ticket), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, b"!")
        finally:
            os.close(fd)


def drain(fd: int) -> None:
    """Read away the wake-ups."""
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 4096)
