"""The kernel's peak mark of this process, from ``/proc/self/status``."""

from __future__ import annotations

from memwarden.errors import ReadError
from memwarden.readers.linux.files import KeptFile, pread

#: The lines stand in the first 700 bytes; the list of groups before them may be long.
_USUAL_SIZE = 4096


class StatusPeakReader:
    """Implements :class:`~memwarden.readers.peak.PeakReader`; 4.5 µs a read, most of it the kernel's (Linux 6.18)."""

    def __init__(self, path: str = "/proc/self/status") -> None:
        self._file = KeptFile("status", path)

    def read(self) -> tuple[int, int]:
        """Return ``VmHWM`` and ``VmRSS`` in bytes. Raises :class:`ReadError`."""
        try:
            data = pread(self._file.fd, _USUAL_SIZE, 0)
        except OSError:
            data = b""
        if not 0 < len(data) < _USUAL_SIZE:
            data = self._file.read()  # opens it, reads the rest, or raises
        at = data.find(b"\nVmHWM:")
        try:
            _, peak, _, name, rss, _ = data[at : at + 64].split(None, 5)  # VmRSS follows VmHWM since Linux 2.6.12
            if name == b"VmRSS:" and at >= 0:
                return int(peak) << 10, int(rss) << 10
        except ValueError:
            pass
        return self._read_lines(data)

    def _read_lines(self, data: bytes) -> tuple[int, int]:
        """Find the lines in any order. Without a mark (gVisor) the present size stands for it."""
        found = {}
        for line in data.splitlines():
            name, _, value = line.partition(b":")
            if name in (b"VmHWM", b"VmRSS") and value.endswith(b" kB") and value[:-3].strip().isdigit():
                found[name] = int(value[:-3]) << 10
        if b"VmRSS" not in found:
            # The program may have closed all descriptors and another file got this number: reopen ours.
            self._file.fd = -1
            raise ReadError("status", self._file.path, "malformed", "no VmRSS line")
        return found.get(b"VmHWM", found[b"VmRSS"]), found[b"VmRSS"]

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()
