"""The highest resident size of this process, true also after the kernel's mark was set back.

Linux keeps one mark for a process (``VmHWM``; ``ru_maxrss`` shows the same). Whoever measures the peak of a part of
the program (:mod:`memwarden.guards.measure.peak_rss`) sets it back to what is held now, and with it goes what it said before. So
what it said is remembered here first, and every reader in memwarden shows the larger of the two. Other tools see the
kernel's mark alone, and so does a parent that asks with ``wait4`` what its child took at most.
"""

from __future__ import annotations

import sys
from typing import Protocol

from memwarden.errors import ReadError
from memwarden.process.fork_hooks import READERS, at_fork
from memwarden.readers.linux.files import KeptFile, pread

#: The figures stand in the first 700 bytes; before them a list of groups may be long.
_ENOUGH = 4096
#: The largest peak that a mark showed before it was set back; 0: it never was.
_remembered = 0


def remember(peak: int) -> None:
    """What the mark says, in bytes, before it is set back."""
    global _remembered
    if peak > _remembered:
        _remembered = peak


def remembered() -> int:
    """What marks that were set back have said at most, in bytes; 0 where none was."""
    return _remembered


def _child() -> None:
    global _remembered
    _remembered = 0  # the mark of a child begins with what it holds, too


at_fork(READERS, child=_child)


class HighWater(Protocol):
    """Reads the mark of this process."""

    def read(self) -> tuple[int, int]:
        """The mark and the resident size now, in bytes, of one moment. Raises :class:`ReadError`."""
        ...

    def close(self) -> None:
        """Give descriptors back; the next read opens them again, as after a fork it must."""
        ...


class StatusHighWater:
    """Reads it in ``/proc/self/status``: 4.5 µs, most of it the kernel's (Linux 6.18)."""

    def __init__(self, path: str = "/proc/self/status") -> None:
        self._file = KeptFile("status", path)

    def read(self) -> tuple[int, int]:
        """See :class:`HighWater`."""
        try:
            data = pread(self._file.fd, _ENOUGH, 0)
        except OSError:
            data = b""
        if not 0 < len(data) < _ENOUGH:
            data = self._file.read()  # which opens it, reads on, or says what is wrong
        at = data.find(b"\nVmHWM:")
        try:
            _, peak, _, name, rss, _ = data[at : at + 64].split(None, 5)  # the next line is VmRSS: since Linux 2.6.12
            if name == b"VmRSS:" and at >= 0:
                return int(peak) << 10, int(rss) << 10
        except ValueError:
            pass
        return self._read_apart(data)

    def _read_apart(self, data: bytes) -> tuple[int, int]:
        """Wherever the lines stand. Without a mark (gVisor) what is held now stands for it."""
        found = {}
        for line in data.splitlines():
            name, _, value = line.partition(b":")
            if name in (b"VmHWM", b"VmRSS") and value.endswith(b" kB") and value[:-3].strip().isdigit():
                found[name] = int(value[:-3]) << 10
        if b"VmRSS" not in found:
            # Perhaps the program has closed all descriptors, and another file has ours: find our own again.
            self._file.fd = -1
            raise ReadError("status", self._file.path, "malformed", "no VmRSS line")
        return found.get(b"VmHWM", found[b"VmRSS"]), found[b"VmRSS"]

    def close(self) -> None:
        """See :class:`HighWater`."""
        self._file.close()


def own_high_water() -> HighWater:
    """Who reads it on this system."""
    if sys.platform != "linux":
        from memwarden.readers.portable import PortableHighWater

        return PortableHighWater()
    return StatusHighWater()


def process_peak() -> int:
    """The most that this process ever held, in bytes, whoever has set the mark back. Raises :class:`ReadError`."""
    water = own_high_water()
    try:
        return max(_remembered, water.read()[0])
    finally:
        water.close()
