"""Which readers see what on this platform."""

from __future__ import annotations

import sys

from memwarden.protocols import Reader

#: Seconds that a figure which decides nothing may be old: a peak, a swapped part, the kinds of a group that is far
#: from its limit. What is judged is read at each look.
PATIENCE = 5.0


def own_sources() -> list[Reader]:
    """This process, its memory group, the machine."""
    if sys.platform != "linux":
        from memwarden.readers.portable import PortableReader

        return [PortableReader()]
    from memwarden.readers.cgroup import CgroupReader
    from memwarden.readers.meminfo import MeminfoReader
    from memwarden.readers.process import ProcessReader

    return [MeminfoReader(), ProcessReader(patience=PATIENCE), CgroupReader(patience=PATIENCE)]
