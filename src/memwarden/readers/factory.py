"""Which readers see what on this platform."""

from __future__ import annotations

import sys
from collections.abc import Callable

from memwarden.protocols import IdentityProbe, Reader

#: Seconds that a figure which decides nothing may be old: a peak, a swapped part, the kinds of a group that is far
#: from its limit. What is judged is read at each look.
PATIENCE = 10.0


def _lacks_proc(portable: bool) -> bool:
    return portable or sys.platform != "linux"


def own_sources(*, portable: bool = False) -> list[Reader]:
    """This process, its memory group, the machine. ``portable`` chooses psutil's readers on Linux, too."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableReader

        return [PortableReader()]
    from memwarden.readers.linux.cgroup import CgroupReader
    from memwarden.readers.linux.meminfo import MeminfoReader
    from memwarden.readers.linux.process import ProcessReader

    return [MeminfoReader(), ProcessReader(patience=PATIENCE), CgroupReader(patience=PATIENCE)]


def tree_source(pid: int, *, portable: bool = False) -> Reader:
    """The tree of a process."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableTree

        return PortableTree(pid)
    from memwarden.readers.linux.tree import TreeReader

    return TreeReader(pid)


def own_resident() -> Callable[[], int] | None:
    """What gives the resident size of this process; None where nothing does cheaply. Keeps nothing open."""
    if _lacks_proc(False):
        return None
    from memwarden.readers.linux.process import ProcessReader

    def resident() -> int:
        reader = ProcessReader()  # a kept one would go on showing the parent in a child after fork
        try:
            return reader.resident()
        finally:
            reader.close()

    return resident


def own_probe(*, portable: bool = False) -> IdentityProbe:
    """Who tells processes apart here."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableProbe

        return PortableProbe()
    from memwarden.readers.linux.identity import ProcProbe

    return ProcProbe()
