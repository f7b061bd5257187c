"""Signals and the terminal while a command runs.

The command runs in our own process group, so it is in the foreground exactly when we are, in a pipeline too, and
Ctrl-C and Ctrl-Z reach it from the terminal itself. We must not die of them: our signals are blocked and received by
``sigwaitinfo`` (``sigtimedwait`` of CPython 3.11 returns uninitialised memory if it is stopped past its timeout). A
signal that was sent to us alone is passed on; one that the terminal sent to the whole group is not, since the command
has received it. Ctrl-Z stops us together with the command.

A signal that is ignored (SIGHUP under ``nohup``) stays ignored: the command inherits the disposition, so one that is
passed on has no effect unless the command installs a handler.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from memwarden.contain.contained_process import ContainedProcess
from memwarden.model.exits import ExitReport
from memwarden.process.signals import known

#: si_code of a signal that the kernel made, such as the terminal's on Ctrl-C (asm-generic/siginfo.h).
_SI_KERNEL = 0x80


PASSED_ON = known("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_TAKEN = (*PASSED_ON, *known("SIGCHLD", "SIGWINCH"))


class Signals:
    """Blocks our signals, in every thread started from now on; ``before`` is the mask for the command."""

    def __init__(self) -> None:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)

    def wait(self, command: ContainedProcess, on_resize: Callable[[], None]) -> ExitReport:
        """Pass signals on until the command has exited; return its report."""
        while True:
            if command.poll() is not None:
                assert command.report is not None
                return command.report
            received = signal.sigwaitinfo(_TAKEN)
            if received.si_signo == signal.SIGWINCH:
                on_resize()
            elif received.si_signo != signal.SIGCHLD and received.si_code != _SI_KERNEL:
                command.send_signal(received.si_signo)

    @staticmethod
    def wake(_: object = None) -> None:
        """Wake :meth:`wait` up, from another thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGCHLD)


class Terminal:
    """The terminal's foreground process group, to be restored if a shell inside kept it."""

    def __init__(self) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
            if os.tcgetpgrp(fd) == os.getpgrp():
                self._fd = fd
            else:
                os.close(fd)  # we run in the background: there is nothing to restore

    def restore(self) -> None:
        """Put our group in the foreground again, after a command that left its own there."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
                os.tcsetpgrp(self._fd, os.getpgrp())
        os.close(self._fd)
        self._fd = -1


class LiveLine:
    """A status line on the last row, below the command's output.

    The terminal scrolls only the rows above (DECSTBM), so nothing is drawn over the command's output. A full-screen
    program resets that; the next update sets it again.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._rows = self._columns = 0
        self._on = self._stream is not None and self._stream.isatty()

    def resize(self) -> None:
        """Measure the terminal, and reserve its last row."""
        if not self._on:
            return
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            self._rows, self._columns = rows or 24, columns or 80  # a serial line has no size
        if self._rows > 2:
            # A line feed first: the text on the last row moves up before the row is reserved.
            self._write(f"\n\0337\033[1;{self._rows - 1}r\0338\033[1A")

    def show(self, text: str) -> None:
        """Draw the line."""
        if self._on and self._rows > 2:
            self._write(f"\0337\033[{self._rows};1H\033[2K{text[: self._columns - 1]}\0338")

    def stop(self) -> None:
        """Release the row."""
        if self._on and self._rows > 2:
            self._write(f"\0337\033[r\033[{self._rows};1H\033[2K\0338")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
