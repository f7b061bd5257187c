"""Whom a watch follows: the readers for it, and what it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memwarden.errors import ReadError, SettingsError
from memwarden.model.facts import ProcessKey, TopProcesses
from memwarden.protocols import Reader
from memwarden.readers.factory import MAX_AGE
from memwarden.readers.multi_tree import MultiTreeReader

#: The part of a core that PSS may cost here: a watch that looks on shall not be seen itself.
SHARES_BUDGET = 0.001
#: Largest processes of a machine that are told.
TOP = 5


class Following:
    """A reader of whoever is watched first; when that one has ended, of the next."""

    def __init__(
        self,
        name: str,
        make: Callable[[int], Reader],
        whom: Callable[[], int | None],
        alive: Callable[[int], bool] = lambda pid: os.path.exists(f"/proc/{pid}"),
    ) -> None:
        self.name = name
        self._make, self._whom, self._alive = make, whom, alive
        self._pid: int | None = None
        self._reader: Reader | None = None

    def read(self) -> Mapping[str, Any]:
        pid = self._whom()
        if pid != self._pid:
            self.close()
            self._pid = pid
        if pid is None:
            return {}
        try:
            if self._reader is None:
                self._reader = self._make(pid)
            return self._reader.read()
        except ReadError as error:
            # What this system does not have is a gap; what has ended with its process is none.
            if error.why == "gone" or (error.why == "absent" and not self._alive(pid)):
                return {}
            raise

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Largest:
    """The largest processes, remembered for those who read more of them."""

    def __init__(self, reader: Reader) -> None:
        self.name, self._reader = reader.name, reader
        self._top: TopProcesses | None = None

    def read(self) -> Mapping[str, Any]:
        self._top = None
        facts = self._reader.read()
        self._top = facts["top"]
        return facts

    def keys(self) -> tuple[ProcessKey, ...] | None:
        return None if self._top is None else self._top.keys

    def close(self) -> None:
        self._reader.close()


class MachineOnly:
    """A reader that tells of the machine, and not of our own process."""

    name = "system"

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self) -> Mapping[str, Any]:
        return {name: fact for name, fact in self._reader.read().items() if name != "process"}

    def close(self) -> None:
        self._reader.close()


class WhileAlive:
    """A reader whose processes may all have ended: that is no gap."""

    def __init__(self, reader: Reader) -> None:
        self.name, self._reader = reader.name, reader

    def read(self) -> Mapping[str, Any]:
        try:
            return self._reader.read()
        except ReadError as error:
            if error.why != "gone":
                raise
            return {}

    def close(self) -> None:
        self._reader.close()


class Target:
    """What is watched. ``forest`` is None for the machine; ``ends`` says whether its end is the end of the watch."""

    def __init__(self, readers: Sequence[Reader], forest: MultiTreeReader | None = None, *, ends: bool = False) -> None:
        self.readers, self.forest, self.ends = tuple(readers), forest, ends

    def add(self, reader: Reader) -> None:
        """Read this, too."""
        self.readers = (*self.readers, reader)


def machine(top: int = TOP, budget: float = SHARES_BUDGET, longest: float = 0.1) -> Target:
    """The machine, our own group in it, and its largest processes."""
    if sys.platform != "linux":
        from memwarden.readers.portable import PortableMachine, PortableReader

        return Target([MachineOnly(PortableReader()), PortableMachine(top)])
    from memwarden.readers.linux.cgroup import CgroupReader
    from memwarden.readers.linux.machine import MachineReader
    from memwarden.readers.linux.meminfo import MeminfoReader
    from memwarden.readers.linux.psi import PsiReader
    from memwarden.readers.linux.pss import PssReader

    largest = Largest(MachineReader(top))
    shares = WhileAlive(PssReader(largest.keys, budget=budget, longest=longest))
    return Target([MeminfoReader(), CgroupReader(max_age=MAX_AGE), PsiReader(), largest, shares])


def processes(pids: Sequence[int]) -> Target:
    """These processes with their trees, and the group of the first."""
    return _of(MultiTreeReader(pids), ends=True)


def named(text: str) -> Target:
    """The processes of this name, those that come included. Raises :class:`SettingsError` where there is no /proc."""
    if sys.platform != "linux":
        raise SettingsError("--name: needs Linux for now; --pid works here")
    from memwarden.readers.by_name import ProcessesByName

    return _of(MultiTreeReader(newcomers=ProcessesByName(text).find), ends=False)


def _of(forest: MultiTreeReader, *, ends: bool) -> Target:
    def first() -> int | None:
        roots = forest.roots
        if roots:
            return roots[0].pid
        return forest.tree.keys[0].pid if forest.tree is not None and forest.tree.keys else None

    if sys.platform != "linux":
        from memwarden.readers.portable import PortableReader

        return Target([forest, Following("process", PortableReader, first)], forest, ends=ends)
    from memwarden.readers.linux.cgroup import CgroupReader
    from memwarden.readers.linux.meminfo import MeminfoReader
    from memwarden.readers.linux.process import ProcessReader
    from memwarden.readers.linux.psi import PsiReader
    from memwarden.readers.linux.pss import PssReader

    def only() -> int | None:
        roots = forest.roots
        return roots[0].pid if len(roots) == 1 else None

    readers: list[Reader] = [
        forest,
        MeminfoReader(),
        Following("process", lambda pid: ProcessReader(pid, max_age=MAX_AGE), only),
        Following("cgroup", lambda pid: CgroupReader(pid, max_age=MAX_AGE), first),
        Following("psi", lambda pid: PsiReader(pid), first),
        WhileAlive(PssReader(lambda: forest.tree, budget=SHARES_BUDGET)),
    ]
    return Target(readers, forest, ends=ends)


def must_be_there(subject: Target, sought: str) -> str:
    """Look once; returns "" where somebody is there, else the sentence that says who is not."""
    assert subject.forest is not None
    try:
        facts = subject.forest.read()
    except ReadError as error:
        return str(error)
    tree = facts.get("tree")
    if tree is not None and tree.keys:
        return ""
    gaps = facts.get("gaps", ())
    return f"{sought}: {gaps[0].why} at {gaps[0].where}" if gaps else sought
