"""Exit status of a process that is not a child of this one."""

from __future__ import annotations

import os
import struct

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

#: ``struct pidfd_info`` and its ``PIDFD_GET_INFO`` (Linux 6.13), with ``PIDFD_INFO_EXIT`` (Linux 6.15).
_INFO = struct.Struct("QQ11Ii")
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11
_EXIT = 1 << 3


class ExitStatus:
    """Holds a pidfd of a process, to read its exit status later.

    The kernel keeps the status for holders of a pidfd (Linux 6.15) once the parent has reaped the process.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._fd = os.pidfd_open(pid)
        except (AttributeError, OSError):  # another system, or it is gone already
            self._fd = -1

    def status(self) -> int | None:
        """Return the exit code, or minus the number of the signal that killed it; None while that is not known."""
        if self._fd < 0 or fcntl is None:
            return None
        info = bytearray(_INFO.pack(_EXIT, *(0,) * 13))
        try:
            fcntl.ioctl(self._fd, _GET_INFO, info)
        except OSError:  # an older kernel
            return None
        mask, *_, status = _INFO.unpack(info)
        return os.waitstatus_to_exitcode(status) if mask & _EXIT else None

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
