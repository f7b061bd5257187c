"""A program on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable


class Screen:
    """A program on a terminal of its own."""

    def __init__(self, *command: str, columns: int = 100, rows: int = 24) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # Not what C has: readline, which pytest loads, sets COLUMNS there.
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", "LANG": "C.UTF-8"})
        self.resize(columns, rows)
        self.seen = ""
        self.status: int | None = None

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of the terminal; its program gets SIGWINCH."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def text(self) -> str:
        """Output, without escape sequences."""
        return re.sub(r"\033\[[0-9;?]*[a-zA-Z]|\033[78]|\r", "", self.seen)

    def until(self, condition: Callable[[str], object], seconds: float = 20) -> str:
        end = time.monotonic() + seconds
        while not condition(self.text):
            assert time.monotonic() < end, f"not seen: {self.seen!r}"
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    assert condition(self.text), f"ended without it: {self.seen!r}"
        return self.seen

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self, seconds: float = 20) -> int:
        with contextlib.suppress(AssertionError):  # the terminal closes a moment before the program is reaped
            self.until(lambda _: self._ended(), seconds)
        end = time.monotonic() + seconds
        while not self._ended():
            assert time.monotonic() < end, f"still running: {self.seen!r}"
            time.sleep(0.01)
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def _ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
