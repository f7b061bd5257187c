"""Progress of a batch: a callback, called from its own thread, and one line for a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO, TypeAlias

from memwarden.admission.executor.batch_report import BatchReport
from memwarden.model.units import seconds_text, size_text

ProgressCallback: TypeAlias = Callable[[BatchReport], object]

#: Seconds between two calls; users do not read faster.
_INTERVAL = 0.25
#: Seconds that :meth:`ProgressThread.stop` waits for a terminal that takes no output.
_STOP_TIMEOUT = 1.0


class ProgressThread:
    """Calls ``show(report())`` four times a second and once at the end. Output that blocks delays no task."""

    def __init__(
        self, report: Callable[[], BatchReport], show: ProgressCallback, close: Callable[[], object] = lambda: None
    ) -> None:
        self._report, self._show, self._close = report, show, close
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memwarden-progress", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Show the last report, and end the thread."""
        self._stopping.set()
        self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL):
            self._show(self._report())
        self._show(self._report())
        self._close()


class TerminalLine:
    """One line on a terminal, redrawn with each report."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream

    def show(self, report: BatchReport) -> None:
        """Redraw the line, cut to the terminal's width."""
        columns = 80
        with contextlib.suppress(OSError, ValueError):
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80
        self._write(f"\r{progress_text(report, self._name)[: columns - 1]}\033[K")

    def close(self) -> None:
        """Leave the line as it is."""
        self._write("\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def progress_thread(
    progress: bool | ProgressCallback, name: str, report: Callable[[], BatchReport]
) -> ProgressThread | None:
    """Return what an executor's ``progress=`` asks for: nothing, a callback, or a line if stderr is a terminal."""
    if callable(progress):
        return ProgressThread(report, progress)
    if not progress or not is_terminal(sys.stderr):
        return None
    line = TerminalLine(name, sys.stderr)
    return ProgressThread(report, line.show, line.close)


def progress_text(report: BatchReport, name: str) -> str:
    """Return the progress of a batch in one line, the most important figures first."""
    done = report.finished + report.failed + report.cancelled
    parts = [f"{name}  {done}/{report.submitted}"]
    if report.failed:
        parts.append(f"{report.failed} failed")
    parts.append(usage_text(report))
    parts.append(seconds_text(report.makespan))
    return "  ".join(filter(None, parts))


def usage_text(report: BatchReport) -> str:
    """Return the running tasks and their memory now; empty before the first one runs."""
    if not report.points:
        return ""
    now = report.points[-1]
    parts = [f"{now.running - now.paused} running" + (f", {now.paused} paused" if now.paused else "")]
    parts.append(f"{size_text(now.used)} of {size_text(now.budget)}")
    if report.requeues:
        parts.append(f"{report.requeues} requeued")
    return "  ".join(parts)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a line can be redrawn there."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False
