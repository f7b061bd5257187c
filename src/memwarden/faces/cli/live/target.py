"""The target of a watch (the machine, or processes by pid or name) and the readers for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memwarden.errors import ReadError, SettingsError
from memwarden.model.facts import ProcessKey
from memwarden.protocols import Reader
from memwarden.readers.factory import MAX_AGE
from memwarden.readers.multi_tree import MultiTreeReader

#: CPU budget of PSS, as a share of one core: a watch must not disturb what it watches.
SHARES_BUDGET = 0.001
#: Number of the machine's processes in a reading.
TOP = 5


class Following:
    """Reader of the first watched process; after its end, of the next."""

    def __init__(
        self,
        name: str,
        make: Callable[[int], Reader],
        choose: Callable[[], int | None],
        alive: Callable[[int], bool] = lambda pid: os.path.exists(f"/proc/{pid}"),
    ) -> None:
        self.name = name
        self._make, self._choose, self._alive = make, choose, alive
        self._pid: int | None = None
        self._reader: Reader | None = None

    def read(self) -> Mapping[str, Any]:
        pid = self._choose()
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
            # A file that this system lacks is a gap; one that is gone with its process is none.
            if error.why == "gone" or (error.why == "absent" and not self._alive(pid)):
                return {}
            raise

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class Adapted:
    """Reader of another reader's facts, less those of ``without``; an error for a reason of ``gone`` is no gap."""

    def __init__(self, reader: Reader, *gone: str, without: str = "") -> None:
        self.name, self._reader, self._without, self._gone = reader.name, reader, without, gone or ("gone",)
        #: Keys of the largest processes in the last reading, for the PSS reader.
        self.keys: tuple[ProcessKey, ...] | None = None

    def read(self) -> Mapping[str, Any]:
        self.keys = None
        try:
            facts = self._reader.read()
        except ReadError as error:
            if error.why not in self._gone:
                raise
            return {}
        self.keys = facts["top"].keys if "top" in facts else None
        return {name: fact for name, fact in facts.items() if name != self._without}

    def close(self) -> None:
        self._reader.close()


class Target:
    """Readers of a watch. ``trees`` is None for the machine; with ``ends`` the watch stops when no process is left."""

    def __init__(self, readers: Sequence[Reader], trees: MultiTreeReader | None = None, *, ends: bool = False) -> None:
        self.readers, self.trees, self.ends = tuple(readers), trees, ends


def machine(top: int = TOP, budget: float = SHARES_BUDGET, longest: float = 0.1) -> Target:
    """Target for the machine, our own control group, and the largest processes."""
    if sys.platform != "linux":
        from memwarden.readers.portable import PortableMachine, PortableReader

        return Target([Adapted(PortableReader(), without="process"), PortableMachine(top)])
    from memwarden.readers.linux.cgroup import CgroupReader
    from memwarden.readers.linux.machine import MachineReader
    from memwarden.readers.linux.meminfo import MeminfoReader
    from memwarden.readers.linux.psi import PsiReader
    from memwarden.readers.linux.pss import PssReader

    largest = Adapted(MachineReader(top))
    shares = Adapted(PssReader(lambda: largest.keys, budget=budget, longest=longest))
    return Target([MeminfoReader(), CgroupReader(max_age=MAX_AGE), PsiReader(), largest, shares])


def processes(pids: Sequence[int]) -> Target:
    """Target for processes with their trees, and the control group of the first."""
    return _of(MultiTreeReader(pids), ends=True)


def named(text: str) -> Target:
    """Target for the processes of a name, new ones included. Raises :class:`SettingsError` without /proc."""
    if sys.platform != "linux":
        raise SettingsError("--name: needs Linux; use --pid here")
    from memwarden.readers.by_name import ProcessesByName

    return _of(MultiTreeReader(find_pids=ProcessesByName(text).find), ends=False)


def _of(trees: MultiTreeReader, *, ends: bool) -> Target:
    def first() -> int | None:
        keys = trees.roots or (trees.tree.keys if trees.tree is not None else ())
        return keys[0].pid if keys else None

    if sys.platform != "linux":
        from memwarden.readers.portable import PortableReader

        return Target([trees, Following("process", PortableReader, first)], trees, ends=ends)
    from memwarden.readers.linux.cgroup import CgroupReader
    from memwarden.readers.linux.meminfo import MeminfoReader
    from memwarden.readers.linux.process import ProcessReader
    from memwarden.readers.linux.psi import PsiReader
    from memwarden.readers.linux.pss import PssReader

    readers: list[Reader] = [
        trees,
        MeminfoReader(),
        Following(
            "process",
            lambda pid: ProcessReader(pid, max_age=MAX_AGE),
            lambda: trees.roots[0].pid if len(trees.roots) == 1 else None,
        ),
        Following("cgroup", lambda pid: CgroupReader(pid, max_age=MAX_AGE), first),
        Following("psi", lambda pid: PsiReader(pid), first),
        Adapted(PssReader(lambda: trees.tree, budget=SHARES_BUDGET)),
    ]
    return Target(readers, trees, ends=ends)


def find(target: Target, sought: str) -> str:
    """Read the trees once; return "" where a process was found, else the message with the reason."""
    assert target.trees is not None
    try:
        facts = target.trees.read()
    except ReadError as error:
        return str(error)
    tree = facts.get("tree")
    if tree is not None and tree.keys:
        return ""
    gaps = facts.get("gaps", ())
    return f"{sought}: {gaps[0].why} at {gaps[0].where}" if gaps else sought
