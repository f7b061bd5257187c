"""Choice of readers for this platform."""

from __future__ import annotations

import sys
from collections.abc import Callable

from memwarden.protocols import IdentityProbe, Reader
from memwarden.readers.peak import PeakReader, recorded_peak

#: Seconds that a figure which no verdict depends on may be old: a peak, a swapped part, the kinds of memory of a
#: group far below its limit. Figures that are judged are read at each sample.
MAX_AGE = 10.0


def _lacks_proc(portable: bool = False) -> bool:
    return portable or sys.platform != "linux"


def default_readers(*, portable: bool = False) -> list[Reader]:
    """Return readers of this process, its control group and the machine; ``portable`` forces psutil on Linux."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableReader

        return [PortableReader()]
    from memwarden.readers.linux.cgroup import CgroupReader
    from memwarden.readers.linux.meminfo import MeminfoReader
    from memwarden.readers.linux.process import ProcessReader

    return [MeminfoReader(), ProcessReader(max_age=MAX_AGE), CgroupReader(max_age=MAX_AGE)]


def tree_reader(pid: int, *, portable: bool = False) -> Reader:
    """Return a reader of the process tree below ``pid``."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableTree

        return PortableTree(pid)
    from memwarden.readers.linux.tree import TreeReader

    return TreeReader(pid)


def rss_function() -> Callable[[], int] | None:
    """Return a function that reads this process's resident size; None where that is not cheap. Keeps no descriptor."""
    if _lacks_proc():
        return None
    from memwarden.readers.linux.process import ProcessReader

    def rss() -> int:
        reader = ProcessReader()  # a kept one would show the parent in a child after fork
        try:
            return reader.resident()
        finally:
            reader.close()

    return rss


def identity_probe(*, portable: bool = False) -> IdentityProbe:
    """Return the probe that tells processes apart on this platform."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableProbe

        return PortableProbe()
    from memwarden.readers.linux.identity import ProcProbe

    return ProcProbe()


def peak_reader() -> PeakReader:
    """Return the reader of this process's peak mark on this platform."""
    if _lacks_proc():
        from memwarden.readers.portable import PortablePeakReader

        return PortablePeakReader()
    from memwarden.readers.linux.peak_status import StatusPeakReader

    return StatusPeakReader()


def process_peak() -> int:
    """Return the highest resident size of this process in bytes, across resets. Raises :class:`ReadError`."""
    reader = peak_reader()
    try:
        return max(recorded_peak(), reader.read()[0])
    finally:
        reader.close()
