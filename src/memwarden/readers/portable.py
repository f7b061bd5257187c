"""The machine, processes and trees through psutil, where there is no ``/proc``: macOS and Windows.

They know less than the Linux readers: no groups, no stalls, shared parts and peaks only where psutil has them. A
missing figure is None, or an empty column. They can be chosen on Linux too, where psutil is installed.

psutil's start time is of the wall clock and moves when that is set, so a process keeps its first identity for as long
as psutil reports it as the same process.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import sys
from collections.abc import Iterator
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
    SystemMemory,
    TopProcesses,
    TreeMemory,
)
from memwarden.readers.collect import gap_of
from memwarden.readers.peak import recorded_peak

if TYPE_CHECKING:
    import psutil

    Known = tuple[psutil.Process, ProcessKey]

#: All processes identified so far, by pid, for all readers and threads: they must agree on an identity.
_known: dict[int, Known] = {}
_FORGET_EVERY = 1024


def _need_psutil() -> Any:
    try:
        import psutil
    except ImportError:
        raise ExtraMissing("the portable reader", "portable") from None
    return psutil


def _identify(pid: int) -> Known:
    """Return the process with this pid now, and its key. Raises :class:`ReadError`."""
    import psutil

    known = _known.get(pid)
    if known is not None and known[0].is_running():
        return known
    with _typed_errors(pid):
        process = psutil.Process(pid)
        known = process, ProcessKey(pid, int(process.create_time() * 1e6))
    if len(_known) % _FORGET_EVERY == _FORGET_EVERY - 1:
        there = set(psutil.pids())
        for each in [each for each in list(_known) if each not in there]:
            _known.pop(each, None)
    _known[pid] = known
    return known


@contextlib.contextmanager
def _typed_errors(pid: int) -> Iterator[None]:
    """Raise psutil's errors as :class:`ReadError`; ``what`` is ``"zombie"`` for a zombie."""
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
    """Return the memory of a process. Raises :class:`ReadError`."""
    import psutil

    process, key = known
    with _typed_errors(key.pid):
        with process.oneshot():
            memory, name = process.memory_info(), process.name()
            if memory.rss == 0 and process.status() == psutil.STATUS_ZOMBIE:  # Linux reads zeros without an error
                raise psutil.ZombieProcess(key.pid)
        # Checked afterwards: psutil compares start times here, and not in the calls above.
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
    """Return the highest resident size of this process from ``getrusage``; None on Windows, where psutil has it."""
    if sys.platform == "win32" or resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, recorded_peak())


class PortablePeakReader:
    """Implements :class:`~memwarden.readers.peak.PeakReader`."""

    def __init__(self) -> None:
        _need_psutil()

    def read(self) -> tuple[int, int]:
        """Return peak and resident size; without a mark the present size is the peak. Raises :class:`ReadError`."""
        process, key = _identify(os.getpid())
        with _typed_errors(key.pid):
            memory = process.memory_info()
        peak = getattr(memory, "peak_wset", None) or _own_peak() or 0
        return max(peak, memory.rss), memory.rss

    def close(self) -> None:
        """Do nothing: no descriptor is open."""


class PortableReader:
    """Reads :class:`SystemMemory` and :class:`ProcessMemory`, by default of this process.

    A process that cannot be read is a gap. ``vms`` is psutil's: on Windows the committed private part.
    """

    name = "portable"

    def __init__(self, pid: int | None = None) -> None:
        self._psutil = _need_psutil()
        self._known = None if pid is None else _identify(pid)

    def read(self) -> dict[str, Any]:
        """Return ``{"system": …, "process": …, "gaps": (…)}``; raises :class:`ReadError` for the machine."""
        gaps: list[Gap] = []
        facts: dict[str, Any] = {"system": self._system(gaps)}
        try:
            facts["process"] = self._process()
        except ReadError as error:
            gaps.append(gap_of(error))
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
        memory = _measure(self._known or _identify(os.getpid()))
        if self._known is None and (peak := _own_peak()):
            memory = memory._replace(peak=max(peak, memory.rss))
        return memory

    def close(self) -> None:
        """Do nothing: no descriptor is open."""


class PortableTree:
    """Reads :class:`TreeMemory` of the process ``pid`` and everything that it started.

    As :class:`~memwarden.readers.linux.tree.TreeReader`, by psutil: each
    sample goes through all processes of the machine, and a process that was forked and orphaned between two samples is
    not found. On Windows the pid of an ended parent stays with its children; a process that is older than the present
    process with that pid is no child of it.
    """

    name = "portable_tree"

    def __init__(self, pid: int) -> None:
        self._psutil = _need_psutil()
        self._root_pid = pid
        self._root: ProcessKey | None = None
        self._members: dict[int, Known] = {}

    def read(self) -> dict[str, Any]:
        """Return ``{"tree": TreeMemory, "gaps": (…)}``; raises :class:`ReadError` (``gone``) when no member is left."""
        tree, gaps = self.sample()
        return {"tree": tree, "gaps": gaps}

    def sample(self) -> tuple[TreeMemory, tuple[Gap, ...]]:
        """Return the tree as it is now, and what could not be read of it."""
        gaps: list[Gap] = []
        measured: list[ProcessMemory] = []
        zombies = 0
        for known in self._walk(gaps):
            try:
                measured.append(_measure(known))
            except ReadError as error:
                if error.why != "gone":
                    gaps.append(gap_of(error))
                zombies += error.what == "zombie"
        if self._root is None and gaps:
            raise ReadError(*gaps[0])
        if self._root is None or not (measured or zombies or gaps):
            raise ReadError("tree", f"pid {self._root_pid}", "gone", "no process of the tree is left")
        return TreeMemory(self._root, *_columns(measured), zombies), tuple(gaps)

    def members(self) -> list[ProcessKey]:
        """Return the members now, without measuring; zombies included."""
        return [key for _, key in self._walk([])]

    def _walk(self, gaps: list[Gap]) -> list[Known]:
        children = self._children_of_all()
        todo = [self._root_pid]
        found: dict[int, Known] = {}
        lost = iter(list(self._members.items()))
        while True:
            while todo:
                pid = todo.pop()
                if pid in found:
                    continue
                try:
                    known = self._add(pid)
                except ReadError as error:
                    if error.why != "gone":
                        gaps.append(gap_of(error))
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

    def _add(self, pid: int) -> Known:
        known = _identify(pid)
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
            return _identify(pid)[1].start >= parent.start
        except ReadError as error:
            return error.why != "gone"  # identified again, and then a gap

    def _children_of_all(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for process in self._psutil.process_iter():
            with contextlib.suppress(self._psutil.Error, OSError):
                try:
                    parent = process.ppid()
                except self._psutil.NoSuchProcess:  # psutil had cached an earlier process with this pid
                    parent = self._psutil.Process(process.pid).ppid()
                found.setdefault(parent, []).append(process.pid)
        return found

    def close(self) -> None:
        """Do nothing: no descriptor is open, and the members are remembered."""


class PortableMachine:
    """Reads :class:`TopProcesses`: the ``top`` largest processes of the machine by resident size.

    Those of other users may be unreadable (macOS without root): they are left out, and one gap counts them.
    """

    name = "portable_machine"

    def __init__(self, top: int = 5) -> None:
        self._psutil = _need_psutil()
        self._top = top

    def read(self) -> dict[str, Any]:
        """Return ``{"top": TopProcesses, "gaps": (…)}``."""
        sizes: list[tuple[int, int]] = []
        processes = unreadable = 0
        for process in self._psutil.process_iter():
            processes += 1
            try:
                sizes.append((process.memory_info().rss, process.pid))
            except self._psutil.NoSuchProcess:
                continue
            except (self._psutil.Error, OSError):
                unreadable += 1
        largest: list[ProcessMemory] = []
        for _, pid in heapq.nlargest(self._top, sizes):
            with contextlib.suppress(ReadError):  # ended meanwhile
                largest.append(_measure(_identify(pid)))
        largest.sort(key=lambda each: -each.rss)
        gaps = (Gap("top", "psutil", "denied", f"{unreadable} of {processes} processes"),) if unreadable else ()
        return {"top": TopProcesses(processes, *_columns(largest)), "gaps": gaps}

    def close(self) -> None:
        """Do nothing: no descriptor is open."""


def _columns(
    rows: list[ProcessMemory],
) -> tuple[tuple[ProcessKey, ...], tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Return keys, names, resident and shared sizes; the last is empty where the system has none."""
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
        """Return the identity of the process with this pid now. Raises :class:`ReadError`."""
        return _identify(pid)[1]

    def own(self) -> ProcessKey:
        """Return this process."""
        return self.key_of(os.getpid())

    def alive(self, key: ProcessKey) -> bool:
        """Return whether exactly this process still runs (a zombie does not)."""
        try:
            process, now = _identify(key.pid)
            if now != key:
                return False
            with _typed_errors(key.pid):
                return bool(process.status() != self._psutil.STATUS_ZOMBIE)
        except ReadError as error:
            return error.why == "denied"  # it exists, and may not be read

    def stopped(self, key: ProcessKey) -> bool:
        """Return whether exactly this process is stopped, also by a debugger."""
        try:
            process, now = _identify(key.pid)
            with _typed_errors(key.pid):
                status = process.status()
        except ReadError:
            return False
        return now == key and status in (self._psutil.STATUS_STOPPED, self._psutil.STATUS_TRACING_STOP)

    def children(self, key: ProcessKey) -> list[ProcessKey]:
        """Return its children; empty when it is gone."""
        try:
            process, now = _identify(key.pid)
            with _typed_errors(key.pid):
                children = process.children() if now == key else []
        except ReadError:
            return []
        found = []
        for child in children:
            with contextlib.suppress(ReadError):
                same, each = _identify(child.pid)
                if same == child:  # the pid was not reused
                    found.append(each)
        return found

    def session(self, key: ProcessKey) -> list[ProcessKey]:
        """Return an empty list: psutil knows no sessions."""
        return []
