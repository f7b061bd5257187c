"""The machine, processes and trees through psutil, where there is no ``/proc``: macOS and Windows.

It knows less than the Linux readers: no groups, no stalls, shared parts and peaks only where psutil tells them.
What is not told is None, or an empty column. It can be chosen on Linux too, where psutil is installed.

psutil's start time is the wall clock's and moves when somebody sets that, so a process keeps the identity that it
was first met with for as long as psutil says that it is the same one.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from memwarden.errors import ExtraMissing, ReadError
from memwarden.model.facts import (
    Gap,
    ProcessKey,
    ProcessMemory,
    ShareMemory,
    SystemMemory,
    TopProcesses,
    TreeMemory,
)
from memwarden.readers.peak import recorded_peak

if TYPE_CHECKING:
    import psutil

    Known = tuple[psutil.Process, ProcessKey]

#: Everybody met so far, by pid, for all readers and threads: two of them must agree on who somebody is.
_known: dict[int, Known] = {}
_FORGET_EVERY = 1024


def _need_psutil() -> Any:
    try:
        import psutil
    except ImportError:
        raise ExtraMissing("the portable reader", "portable") from None
    return psutil


def _meet(pid: int) -> Known:
    """Whoever has this pid now. Raises :class:`ReadError`."""
    import psutil

    known = _known.get(pid)
    if known is not None and known[0].is_running():
        return known
    with _asking(pid):
        process = psutil.Process(pid)
        known = process, ProcessKey(pid, int(process.create_time() * 1e6))
    if len(_known) % _FORGET_EVERY == _FORGET_EVERY - 1:
        there = set(psutil.pids())
        for each in [each for each in list(_known) if each not in there]:
            _known.pop(each, None)
    _known[pid] = known
    return known


@contextlib.contextmanager
def _asking(pid: int) -> Iterator[None]:
    """psutil's errors as :class:`ReadError`; ``what`` is ``"zombie"`` for one."""
    import psutil

    where = f"pid {pid}"
    try:
        yield
    except psutil.ZombieProcess:  # a NoSuchProcess, too
        raise ReadError("zombie", where, "gone", "it has ended and waits to be reaped") from None
    except psutil.NoSuchProcess:
        raise ReadError("process", where, "gone", "no process has this pid") from None
    except psutil.AccessDenied:
        raise ReadError("process", where, "denied", "another user's, or protected by the system") from None
    except (psutil.Error, OSError) as error:
        raise ReadError("process", where, "broken", str(error)) from None


def _measure(known: Known) -> ProcessMemory:
    """What a process holds now. Raises :class:`ReadError`."""
    import psutil

    process, key = known
    with _asking(key.pid):
        with process.oneshot():
            memory, name = process.memory_info(), process.name()
            if memory.rss == 0 and process.status() == psutil.STATUS_ZOMBIE:  # Linux reads zeros without an error
                raise psutil.ZombieProcess(key.pid)
        # Asked afterwards: psutil compares start times here, and not in the calls above.
        if not process.is_running():
            raise psutil.NoSuchProcess(key.pid)
    shared = getattr(memory, "shared", None)
    return ProcessMemory(
        key,
        name,
        memory.rss,
        memory.vms,
        None if shared is None else max(0, memory.rss - shared),
        shared,
        None,
        getattr(memory, "peak_wset", None),
    )


def _own_peak() -> int | None:
    """The highest resident size of this process, from the system's account of it; on Windows psutil tells it."""
    if sys.platform == "win32" or resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, recorded_peak())


class PortablePeakReader:
    """The highest resident size of this process; see :class:`~memwarden.readers.peak.PeakReader`."""

    def __init__(self) -> None:
        self._psutil = _need_psutil()
        self._process: psutil.Process | None = None

    def read(self) -> tuple[int, int]:
        """Where the system tells no mark, what is held now stands for it. Raises :class:`ReadError`."""
        with _asking(os.getpid()):
            if self._process is None:
                self._process = self._psutil.Process()
            memory = self._process.memory_info()
        peak = getattr(memory, "peak_wset", None) or _own_peak() or 0
        return max(peak, memory.rss), memory.rss

    def close(self) -> None:
        """Nothing is kept open; in a child after fork it is another process."""
        self._process = None


def _gap(error: ReadError) -> Gap:
    return Gap(error.what, error.where, error.why, error.detail)


class PortableReader:
    """Reads :class:`SystemMemory` and :class:`ProcessMemory` (the own process where no pid is given).

    A process that cannot be read is a gap, and the machine is told all the same. ``vms`` is what psutil calls so:
    on Windows the private part that is committed.
    """

    name = "portable"

    def __init__(self, pid: int | None = None) -> None:
        self._psutil = _need_psutil()
        self._who: int | str = "self" if pid is None else pid
        self._known: Known | None = None
        if pid is not None:
            self._known = _meet(pid)

    def read(self) -> dict[str, Any]:
        """``{"system": …, "process": …, "gaps": (…)}``; raises :class:`ReadError` for the machine."""
        gaps: list[Gap] = []
        facts: dict[str, Any] = {"system": self._system(gaps)}
        try:
            facts["process"] = self._process()
        except ReadError as error:
            gaps.append(_gap(error))
        facts["gaps"] = tuple(gaps)
        return facts

    def _system(self, gaps: list[Gap]) -> SystemMemory:
        try:
            machine = self._psutil.virtual_memory()
        except (self._psutil.Error, OSError, RuntimeError) as error:
            raise ReadError("system", "psutil.virtual_memory", "broken", str(error)) from None
        try:
            swap = self._psutil.swap_memory()
            swapped = swap.total, swap.free
        except (self._psutil.Error, OSError, RuntimeError) as error:  # Windows with performance counters turned off
            gaps.append(Gap("swap", "psutil.swap_memory", "broken", str(error)))
            swapped = None, None
        cached = getattr(machine, "cached", None)
        if cached is not None:
            cached += getattr(machine, "buffers", 0)
        return SystemMemory(machine.total, machine.available, machine.free, cached, *swapped)

    def _process(self) -> ProcessMemory:
        if self._known is None:
            self._known = _meet(os.getpid() if self._who == "self" else int(self._who))
        memory = _measure(self._known)
        if self._who == "self" and (peak := _own_peak()):
            memory = memory._replace(peak=max(peak, memory.rss))
        return memory

    def close(self) -> None:
        """Nothing is kept open; the own process is found anew, as after a fork it must be."""
        if self._who == "self":
            self._known = None


class PortableShares:
    """Reads :class:`ShareMemory` of one process (the own one where no pid is given), on a budget.

    ``uss`` everywhere, ``pss`` on Linux alone. The system walks the whole address space for it, so a figure is
    kept until measuring anew takes no more than the share ``budget`` of the time.
    """

    name = "portable_shares"

    def __init__(
        self, pid: int | None = None, *, budget: float = 0.01, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        _need_psutil()
        self._pid, self._budget, self._monotonic = pid, budget, monotonic
        self._kept: tuple[ProcessKey, int | None, int] | None = None
        self._measured = self._due = 0.0

    def read(self) -> dict[str, Any]:
        """``{"shares": ShareMemory}``; raises :class:`ReadError`."""
        process, key = _meet(os.getpid() if self._pid is None else self._pid)
        begun = now = self._monotonic()
        if self._kept is None or self._kept[0] != key or now >= self._due:
            with _asking(key.pid):
                memory = process.memory_full_info()
            self._kept = key, getattr(memory, "pss", None), memory.uss
            self._measured = now = self._monotonic()
            self._due = now + (now - begun) / self._budget
        _, pss, uss = self._kept
        return {"shares": ShareMemory((key,), () if pss is None else (pss,), (uss,), (now - self._measured,))}

    def close(self) -> None:
        """Nothing is kept open; the next figure is a fresh one."""
        self._kept = None


class PortableTree:
    """Reads :class:`TreeMemory` of the process ``pid`` and everything that it started.

    As :class:`~memwarden.readers.linux.tree.TreeReader`, which says what ``adopter`` and ``strangers`` are for, with
    psutil's means: each look goes through all processes of the machine, and who was forked and orphaned between two
    looks is not found. On Windows a parent that has ended leaves its pid behind as its children's; whoever is
    older than the process that has that pid now is no child of it.
    """

    name = "portable_tree"

    def __init__(self, pid: int, *, adopter: int | None = None, strangers: Collection[int] = ()) -> None:
        self._psutil = _need_psutil()
        self._root_pid, self._adopter, self._strangers = pid, adopter, frozenset(strangers)
        self._root: ProcessKey | None = None
        self._members: dict[int, Known] = {}

    def read(self) -> dict[str, Any]:
        """``{"tree": TreeMemory, "gaps": (…)}``; raises :class:`ReadError` (``gone``) when no member is left."""
        tree, gaps = self.sample()
        return {"tree": tree, "gaps": gaps}

    def sample(self) -> tuple[TreeMemory, tuple[Gap, ...]]:
        """The tree as it is now, and what could not be read of it."""
        gaps: list[Gap] = []
        measured: list[ProcessMemory] = []
        zombies = 0
        for known in self._walk(gaps):
            try:
                measured.append(_measure(known))
            except ReadError as error:
                if error.why != "gone":
                    gaps.append(_gap(error))
                zombies += error.what == "zombie"
        if self._root is None and gaps:
            raise ReadError(*gaps[0])
        if self._root is None or not (measured or zombies or gaps):
            raise ReadError("tree", f"pid {self._root_pid}", "gone", "no process of the tree is left")
        return TreeMemory(self._root, *_columns(measured), zombies), tuple(gaps)

    def members(self) -> list[ProcessKey]:
        """Who belongs to the tree now, without measuring; zombies included."""
        return [key for _, key in self._walk([])]

    def _walk(self, gaps: list[Gap]) -> list[Known]:
        children = self._children_of_all()
        todo = [self._root_pid]
        if self._adopter is not None:
            todo += [pid for pid in children.get(self._adopter, ()) if pid not in self._strangers]
        found: dict[int, Known] = {}
        lost = iter(list(self._members.items()))
        while True:
            while todo:
                pid = todo.pop()
                if pid in found:
                    continue
                try:
                    known = self._met(pid)
                except ReadError as error:
                    if error.why != "gone":
                        gaps.append(_gap(error))
                    continue
                found[pid] = known
                todo += [each for each in children.get(pid, ()) if self._descends(each, known[1])]
            # Members that no living parent leads to: orphans, if they are still the same process.
            for pid, (process, _) in lost:
                if pid not in found and process.is_running():
                    todo.append(pid)
                    break
            else:
                break
        self._members = found
        return list(found.values())

    def _met(self, pid: int) -> Known:
        known = _meet(pid)
        if pid == self._root_pid:
            if self._root is None:
                self._root = known[1]
            elif known[1] != self._root:
                raise ReadError("process", f"pid {pid}", "gone", "the pid belongs to another process now")
        return known

    def _descends(self, pid: int, parent: ProcessKey) -> bool:
        if not self._psutil.WINDOWS:
            return True  # elsewhere an orphan is given a living parent
        try:
            return _meet(pid)[1].start >= parent.start
        except ReadError as error:
            return error.why != "gone"  # it is met again, and told as a gap

    def _children_of_all(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for process in self._psutil.process_iter():
            with contextlib.suppress(self._psutil.Error, OSError):
                try:
                    parent = process.ppid()
                except self._psutil.NoSuchProcess:  # psutil remembered an earlier one by this pid
                    parent = self._psutil.Process(process.pid).ppid()
                found.setdefault(parent, []).append(process.pid)
        return found

    def close(self) -> None:
        """Nothing is kept open; the members are remembered."""


class PortableMachine:
    """Reads :class:`TopProcesses`: the ``top`` largest processes of the machine by resident size.

    Those of other users may be closed to us (macOS without root): they are in no rank, and one gap says how many.
    """

    name = "portable_machine"

    def __init__(self, top: int = 5) -> None:
        self._psutil = _need_psutil()
        self._top = top

    def read(self) -> dict[str, Any]:
        """``{"top": TopProcesses, "gaps": (…)}``."""
        sizes: list[tuple[int, int]] = []
        processes = closed = 0
        for process in self._psutil.process_iter():
            processes += 1
            try:
                sizes.append((process.memory_info().rss, process.pid))
            except self._psutil.NoSuchProcess:
                continue
            except (self._psutil.Error, OSError):
                closed += 1
        largest: list[ProcessMemory] = []
        for _, pid in heapq.nlargest(self._top, sizes):
            with contextlib.suppress(ReadError):  # ended meanwhile
                largest.append(_measure(_meet(pid)))
        largest.sort(key=lambda each: -each.rss)
        gaps = (Gap("top", "psutil", "denied", f"{closed} of {processes} processes"),) if closed else ()
        return {"top": TopProcesses(processes, *_columns(largest)), "gaps": gaps}

    def close(self) -> None:
        """Nothing is kept open."""


def _columns(
    rows: list[ProcessMemory],
) -> tuple[tuple[ProcessKey, ...], tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Keys, names, resident and shared sizes; the last is empty where the system does not tell them."""
    return (
        tuple(row.key for row in rows),
        tuple(row.name for row in rows),
        tuple(row.rss for row in rows),
        tuple(row.shared for row in rows if row.shared is not None),
    )


class PortableProbe:
    """Identities through psutil."""

    def __init__(self) -> None:
        self._psutil = _need_psutil()

    def key_of(self, pid: int) -> ProcessKey:
        """The identity of whoever has this pid now. Raises :class:`ReadError`."""
        return _meet(pid)[1]

    def own(self) -> ProcessKey:
        """This process."""
        return self.key_of(os.getpid())

    def alive(self, key: ProcessKey) -> bool:
        """Whether this very process still runs (one that waits to be reaped does not)."""
        try:
            process, now = _meet(key.pid)
            if now != key:
                return False
            with _asking(key.pid):
                return bool(process.status() != self._psutil.STATUS_ZOMBIE)
        except ReadError as error:
            return error.why == "denied"  # it is there, and closed to us

    def stopped(self, key: ProcessKey) -> bool:
        """Whether this very process stands still: stopped, or under a debugger."""
        try:
            process, now = _meet(key.pid)
            with _asking(key.pid):
                status = process.status()
        except ReadError:
            return False
        return now == key and status in (self._psutil.STATUS_STOPPED, self._psutil.STATUS_TRACING_STOP)

    def children(self, key: ProcessKey) -> list[ProcessKey]:
        """Its children; empty when it is gone or another one."""
        try:
            process, now = _meet(key.pid)
            with _asking(key.pid):
                children = process.children() if now == key else []
        except ReadError:
            return []
        found = []
        for child in children:
            with contextlib.suppress(ReadError):
                met, each = _meet(child.pid)
                if met == child:  # nobody else by now
                    found.append(each)
        return found

    def session(self, key: ProcessKey) -> list[ProcessKey]:
        """The other members of the session that it leads; empty, where only its descendants are known."""
        return []
