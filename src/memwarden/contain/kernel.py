"""Calls that the standard library does not offer, and signals that reach only the process that is meant."""

from __future__ import annotations

import contextlib
import os
import signal

from memwarden.errors import ActionFailed, ReadError, TargetChanged
from memwarden.model.facts import ProcessKey
from memwarden.readers.process import read_stat

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Have the orphans of our descendants given to this process (Linux 3.4). Only for a process that is ours."""
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, AttributeError, OSError):
        return False


def key_of(pid: int) -> ProcessKey:
    """The identity of a living process. Raises :class:`ReadError`."""
    return ProcessKey(pid, read_stat(pid).start)


def send(key: ProcessKey, number: int) -> None:
    """Signal exactly this process.

    The descriptor is opened first and the start time compared after, so a pid that was reused in between
    is never signalled. Raises :class:`TargetChanged` when the process is gone or another one,
    :class:`ActionFailed` when the system refuses.
    """
    with contextlib.ExitStack() as stack:
        fd = None
        try:
            if hasattr(os, "pidfd_open"):
                fd = os.pidfd_open(key.pid)
                stack.callback(os.close, fd)
        except ProcessLookupError:
            raise TargetChanged(f"pid {key.pid} is gone") from None
        except OSError:
            fd = None  # Linux before 5.3: the check below, and then the signal, as close together as can be
        try:
            if read_stat(key.pid).start != key.start:
                raise TargetChanged(f"pid {key.pid} belongs to another process now; nothing was sent")
        except ReadError as error:
            raise TargetChanged(f"pid {key.pid} cannot be identified: {error}") from None
        try:
            if fd is not None:
                signal.pidfd_send_signal(fd, number)
            else:
                os.kill(key.pid, number)
        except ProcessLookupError:
            raise TargetChanged(f"pid {key.pid} is gone") from None
        except OSError as error:
            raise ActionFailed(f"{signal.Signals(number).name} to pid {key.pid}: {error.strerror}") from None


def alive(key: ProcessKey) -> bool:
    """Whether this very process still runs (one that waits to be reaped does not)."""
    try:
        stat = read_stat(key.pid)
    except ReadError:
        return False
    return stat.start == key.start and stat.state not in "ZX"
