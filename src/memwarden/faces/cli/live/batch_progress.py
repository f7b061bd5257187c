"""Progress of ``memwarden map``: a bar on a terminal, else a line from time to time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from memwarden.admission.executor.batch_report import BatchReport
from memwarden.admission.executor.progress import is_terminal, usage_text
from memwarden.model.units import seconds_text

#: Seconds between two lines where standard error is no terminal.
PLAIN_SECONDS = 30.0


class BatchProgress:
    """Shows on standard error how many of ``total`` inputs are done.

    ``counts`` returns how many are done, well or not, and how many of them failed. :meth:`show` is the executor's
    ``progress=`` callback.
    """

    def __init__(self, total: int, counts: Callable[[], tuple[int, int]]) -> None:
        self._total, self._counts = total, counts
        self._lock = threading.Lock()
        self._closed = False
        self._next_line = time.monotonic() + PLAIN_SECONDS
        self._bar: Progress | None = None
        if is_terminal(sys.stderr):
            self._bar = Progress(
                TextColumn("memwarden map"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[usage]}", markup=False),
                TimeElapsedColumn(),
                console=Console(file=sys.stderr),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("", total=total, usage="")

    def show(self, report: BatchReport) -> None:
        """Redraw the bar, or print a line when it is time for one."""
        done, failed = self._counts()
        usage = "  ".join(filter(None, [f"{failed} failed" if failed else "", usage_text(report)]))
        with self._lock, contextlib.suppress(OSError, ValueError):  # the terminal is gone
            if self._closed:
                return
            if self._bar is not None:
                self._bar.update(self._task, completed=done, usage=usage)
                self._bar.start()
                self._bar.refresh()
            elif time.monotonic() >= self._next_line:
                self._next_line += PLAIN_SECONDS
                parts = [f"memwarden map  {done}/{self._total}", usage, seconds_text(report.makespan)]
                print("  ".join(filter(None, parts)), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the terminal while other output is written; the next report brings it back."""
        with self._lock:
            self._stop()
            yield

    def close(self) -> None:
        """Remove the bar for good."""
        with self._lock:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.stop()
