"""Identity of a process (pid and start time), its children and its session."""

from __future__ import annotations

import contextlib
import os
import time

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.files import read_once
from memwarden.readers.linux.process import Stat, read_stat

#: Start times of processes are in ticks of this rate.
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class ProcProbe:
    """Identities from a ``/proc``, for actions on processes: a process that is not certain is left out."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def key_of(self, pid: int) -> ProcessKey:
        """Return the identity of the process with this pid. Raises :class:`ReadError`."""
        return ProcessKey(pid, read_stat(pid, self._proc).start)

    def own(self) -> ProcessKey:
        """Return this process."""
        return self.key_of(os.getpid())

    def alive(self, key: ProcessKey) -> bool:
        """Return whether exactly this process still runs (a zombie does not)."""
        try:
            stat = read_stat(key.pid, self._proc)
        except ReadError:
            return False
        return stat.start == key.start and stat.state not in "ZX"

    def stopped(self, key: ProcessKey) -> bool:
        """Return whether exactly this process is stopped, with all threads: by SIGSTOP or a debugger."""
        try:
            stat = read_stat(key.pid, self._proc)
            if stat.start != key.start or stat.state not in "TtZ":
                return False
            threads = self._threads(key.pid)
            states = [stat.state]
            if len(threads) != 1:
                states = [read_stat(f"{key.pid}/task/{thread}", self._proc).state for thread in threads]
        except ReadError:
            return False
        return bool(set(states) & set("Tt")) and set(states) <= set("TtZX")

    def children(self, key: ProcessKey) -> list[ProcessKey]:
        """Return the children of exactly this process, certain ones only; empty when it is gone.

        A pid may be reused between two reads. So the list is read through an open directory, which never shows a
        later process; a listed process counts if it is older than the list, or if its parent is still this process.
        """
        try:
            folder = os.open(f"{self._proc}/{key.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            if self._start(folder) != key.start:
                return []
            listed_at = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)
            older, younger = [], []
            for pid in self._listed(folder, key.pid):
                try:
                    stat = read_stat(pid, self._proc)
                except ReadError:
                    continue
                if stat.start < listed_at:
                    older.append(ProcessKey(pid, stat.start))
                elif stat.ppid == key.pid:
                    younger.append(ProcessKey(pid, stat.start))
            return older + younger if not younger or self._start(folder) == key.start else older
        finally:
            os.close(folder)

    def session(self, key: ProcessKey) -> list[ProcessKey]:
        """Return the other members of the session that exactly this process leads; empty when it leads none.

        A process enters a session only by being forked in it, so all members descend from the leader, orphans
        included. A leader that has ended keeps its number until it is reaped.
        """
        found = []
        if self._proc != "/proc" or not _in_session(key.pid, key.pid):
            return []
        for name in os.listdir(self._proc):
            if name.isdecimal() and _in_session(int(name), key.pid):
                with contextlib.suppress(ReadError):
                    other = self.key_of(int(name))
                    # Checked again: the pid may have been reused in between.
                    if _in_session(other.pid, key.pid) and self.key_of(other.pid) == other:
                        found.append(other)
        try:
            leads = self.key_of(key.pid) == key
        except ReadError:
            leads = False
        return [other for other in found if other != key] if leads else []

    def _listed(self, folder: int, parent: int) -> list[int]:
        pids: list[int] = []
        lists = False  # not where the kernel was built without CONFIG_PROC_CHILDREN
        try:
            tasks = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return []
        try:
            for thread in os.listdir(tasks):
                with contextlib.suppress(ReadError):  # a thread that has just ended
                    pids += map(int, read_once("children", f"{thread}/children", dir_fd=tasks).split())
                    lists = True
        finally:
            os.close(tasks)
        if lists or self._start(folder) is None:
            return pids
        for name in os.listdir(self._proc):
            if name.isdecimal():
                with contextlib.suppress(ReadError):
                    if read_stat(name, self._proc).ppid == parent:
                        pids.append(int(name))
        return [] if self._start(folder) is None else pids

    def _start(self, folder: int) -> int | None:
        try:
            return Stat(read_once("stat", "stat", dir_fd=folder), "stat").start
        except ReadError:
            return None

    def _threads(self, pid: int) -> list[str]:
        try:
            return os.listdir(f"{self._proc}/{pid}/task")
        except OSError:
            return []


def _in_session(pid: int, leader: int) -> bool:
    try:
        return os.getsid(pid) == leader
    except OSError:
        return False
