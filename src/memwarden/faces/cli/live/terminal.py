"""Signals and the terminal, while a command owns it.

The command runs in our own process group, so it is in the foreground exactly when we are, in a pipeline
too, and Ctrl-C and Ctrl-Z reach it from the terminal itself. We only must not die of them: our signals
are blocked and taken in by ``sigwaitinfo``. One that somebody sent to us alone is passed on; one that the
terminal sent to the whole group is not, since the command has it already. Ctrl-Z stops us together with
the command, as it should.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from memwarden.contain.contained_process import ContainedProcess
from memwarden.model.exits import ExitReport

#: si_code of a signal that the kernel made, such as the terminal's on Ctrl-C (asm-generic/siginfo.h).
_SI_KERNEL = 0x80


def _known(*names: str) -> tuple[signal.Signals, ...]:
    """Those of the signals that this system has."""
    return tuple(signal.Signals[name] for name in names if name in signal.Signals.__members__)


PASSED_ON = _known("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_TAKEN = (*PASSED_ON, *_known("SIGCHLD", "SIGWINCH"))


class Signals:
    """Blocks our signals, in every thread started from now on; ``before`` is the mask that the command gets."""

    def __init__(self) -> None:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)

    def until_ended(self, command: ContainedProcess, on_resize: Callable[[], None]) -> ExitReport:
        """Pass signals on until the command has ended."""
        while True:
            ending = command.wait(0)
            if ending is not None:
                return ending
            told = signal.sigtimedwait(_TAKEN, 1.0)
            if told is None or told.si_signo == signal.SIGCHLD:
                continue
            if told.si_signo == signal.SIGWINCH:
                on_resize()
            elif told.si_code != _SI_KERNEL:
                command.send(told.si_signo)

    @staticmethod
    def wake(_: object = None) -> None:
        """Have :meth:`until_ended` look again; from another thread."""
        signal.pthread_kill(_main_thread(), signal.SIGCHLD)


def _main_thread() -> int:
    import threading

    ident = threading.main_thread().ident
    assert ident is not None
    return ident


class Terminal:
    """Who owned the terminal before, so that it can be taken back when a shell inside kept it."""

    def __init__(self) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
            if os.tcgetpgrp(fd) == os.getpgrp():
                self._fd = fd
            else:
                os.close(fd)  # we are in the background: it is not ours to give back

    def restore(self) -> None:
        """Our group in the foreground again, after a command that left its own group there."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
                os.tcsetpgrp(self._fd, os.getpgrp())
        os.close(self._fd)
        self._fd = -1


class LiveLine:
    """A status line on the last row, which the command's output scrolls above.

    The terminal is told to scroll only the rows above (DECSTBM), so nothing is drawn over what the command
    prints. A full-screen program resets that, and the line then waits for its next turn.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._rows = self._columns = 0
        self._on = self._stream is not None and self._stream.isatty()

    def begin(self) -> None:
        """Keep the last row free."""
        if self._on:
            self.resize()

    def resize(self) -> None:
        """Measure the terminal anew."""
        if not self._on:
            return
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(self._stream.fileno())
            self._rows, self._columns = rows or 24, columns or 80  # a serial line does not know its size
        if self._rows > 2:
            # A new line first: what stood on the last row moves up before the row is taken.
            self._write(f"\n\0337\033[1;{self._rows - 1}r\0338\033[1A")

    def show(self, text: str) -> None:
        """Draw the line."""
        if self._on and self._rows > 2:
            self._write(f"\0337\033[{self._rows};1H\033[2K{text[: self._columns - 1]}\0338")

    def end(self) -> None:
        """Give the row back."""
        if self._on and self._rows > 2:
            self._write(f"\0337\033[r\033[{self._rows};1H\033[2K\0338")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
