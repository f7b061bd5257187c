"""What the machine and our memory groups have left, and what the processes in a ledger hold."""

from __future__ import annotations

import sys
from collections.abc import Set
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memwarden.assess.pressure import constraints
from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Constraint
from memwarden.model.sample import Sample
from memwarden.protocols import IdentityProbe, Reader
from memwarden.readers.collect import collect
from memwarden.readers.linux.process import parse_statm
from memwarden.readers.linux.statm import StatmFile

if TYPE_CHECKING:
    from memwarden.readers.linux.cgroup import CgroupReader


#: How old the limits may be in a quick look.
_QUICK_SECONDS = 0.5


class HeadroomReading(NamedTuple):
    """One look: the limit that leaves least, and the lowest one. None where nothing is known."""

    nearest: Constraint | None
    smallest: Constraint | None


class Headroom(Protocol):
    """Where a ledger's figures come from; a test brings its own."""

    def look(self, quick: bool = False) -> HeadroomReading:
        """What is left. A quick look may find less than there is."""
        ...

    def held(self, who: ProcessKey) -> int | None:
        """The private memory of this very process, None where that cannot be known."""
        ...

    def forget_all_but(self, who: Set[ProcessKey]) -> None: ...

    def after_fork(self) -> None: ...


class SystemHeadroom:
    """The machine and the own path of memory groups, read anew at each look; processes by ``statm``, kept open.

    What a process holds is its anonymous memory: file pages that it maps can be reclaimed, and are in no headroom.
    """

    def __init__(self, probe: IdentityProbe, proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup") -> None:
        self._probe, self._proc = probe, proc
        self._linux = sys.platform == "linux"
        self._readers: list[Reader]
        self._groups: CgroupReader | None = None
        if self._linux:
            from memwarden.readers.linux.cgroup import CgroupReader
            from memwarden.readers.linux.meminfo import MeminfoReader

            self._groups = CgroupReader(None, proc, sys_fs_cgroup, max_age=_QUICK_SECONDS)
            self._readers = [MeminfoReader(proc), self._groups]
        else:
            from memwarden.readers.factory import default_readers

            self._readers = default_readers()
        self._last = HeadroomReading(None, None)
        self._files: dict[ProcessKey, StatmFile] = {}

    def look(self, quick: bool = False) -> HeadroomReading:
        """The limits as they are now. A process's own address space is not among them: others have another.

        A quick look takes the groups' usage as if none of it could be reclaimed, which costs a tenth.
        """
        if quick and self._groups is not None and (seen := self._groups.usages()) is not None:
            left = seen.headroom
            facts = collect(self._readers[:1])
            found = constraints(Sample(0.0, 0.0, system=facts.get("system")))
            if left is not None and (smallest := self._last.smallest) is not None:
                found.append(Constraint(smallest.limit, smallest.limit.bytes - left))
            if found:
                return HeadroomReading(min(found, key=_headroom), self._last.smallest)
        if self._groups is None:
            facts = collect(self._readers)
            groups = facts.get("cgroups", ())
        else:
            facts = collect(self._readers[:1])
            try:
                groups, _ = self._groups.sample()
            except ReadError:
                groups = ()  # no memory controller is mounted here
        found = constraints(Sample(0.0, 0.0, system=facts.get("system"), cgroups=groups))
        self._last = HeadroomReading(None, None)
        if found:
            self._last = HeadroomReading(min(found, key=_headroom), min(found, key=lambda each: each.limit.bytes))
        return self._last

    def held(self, who: ProcessKey) -> int | None:
        """The anonymous memory of this very process; a kept descriptor never shows a later one with its pid."""
        file = self._files.get(who)
        try:
            if file is None:
                if not self._linux or not who.start:
                    return None
                file = StatmFile(f"{self._proc}/{who.pid}/statm")
                if not file.open():
                    return None
                if self._probe.key_of(who.pid) != who:
                    file.close()
                    return None
                self._files[who] = file
            _, resident, shared = parse_statm(file.fetch(), file.path)
        except (OSError, ReadError):
            if file is not None:
                self._files.pop(who, None)
                file.close()
            return None
        return resident - shared

    def forget_all_but(self, who: Set[ProcessKey]) -> None:
        """Give back the descriptors of others."""
        for key in self._files.keys() - who:
            self._files.pop(key).close()

    def after_fork(self) -> None:
        """In a child: the group may be another, and what was kept of others is not needed."""
        for reader in self._readers:
            reader.close()
        self.forget_all_but(frozenset())


def _headroom(constraint: Constraint) -> int:
    return constraint.headroom
