"""Command lines of processes."""

from __future__ import annotations

import sys

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.files import read_once

#: Command lines that are cached, and calls after which one is read again: it changes at exec.
_CACHED, _CALLS = 256, 32


class CommandLines:
    """Command lines by process, cached for a while; "" where one cannot be read."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._known: dict[ProcessKey, tuple[str, int]] = {}

    def of(self, key: ProcessKey) -> str:
        """Return the words separated by blanks; of the program only its base name."""
        text, left = self._known.get(key, ("", 0))
        if not left:
            if len(self._known) >= _CACHED:
                self._known.clear()
            text, left = self._read(key.pid), _CALLS
        self._known[key] = text, left - 1
        return text

    def _read(self, pid: int) -> str:
        if sys.platform != "linux":
            return ""
        try:
            words = read_once("cmdline", f"{self._proc}/{pid}/cmdline")
        except ReadError:
            return ""
        program, *rest = words.rstrip(b"\0").split(b"\0")
        line = b" ".join([program.rpartition(b"/")[2] or program, *rest]).decode("utf-8", "replace")
        return " ".join(line.split())  # a program given with -c may hold line ends
