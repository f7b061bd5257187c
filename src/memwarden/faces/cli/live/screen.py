"""A terminal that is drawn anew again and again, and the signals that come meanwhile.

The view stands on the terminal's other screen, as that of less and top does: what was there before comes back at the
end, whatever ends it (Ctrl-C, SIGTERM, a closed terminal), and while Ctrl-Z stops it.
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

from memwarden.faces import render
from memwarden.model.events import Event, EventKind

if TYPE_CHECKING:
    from rich.text import Text

    from memwarden.faces.cli.live.table import Line

#: Readings that wait at most for somebody who does not read on.
_WAITING = 256


def _number(name: str) -> int | None:
    return getattr(signal, name, None)


#: Signals that end a watch.
_ENDING = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := _number(name)) is not None]
_WINCH, _TSTP = _number("SIGWINCH"), _number("SIGTSTP")


class Inbox:
    """Events of a warden and signals of the system, in the order in which they come, for one thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event | int] = queue.SimpleQueue()
        self._asked = False

    def receive(self, event: Event) -> None:
        """Take in an event; on any thread. Readings are dropped while nobody takes them out."""
        if event.kind is not EventKind.SAMPLE or self._queue.qsize() < _WAITING:
            self._queue.put(event)

    def take(self, seconds: float) -> Event | int | None:
        """The next event or signal; None when none has come in that time."""
        try:
            return self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    @property
    def waits(self) -> bool:
        """Whether something waits to be taken."""
        return not self._queue.empty()

    def rest(self) -> Iterator[Event]:
        """The events that have come already."""
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, Event):
                yield item

    @contextlib.contextmanager
    def signals(self, *, drawn: bool) -> Iterator[None]:
        """Take in signals: those that end a watch, and, where a screen is drawn, those that concern the terminal."""
        numbers = [*_ENDING, *[number for number in (_WINCH, _TSTP) if drawn and number is not None]]
        if threading.current_thread() is not threading.main_thread():
            numbers = []
        before = {}
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and a shell's background job, mean it
                before[number] = signal.signal(number, self._signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signal(self, number: int, _: object) -> None:
        if number in _ENDING:
            if self._asked:  # we hang somewhere, writing to somebody who does not read
                raise KeyboardInterrupt
            self._asked = True
        self._queue.put(number)


class Output:
    """Standard output whose reader may go away, or whose disk may be full: a block that ends quietly, or with a line.

    ``code`` is what the command then exits with.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.code = 0

    def print(self, text: str) -> None:
        """Print a line, at once."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, KeyboardInterrupt):
            self._leave()  # perhaps somebody does not read: the interpreter's end would wait for him
            return False
        if not isinstance(error, OSError) or error.filename is not None:
            return False
        if not isinstance(error, BrokenPipeError):  # else whoever read has seen enough
            print(f"memwarden {self._command}: standard output: {error.strerror}", file=sys.stderr)
            self.code = 1
        self._leave()
        return True

    @staticmethod
    def _leave() -> None:
        """What is still buffered goes nowhere, so that it neither complains nor waits at the interpreter's end."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


class Screen:
    """Draws lines on the other screen of a terminal; ``draw(width, height)`` gives them."""

    def __init__(self, draw: Callable[[int, int], list[Line]], stream: TextIO | None = None) -> None:
        from rich.console import Console

        self._draw = draw
        self._stream = sys.stdout if stream is None else stream
        self._console = Console(file=self._stream, highlight=False, markup=False, emoji=False)
        self._live: Any = None

    @property
    def blocks(self) -> bool:
        """Whether block characters can be drawn."""
        return render.can_draw(self._stream)

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

    def show(self) -> None:
        """Draw it anew."""
        if self._live is not None:
            size = self._console.size
            self._live.update(_text(self._draw(size.width, size.height)), refresh=True)

    def leave(self, lines: list[Line]) -> None:
        """Leave lines on the screen that comes back."""
        self._console.print(_text(lines), soft_wrap=True)

    @property
    def width(self) -> int:
        return self._console.size.width

    def heed(self, number: int) -> bool:
        """Follow a signal that concerns the terminal; False where it means the end."""
        if number == _WINCH:
            self.show()
        elif number == _TSTP:
            self.__exit__()
            os.kill(os.getpid(), signal.SIGSTOP)  # and here we go on after `fg`
            self.__enter__()
            self.show()
        else:
            return False
        return True


def _text(lines: list[Line]) -> Text:
    from rich.text import Text

    text = Text(no_wrap=True, end="", overflow="crop")
    for at, line in enumerate(lines):
        if at:
            text.append("\n")
        for part, style in line:
            text.append(part, style or None)
    return text
