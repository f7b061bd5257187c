"""Which readers see what on this platform."""

from __future__ import annotations

import sys

from memwarden.protocols import Reader


def own_sources() -> list[Reader]:
    """This process, its memory group, the machine."""
    if sys.platform != "linux":
        from memwarden.readers.portable import PortableReader

        return [PortableReader()]
    from memwarden.readers.cgroup import CgroupReader
    from memwarden.readers.meminfo import MeminfoReader
    from memwarden.readers.process import ProcessReader

    return [MeminfoReader(), ProcessReader(), CgroupReader()]
