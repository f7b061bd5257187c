"""Signals that reach only the process that is meant."""

from __future__ import annotations

import contextlib
import os
import signal

from memwarden.errors import ActionFailed, ReadError, TargetChanged
from memwarden.model.facts import ProcessKey
from memwarden.protocols import IdentityProbe

#: The signal that cannot be handled. Windows has no SIGKILL; there Python kills a process at once by any signal.
KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
#: The signals that suspend a process and continue it; None on Windows, which has none.
STOP: int | None = getattr(signal, "SIGSTOP", None)
CONTINUE: int | None = getattr(signal, "SIGCONT", None)


def known(*names: str) -> tuple[signal.Signals, ...]:
    """Return those of the signals that this system has."""
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


def send(key: ProcessKey, number: int, probe: IdentityProbe) -> None:
    """Signal exactly this process.

    The descriptor is opened first and the identity compared after, so a pid that was reused in between is
    never signalled. Raises :class:`TargetChanged` when the process is gone or another one,
    :class:`ActionFailed` when the system refuses.
    """
    deliver = getattr(signal, "pidfd_send_signal", None)  # Linux
    with contextlib.ExitStack() as stack:
        fd = None
        try:
            if deliver is not None and hasattr(os, "pidfd_open"):
                fd = os.pidfd_open(key.pid)
                stack.callback(os.close, fd)
        except ProcessLookupError:
            raise TargetChanged(f"pid {key.pid} is gone") from None
        except OSError:
            fd = None  # Linux before 5.3: the check below, and then the signal, as close together as can be
        try:
            if probe.key_of(key.pid) != key:
                raise TargetChanged(f"pid {key.pid} belongs to another process now; nothing was sent")
        except ReadError as error:
            raise TargetChanged(f"pid {key.pid} cannot be identified: {error}") from None
        try:
            if fd is not None and deliver is not None:
                deliver(fd, number)
            else:
                os.kill(key.pid, number)
        except ProcessLookupError:
            raise TargetChanged(f"pid {key.pid} is gone") from None
        except OSError as error:
            raise ActionFailed(f"{signal.Signals(number).name} to pid {key.pid}: {error.strerror}") from None
