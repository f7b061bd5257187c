"""Which readers see what on this platform."""

from __future__ import annotations

import sys

from memwarden.protocols import IdentityProbe, Reader


def _lacks_proc(portable: bool) -> bool:
    return portable or sys.platform != "linux"


def own_sources(*, portable: bool = False) -> list[Reader]:
    """This process, its memory group, the machine. ``portable`` chooses psutil's readers on Linux, too."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableReader

        return [PortableReader()]
    from memwarden.readers.cgroup import CgroupReader
    from memwarden.readers.meminfo import MeminfoReader
    from memwarden.readers.process import ProcessReader

    return [MeminfoReader(), ProcessReader(), CgroupReader()]


def tree_source(pid: int, *, portable: bool = False) -> Reader:
    """The tree of a process."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableTree

        return PortableTree(pid)
    from memwarden.readers.tree import TreeReader

    return TreeReader(pid)


def own_probe(*, portable: bool = False) -> IdentityProbe:
    """Who tells processes apart here."""
    if _lacks_proc(portable):
        from memwarden.readers.portable import PortableProbe

        return PortableProbe()
    from memwarden.readers.identity import ProcProbe

    return ProcProbe()
