"""A full-screen view on a terminal, and the signals that arrive while it is drawn.

The view uses the terminal's alternate screen, as less and top do: the previous content returns at the end, however the
program ends (Ctrl-C, SIGTERM, a closed terminal), and while Ctrl-Z stops it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from memwarden.model.events import Event, EventKind

if TYPE_CHECKING:
    from rich.text import Text

    from memwarden.faces.cli.live.table import Line

#: Maximum readings in the queue; more are dropped while the output blocks.
_QUEUED = 256

#: Signals that stop a watch.
_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_WINCH, _TSTP = getattr(signal, "SIGWINCH", None), getattr(signal, "SIGTSTP", None)


class Inbox:
    """Queue of a warden's events and of signals, in order of arrival, for one thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event | int] = queue.SimpleQueue()
        self._stopping = False

    def put(self, event: Event) -> None:
        """Add an event; on any thread. Readings are dropped while the queue is full."""
        if event.kind is not EventKind.SAMPLE or self._queue.qsize() < _QUEUED:
            self._queue.put(event)

    def get(self, seconds: float) -> Event | int | None:
        """Return the next event or signal; None when none arrives in time."""
        try:
            return self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    @property
    def pending(self) -> bool:
        """True while the queue is not empty."""
        return not self._queue.empty()

    def drain(self) -> Iterator[Event]:
        """Yield the queued events; drop signals."""
        while self.pending:
            item = self._queue.get()
            if isinstance(item, Event):
                yield item

    @contextlib.contextmanager
    def signals(self, *, drawn: bool) -> Iterator[None]:
        """Queue signals that stop a watch and, with ``drawn``, those of the terminal."""
        numbers = [*_STOPPING, *[number for number in (_WINCH, _TSTP) if drawn and number is not None]]
        if threading.current_thread() is not threading.main_thread():
            numbers = []
        previous = {}
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and background jobs ignore them on purpose
                previous[number] = signal.signal(number, self._signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _signal(self, number: int, _: object) -> None:
        if number in _STOPPING:
            if self._stopping:  # the second one: the output blocks, because its reader does not read
                raise KeyboardInterrupt
            self._stopping = True
        self._queue.put(number)


class Output:
    """Context for standard output: a closed pipe ends the block quietly, another write error with a message.

    ``code`` is the exit code of the command afterwards.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.code = 0

    def print(self, text: str) -> None:
        """Print a line and flush it."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, KeyboardInterrupt):
            self._discard()  # the reader may not read: the interpreter's exit would block on the flush
            return False
        if not isinstance(error, OSError) or error.filename is not None:
            return False
        if not isinstance(error, BrokenPipeError):
            print(f"memwarden {self._command}: standard output: {error.strerror}", file=sys.stderr)
            self.code = 1
        self._discard()
        return True

    @staticmethod
    def _discard() -> None:
        """Send what is buffered to /dev/null, so that the interpreter's exit neither fails nor blocks."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)


class Screen:
    """Lines on the alternate screen of a terminal; ``draw(width, height)`` returns them."""

    def __init__(self, draw: Callable[[int, int], list[Line]], stream: TextIO | None = None) -> None:
        from rich.console import Console

        self._draw = draw
        self._console = Console(file=stream or sys.stdout, highlight=False, markup=False, emoji=False)
        self._live: Any = None

    def __enter__(self) -> Screen:
        from rich.live import Live

        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def refresh(self) -> None:
        """Draw the view."""
        if self._live is not None:
            size = self._console.size
            self._live.update(_text(self._draw(size.width, size.height)), refresh=True)

    def print(self, lines: list[Line]) -> None:
        """Print lines on the normal screen, after the view was closed."""
        self._console.print(_text(lines), soft_wrap=True)

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._console.size.width

    def handle(self, number: int) -> bool:
        """Handle a signal of the terminal; False where the signal stops the watch."""
        if number == _WINCH:
            self.refresh()
        elif number == _TSTP:
            self.__exit__()
            os.kill(os.getpid(), signal.SIGSTOP)  # continues here after `fg`
            self.__enter__()
            self.refresh()
        else:
            return False
        return True


def _text(lines: list[Line]) -> Text:
    from rich.text import Text

    return Text("\n", no_wrap=True, end="", overflow="crop").join(Text.assemble(*line) for line in lines)
