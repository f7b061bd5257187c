"""Progress of ``memwarden map``."""

import io
import sys

import pytest

from memwarden.admission.executor.batch_report import BatchStats
from memwarden.faces.cli.live import batch_progress
from memwarden.faces.cli.live.batch_progress import BatchProgress
from memwarden.model.units import MIB


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def report():
    """Two tasks running."""
    kept = BatchStats()
    kept.submitted = 5
    kept.start(100.0)
    kept.record_point(110.0, 2, 0, 2, 90 * MIB, 100 * MIB, 128 * MIB)
    return kept.report(128 * MIB, "polling", 4, 0)


def use_terminal(monkeypatch):
    """Make standard error a terminal of 100 columns. (In a fixture, pytest's capture would replace it again.)"""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


def test_a_bar_shows_counts_and_memory(monkeypatch, report):
    """Inputs done of all, what failed, running tasks and memory."""
    terminal = use_terminal(monkeypatch)
    bar = BatchProgress(5, lambda: (2, 1))
    bar.show(report)
    for text in ("memwarden map", "2/5", "1 failed  2 running  100.0 MiB of 128.0 MiB"):
        assert text in terminal.getvalue()


def test_the_bar_is_away_while_other_output_is_written(monkeypatch, report):
    """It is erased before, comes back with the next report, and is erased at the end."""
    terminal = use_terminal(monkeypatch)
    bar = BatchProgress(5, lambda: (2, 0))
    bar.show(report)
    with bar.hidden():
        assert terminal.getvalue().rstrip("\r").endswith("\033[2K")
        terminal.write("output\n")
    before = len(terminal.getvalue())
    bar.show(report)
    assert "2/5" in terminal.getvalue()[before:]
    bar.close()
    assert terminal.getvalue().rstrip("\r").endswith("\033[2K")
    before = terminal.getvalue()
    bar.show(report)  # the executor's thread may report once more
    assert terminal.getvalue() == before


def test_plain_lines_without_a_terminal(monkeypatch, report):
    """One at most every 30 seconds, without control characters."""
    now = [0.0]
    monkeypatch.setattr(batch_progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr", io.StringIO())
    lines = BatchProgress(5, lambda: (2, 0))
    for moment in (0.0, 29.0, 31.0, 40.0, 61.0):
        now[0] = moment
        lines.show(report)
    assert sys.stderr.getvalue() == "memwarden map  2/5  2 running  100.0 MiB of 128.0 MiB  10.0 s\n" * 2
