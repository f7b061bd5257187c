"""The largest processes of the machine.

A look lists ``/proc`` and reads one number of each process that has memory, most of them from kept descriptors
(:func:`~memwarden.readers.linux.files.most_kept`; the largest). Kernel threads and zombies have none and are not read
again, but for one in 64 of them at each look, and when their number was given out again. Who a process is, and its
name, is read of the largest only.
"""

from __future__ import annotations

import heapq
import os
from itertools import islice
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TopProcesses
from memwarden.readers.linux.files import most_kept, read_error
from memwarden.readers.linux.new_pids import PidCounter, PidList
from memwarden.readers.linux.process import read_stat
from memwarden.readers.linux.statm import SIZE, StatmFile

#: In looks: so often the name of one that is shown is read again, one without memory is asked, and the descriptors
#: are given to the largest.
_ASK_EVERY = 64


class _Process(StatmFile):
    __slots__ = ("key", "name", "named", "pid", "shown")

    def __init__(self, pid: str, path: str) -> None:
        super().__init__(path)
        self.pid = pid
        self.key: ProcessKey | None = None  # known of those that are shown
        self.name = ""
        self.named = self.shown = 0  # its size when its name was read; the looks that it was shown in


class MachineReader:
    """Reads :class:`TopProcesses`: the ``top`` largest processes that can be seen, by resident size.

    ``keep`` bounds the kept descriptors; without it :func:`~memwarden.readers.linux.files.most_kept` does. Processes that
    may not be read (another user's behind ``hidepid``) are one gap together, and take no part.
    """

    name = "machine"

    def __init__(self, top: int = 5, proc: str = "/proc", *, keep: int | None = None) -> None:
        self._top, self._proc = top, proc
        self._keep = most_kept() if keep is None else keep
        self._counter, self._list = PidCounter(proc), PidList(proc)
        self._processes: dict[str, _Process] = {}
        #: Who has no memory (None), and who could not be read and why; the one that was asked last stands last.
        self._aside: dict[str, ReadError | None] = {}
        self._looks = self._kept = self._count = 0
        self._stale = True
        self._rows: list[_Process] = []  # first those with a descriptor
        self._fds: list[int] = []
        self._was: list[bytes | None] = []

    def read(self) -> dict[str, Any]:
        """``{"top": TopProcesses, "gaps": (…)}``; raises :class:`ReadError` when no process can be read."""
        top, gaps = self.look()
        return {"top": top, "gaps": gaps}

    def look(self) -> tuple[TopProcesses, tuple[Gap, ...]]:
        """The largest, largest first, and what could not be read."""
        self._looks += 1
        self._renew_list()
        self._measure()
        shown = self._largest()
        gaps = self._gaps()
        if not shown and gaps:
            raise ReadError(*gaps[0])
        return (
            TopProcesses(
                self._count,
                tuple([process.key for process in shown if process.key is not None]),
                tuple([process.name for process in shown]),
                tuple([process.rss for process in shown]),
                tuple([process.shared for process in shown]),
            ),
            gaps,
        )

    # --- who is there -------------------------------------------------------------------------------

    def _renew_list(self) -> None:
        fresh, ended = self._list.renew(self._counter.last())
        for pid in ended | fresh:
            self._forget(pid)
        again = list(islice(self._aside, -(-len(self._aside) // _ASK_EVERY)))
        for pid in (*fresh, *again):
            self._meet(pid)
        if fresh or ended:
            self._count = sum(map(str.isdecimal, self._list.names))

    def _meet(self, pid: str) -> None:
        process = _Process(pid, f"{self._proc}/{pid}/statm")
        self._aside.pop(pid, None)
        kept = self._kept < self._keep and process.open()
        try:
            alive = process.take(process.fetch())
        except OSError as error:
            process.close()
            failed = read_error("statm", process.path, error)
            if failed.why not in ("gone", "absent"):
                self._aside[pid] = failed
        except ReadError as error:
            process.close()
            self._aside[pid] = error
        else:
            if alive:
                self._processes[pid] = process
                self._kept += kept
                self._stale = True
            else:
                process.close()
                self._aside[pid] = None

    def _forget(self, pid: str) -> None:
        self._aside.pop(pid, None)
        process = self._processes.pop(pid, None)
        if process is not None:
            self._kept -= process.close()
            self._stale = True

    # --- what they hold -----------------------------------------------------------------------------

    def _measure(self) -> None:
        if self._stale or self._looks % _ASK_EVERY == 0:
            self._arrange()
        fds, was, rows, pread = self._fds, self._was, self._rows, os.pread
        try:
            now = [pread(fd, SIZE, 0) for fd in fds]
        except OSError:  # somebody has ended: one by one
            for at in range(len(fds)):
                self._measure_one(at)
        else:
            if now != was:
                for at, data in enumerate(now):
                    if data != was[at]:
                        self._take(at, data)
        for at in range(len(fds), len(rows)):
            self._measure_one(at)
        if self._stale:
            self._arrange()

    def _measure_one(self, at: int) -> None:
        process = self._rows[at]
        try:
            data = process.fetch()
        except OSError:
            self._forget(process.pid)
            self._meet(process.pid)  # it may belong to somebody else already
            return
        if data != process.data:
            self._take(at, data)

    def _take(self, at: int, data: bytes) -> None:
        process = self._rows[at]
        try:
            alive = process.take(data)
        except ReadError:
            alive = False
        if not alive:
            self._forget(process.pid)
            self._meet(process.pid)
        elif at < len(self._was):
            self._was[at] = data

    def _arrange(self) -> None:
        if len(self._processes) > self._keep and self._looks % _ASK_EVERY == 0:
            ranked = sorted(self._processes.values(), key=lambda process: -process.rss)
            for process in ranked[self._keep :]:
                self._kept -= process.close()
            for process in ranked[: self._keep]:
                if process.fd < 0:
                    process.key = None  # whom the descriptor answers for is asked again
                    self._kept += process.open()
        kept = [process for process in self._processes.values() if process.fd >= 0]
        self._rows = kept + [process for process in self._processes.values() if process.fd < 0]
        self._fds = [process.fd for process in kept]
        self._was = [process.data for process in kept]
        self._stale = False

    def _largest(self) -> list[_Process]:
        while True:
            shown = heapq.nlargest(self._top, self._rows, key=_size)
            if all(self._is_known(process) for process in shown):
                return shown
            self._arrange()

    def _is_known(self, process: _Process) -> bool:
        """Learn who it is, and its name; False when it has ended, or is not who it was: then choose again."""
        shown = process.shown = process.shown + 1
        soon = shown & (shown - 1) == 0 or shown % _ASK_EVERY == 0
        grown = not process.named / 2 <= process.rss <= process.named * 2
        if not (soon or grown or process.key is None or process.fd < 0):
            return True
        try:
            stat = read_stat(process.pid, self._proc)
            if process.key is None:
                process.fetch()  # it still answers: it is the one that was asked
        except (ReadError, OSError) as error:
            self._forget(process.pid)
            self._aside[process.pid] = error if isinstance(error, ReadError) and error.why != "gone" else None
            return False
        key = ProcessKey(stat.pid, stat.start)
        if process.key not in (None, key):
            self._forget(process.pid)
            self._meet(process.pid)
            return False
        process.key, process.name, process.named = key, stat.name, process.rss
        return True

    def _gaps(self) -> tuple[Gap, ...]:
        failed: dict[str, list[ReadError]] = {}
        for error in self._aside.values():
            if error is not None:
                failed.setdefault(error.why, []).append(error)
        gaps = []
        for why, (first, *others) in failed.items():
            more = f"; {len(others)} more processes" if others else ""
            gaps.append(Gap(first.what, first.where, why, first.detail + more))
        return tuple(gaps)

    def close(self) -> None:
        """Give the descriptors back; the next look begins anew."""
        for pid in list(self._processes):
            self._forget(pid)
        self._aside.clear()
        self._counter.close()
        self._list = PidList(self._proc)


def _size(process: _Process) -> int:
    return process.rss
