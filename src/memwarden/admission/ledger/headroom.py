"""Headroom of the machine and of this process's memory groups, and the memory of processes."""

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


#: How old the limits may be in a quick reading, seconds.
_QUICK_SECONDS = 0.5


class HeadroomReading(NamedTuple):
    """One reading: the limit that leaves least, and the lowest one. None where none is known."""

    nearest: Constraint | None
    smallest: Constraint | None


class Headroom(Protocol):
    """The source of a ledger's figures; a test brings its own."""

    def read(self, quick: bool = False) -> HeadroomReading:
        """Return what is left. A quick reading may find less than there is."""
        ...

    def memory_of(self, process: ProcessKey) -> int | None:
        """Return the private memory of exactly this process, None where that cannot be measured."""
        ...

    def keep_only(self, processes: Set[ProcessKey]) -> None: ...

    def after_fork(self) -> None: ...


class SystemHeadroom:
    """The machine and the own path of memory groups, read anew each time; processes by ``statm``, kept open.

    A process's memory is its anonymous memory: file pages that it maps can be reclaimed.
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

    def read(self, quick: bool = False) -> HeadroomReading:
        """Return the limits now, without the limit of this process's address space: other processes have another.

        A quick reading takes the groups' usage as if none of it could be reclaimed, which costs a tenth.
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

    def memory_of(self, process: ProcessKey) -> int | None:
        """Return the anonymous memory of exactly this process; a kept descriptor never shows a later one of its pid."""
        file = self._files.get(process)
        try:
            if file is None:
                if not self._linux or not process.start:
                    return None
                file = StatmFile(f"{self._proc}/{process.pid}/statm")
                if not file.open():
                    return None
                if self._probe.key_of(process.pid) != process:
                    file.close()
                    return None
                self._files[process] = file
            _, resident, shared = parse_statm(file.fetch(), file.path)
        except (OSError, ReadError):
            if file is not None:
                self._files.pop(process, None)
                file.close()
            return None
        return resident - shared

    def keep_only(self, processes: Set[ProcessKey]) -> None:
        """Close the descriptors of other processes."""
        for key in self._files.keys() - processes:
            self._files.pop(key).close()

    def after_fork(self) -> None:
        """Renew it in a child, which may be in another group."""
        for reader in self._readers:
            reader.close()
        self.keep_only(frozenset())


def _headroom(constraint: Constraint) -> int:
    return constraint.headroom
