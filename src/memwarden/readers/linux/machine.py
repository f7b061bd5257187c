"""The largest processes of the machine.

A sample lists ``/proc`` and reads one number of each process that has memory, most from kept descriptors
(:func:`~memwarden.readers.linux.files.most_kept`). Kernel threads and zombies have none; they are read again every 64
samples. Identity and name are read of the largest only.
"""

from __future__ import annotations

import heapq
import os
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TopProcesses
from memwarden.readers.linux.files import most_kept, read_error
from memwarden.readers.linux.process import Stat, read_stat
from memwarden.readers.linux.statm import StatmFile

#: Processes without memory are read again after so many samples: the kernel may have reused their numbers.
_EMPTY_SAMPLES = 64


class MachineReader:
    """Reads :class:`TopProcesses`: the ``top`` largest processes that can be seen, by resident size.

    ``keep`` bounds the kept descriptors, by default :func:`~memwarden.readers.linux.files.most_kept`. Processes that
    may not be read (another user's behind ``hidepid``) are left out; one gap for each reason counts them.
    """

    name = "machine"

    def __init__(self, top: int = 5, proc: str = "/proc", *, keep: int | None = None) -> None:
        self._top, self._proc = top, proc
        self._keep = most_kept() if keep is None else keep
        self._files: dict[str, StatmFile] = {}
        self._empty: set[str] = set()  # numbers of processes without memory
        self._samples = self._kept = 0

    def read(self) -> dict[str, Any]:
        """Return ``{"top": TopProcesses, "gaps": (…)}``; raises :class:`ReadError` when no process can be read."""
        top, gaps = self.sample()
        return {"top": top, "gaps": gaps}

    def sample(self) -> tuple[TopProcesses, tuple[Gap, ...]]:
        """Return the largest processes, largest first, and what could not be read."""
        try:
            listed = {name for name in os.listdir(self._proc) if name.isdecimal()}
        except OSError as error:
            raise read_error("processes", self._proc, error) from None
        for pid in self._files.keys() - listed:
            self._forget(pid)
        if self._samples % _EMPTY_SAMPLES == 0:
            self._empty.clear()
        self._samples += 1
        self._empty &= listed
        failed: dict[str, list[ReadError]] = {}
        for pid in listed - self._empty:
            try:
                self._measure(pid)
            except ReadError as error:
                self._forget(pid)
                if error.why not in ("gone", "absent"):
                    failed.setdefault(error.why, []).append(error)
        largest = self._largest(failed)
        gaps = tuple(_gap(why, errors) for why, errors in failed.items())
        if not largest and gaps:
            raise ReadError(*gaps[0])
        top = TopProcesses(
            len(listed),
            tuple([ProcessKey(stat.pid, stat.start) for stat, _ in largest]),
            tuple([stat.name for stat, _ in largest]),
            tuple([stat.rss for stat, _ in largest]),
            tuple([min(file.shared, stat.rss) for stat, file in largest]),
        )
        return top, gaps

    def _measure(self, pid: str) -> None:
        """Read the size of a process. Raises :class:`ReadError`."""
        file = self._files.get(pid)
        try:
            if file is not None:
                data = file.fetch()
                if data == file.data:
                    return
        except OSError:  # it has ended, and its number may belong to another process already
            self._forget(pid)
            file = None
        if file is None:
            file = StatmFile(f"{self._proc}/{pid}/statm")
            self._kept += self._kept < self._keep and file.open()
            self._files[pid] = file
            try:
                data = file.fetch()
            except OSError as error:
                raise read_error("statm", file.path, error) from None
        if not file.parse(data):
            self._forget(pid)
            self._empty.add(pid)

    def _forget(self, pid: str) -> None:
        file = self._files.pop(pid, None)
        if file is not None:
            self._kept -= file.close()

    def _largest(self, failed: dict[str, list[ReadError]]) -> list[tuple[Stat, StatmFile]]:
        """Return the largest with their identities: size and name come from one read, and so belong together."""
        found: list[tuple[Stat, StatmFile]] = []
        ranked = heapq.nlargest(2 * self._top + 8, self._files.items(), key=lambda item: item[1].rss)
        for pid, file in ranked:
            if len(found) == self._top:
                break
            try:
                stat = read_stat(pid, self._proc)
            except ReadError as error:
                self._forget(pid)
                if error.why != "gone":
                    failed.setdefault(error.why, []).append(error)
                continue
            if stat.rss:
                found.append((stat, file))
        return sorted(found, key=lambda each: -each[0].rss)

    def close(self) -> None:
        """Close the descriptors; the next sample starts afresh."""
        for pid in list(self._files):
            self._forget(pid)
        self._empty.clear()
        self._samples = 0


def _gap(why: str, errors: list[ReadError]) -> Gap:
    first = errors[0]
    others = f"; {len(errors) - 1} more processes" if len(errors) > 1 else ""
    return Gap(first.what, first.where, why, first.detail + others)
