"""The parent-death signal: SIGKILL for a child when the thread that started it ends (Linux 2.3.15)."""

from __future__ import annotations

import contextlib
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Request SIGKILL for this process when the thread that started it ends.

    Called in the child; ``parent`` is the pid of its starter. Exits with 137 when that process is gone already. Without
    ``ctypes`` and on other systems no signal is requested, and only that check is made.
    """
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(137)
