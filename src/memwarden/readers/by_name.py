"""Which processes bear a name: those that run now, and those that come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.readers.linux.files import read_once
from memwarden.readers.linux.new_pids import PidCounter, PidList
from memwarden.readers.linux.process import read_stat

#: A process that is this young may still become another program (exec): it is asked again.
_YOUNG_SECONDS = 3.0
#: And so often is everybody else.
_AGAIN_SECONDS = 60.0


class ProcessesByName:
    """Finds processes by a part of their name or command line, whatever its letters' case.

    Left out are this process and those that it descends from: the shell that started a search holds the searched
    word in its own command line. Kernel threads and zombies hold no memory and are left out, too.
    """

    def __init__(self, text: str, proc: str = "/proc", *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._text, self._proc, self._monotonic = text.casefold(), proc, monotonic
        self._counter, self._list = PidCounter(proc), PidList(proc)
        self._young: dict[str, float] = {}  # until when
        self._found: set[int] = set()
        self._all_due = float("-inf")
        self._own = self._line()

    def find(self) -> set[int]:
        """The pids of all that match now. Raises :class:`ReadError` where processes cannot be listed."""
        now = self._monotonic()
        fresh, ended = self._list.renew(self._counter.last())
        for pid in fresh:
            self._young[pid] = now + _YOUNG_SECONDS
        self._found.difference_update(int(pid) for pid in ended if pid.isdecimal())
        if now >= self._all_due:
            self._all_due = now + _AGAIN_SECONDS
            asked = {pid for pid in self._list.names if pid.isdecimal()}
        else:
            asked = fresh | self._young.keys()
        for pid in asked:
            (self._found.add if self._matches(pid) else self._found.discard)(int(pid))
        self._young = {pid: until for pid, until in self._young.items() if until > now and pid not in ended}
        return self._found - self._own

    def _matches(self, pid: str) -> bool:
        try:
            stat = read_stat(pid, self._proc)
            if not stat.rss:
                return False
            words = read_once("cmdline", f"{self._proc}/{pid}/cmdline").replace(b"\0", b" ")
        except ReadError:
            return False
        return self._text in stat.name.casefold() or self._text in words.decode("utf-8", "replace").casefold()

    def _line(self) -> set[int]:
        """This process and its ancestors."""
        line, pid = set(), os.getpid()
        while pid > 0 and pid not in line:
            line.add(pid)
            try:
                pid = read_stat(pid, self._proc).ppid
            except ReadError:
                break
        return line

    def close(self) -> None:
        """Give the descriptor back."""
        self._counter.close()
