"""Processes found by name: those that run now, and those that start later."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.readers.linux.files import read_error, read_once
from memwarden.readers.linux.process import living_thread, read_stat

#: A process that is this young may still exec another program: it is compared at each call.
_YOUNG_SECONDS = 3.0
#: All processes are compared again after this time.
_ALL_SECONDS = 60.0


class ProcessesByName:
    """Finds processes by a part of their name or command line, in any letter case.

    This process and its ancestors are left out: the shell that started a search has the searched word in its own
    command line. Kernel threads and zombies have no memory and are left out, too.
    """

    def __init__(self, text: str, proc: str = "/proc", *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._text, self._proc, self._monotonic = text.casefold(), proc, monotonic
        self._listed: set[str] = set()
        self._young: dict[str, float] = {}  # until when
        self._found: set[str] = set()
        self._all_due = float("-inf")
        self._own = self._ancestors()

    def find(self) -> set[int]:
        """Return the pids of all that match now. Raises :class:`ReadError` where processes cannot be listed."""
        now = self._monotonic()
        try:
            listed = {name for name in os.listdir(self._proc) if name.isdecimal()}
        except OSError as error:
            raise read_error("processes", self._proc, error) from None
        self._young.update(dict.fromkeys(listed - self._listed, now + _YOUNG_SECONDS))
        self._listed = listed
        self._found &= listed
        if now >= self._all_due:
            self._all_due = now + _ALL_SECONDS
            compared = listed
        else:
            compared = self._young.keys() & listed
        for pid in compared:
            (self._found.add if self._matches(pid) else self._found.discard)(pid)
        self._young = {pid: until for pid, until in self._young.items() if until > now and pid in listed}
        return {int(pid) for pid in self._found} - self._own

    def _matches(self, pid: str) -> bool:
        try:
            stat = read_stat(pid, self._proc)
            if not stat.rss:
                return False
            path = f"{self._proc}/{pid}"
            data = read_once("cmdline", f"{path}/cmdline")
            if not data and (thread := living_thread(path)) is not None:  # the first thread has ended
                data = read_once("cmdline", f"{thread}/cmdline")
        except ReadError:
            return False
        words = data.replace(b"\0", b" ").decode("utf-8", "replace")
        return self._text in stat.name.casefold() or self._text in words.casefold()

    def _ancestors(self) -> set[int]:
        """Return this process and its ancestors."""
        found, pid = set(), os.getpid()
        while pid > 0 and pid not in found:
            found.add(pid)
            try:
                pid = read_stat(pid, self._proc).ppid
            except ReadError:
                break
        return found
