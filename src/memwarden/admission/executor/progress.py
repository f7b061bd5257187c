"""How far a batch has come, as one line that is drawn anew."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from memwarden.admission.executor.batch_report import BatchReport
from memwarden.model.units import seconds_text, size_text

#: Drawn at most so often, seconds: a person reads no faster.
_EVERY = 0.25
#: So long may a stream that takes nothing hold up the end.
_PATIENCE = 1.0
_BAR = 20


class ProgressLine:
    """Draws ``text(width, blocks)`` on the last line of a terminal, from a thread of its own: the stream may block.

    Where the stream is no terminal nothing is drawn, or with ``plain`` a line every so many seconds.
    """

    def __init__(
        self, text: Callable[[int, bool], str], stream: TextIO | None = None, *, plain: float | None = None
    ) -> None:
        self._text = text
        self._stream = sys.stderr if stream is None else stream
        self._plain = plain
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._drawn = ""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        if self._is_terminal() or self._plain is not None:
            self._thread = threading.Thread(target=self._run, name="memwarden-progress", daemon=True)
            self._thread.start()

    def stop(self, *, leave: bool = True) -> None:
        """End; ``leave`` the line as it is at last, or erase it."""
        if self._thread is None:
            return
        self._ending.set()
        self._thread.join(_PATIENCE)
        if not self._thread.is_alive() and self._is_terminal():
            if leave:
                self._draw()
                self._write("\n" if self._drawn else "")
            else:
                self._erase()
        self._thread = None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Erased for as long as somebody else writes to the terminal."""
        with self._lock:
            self._erase()
            yield

    def _run(self) -> None:
        terminal = self._is_terminal()
        while not self._ending.wait(_EVERY if terminal or self._plain is None else self._plain):
            with self._lock:
                if terminal:
                    self._draw()
                else:
                    self._write(f"{self._text(120, False)}\n")

    def _draw(self) -> None:
        columns = 80
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80
        text = self._text(columns - 1, _takes_blocks(self._stream))[: columns - 1]
        if text != self._drawn:
            self._write(f"\r{text}\033[K")
            self._drawn = text

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r\033[K")
            self._drawn = ""

    def _is_terminal(self) -> bool:
        try:
            return self._stream.isatty() and os.environ.get("TERM") != "dumb"
        except (AttributeError, ValueError):  # None under pythonw; closed
            return False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def progress_text(
    report: BatchReport, width: int, blocks: bool, *, name: str, ended: int, failed: int, total: int
) -> str:
    """How a batch stands, in one line; the less important of it is left out where there is no room."""
    now = report.moments[-1] if report.moments else None
    share = ended / total if total else 0.0
    filled = round(share * _BAR)
    bar = "█" * filled + "░" * (_BAR - filled) if blocks else "#" * filled + "-" * (_BAR - filled)
    parts = [f"{name}  {ended}/{total} {bar}"]
    if failed:
        parts.append(f"{failed} failed")
    if now is not None:
        parts.append(f"{now.running - now.paused} at work" + (f", {now.paused} paused" if now.paused else ""))
        parts.append(f"{size_text(now.used)} of {size_text(now.budget)}")
    if report.requeues:
        parts.append(f"{report.requeues} put back")
    parts.append(seconds_text(report.makespan))
    while len(parts) > 1 and len("  ".join(parts)) > width:
        parts.pop()
    return "  ".join(parts)


def _takes_blocks(stream: TextIO) -> bool:
    try:
        "█░".encode(stream.encoding or "ascii")
    except (AttributeError, UnicodeEncodeError, LookupError):
        return False
    return True
