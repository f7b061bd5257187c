"""The kernel's peak mark of this process, from ``/proc/self/status``."""

from __future__ import annotations

from memwarden.errors import ReadError
from memwarden.readers.linux.files import KeptFile, kilobytes


class StatusPeakReader:
    """Implements :class:`~memwarden.readers.peak.PeakReader`; 5 µs a read, most of it the kernel's (Linux 6.18)."""

    def __init__(self, path: str = "/proc/self/status") -> None:
        self._file = KeptFile("status", path)

    def read(self) -> tuple[int, int]:
        """Return ``VmHWM`` and ``VmRSS`` in bytes; without a mark (gVisor) the present size stands for it.

        Raises :class:`ReadError`.
        """
        data = self._file.read()
        at = data.find(b"\nVmHWM:")
        try:
            _, peak_kb, _, key, rss_kb, _ = data[at : at + 64].split(None, 5)  # VmRSS follows since Linux 2.6.12
            if at >= 0 and key == b"VmRSS:":  # half the time of two searches
                return int(peak_kb) << 10, int(rss_kb) << 10
        except ValueError:
            pass
        try:
            rss, peak = kilobytes(data, b"\nVmRSS:"), kilobytes(data, b"\nVmHWM:")
        except ValueError:
            rss = None
        if rss is None:
            # The program may have closed all descriptors and another file got this number: reopen ours.
            self._file.fd = -1
            raise ReadError("status", self._file.path, "malformed", "no VmRSS line")
        return rss if peak is None else peak, rss

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()
