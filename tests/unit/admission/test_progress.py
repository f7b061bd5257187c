"""Progress of a batch: the callback and the terminal line."""

import io
import threading

import pytest

from memwarden.admission.executor.batch_report import BatchStats
from memwarden.admission.executor.progress import ProgressThread, TerminalLine, progress_text, progress_thread
from memwarden.model.units import MIB


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def report():
    """Four of five tasks done, one of them failed; three running, one of these paused."""
    kept = BatchStats()
    kept.submitted, kept.finished, kept.failed = 5, 3, 1
    kept.start(100.0)
    kept.record_point(110.0, 3, 1, 2, 90 * MIB, 100 * MIB, 128 * MIB)
    return kept.report(128 * MIB, "polling", 4, 0)


def test_the_line_has_counts_memory_and_time():
    """The counts first, the time last."""
    assert progress_text(report(), "executor") == (
        "executor  4/5  1 failed  2 running, 1 paused  100.0 MiB of 128.0 MiB  10.0 s"
    )
    assert progress_text(BatchStats().report(MIB, "polling", 1, 0), "executor") == "executor  0/0  0 ms"


def test_a_terminal_line_is_redrawn_and_left_at_the_end():
    """One line, cut to the width of the terminal."""
    stream = Terminal()
    line = TerminalLine("x" * 100, stream)
    line.show(report())
    line.show(report())
    line.close()
    assert stream.getvalue() == f"\r{'x' * 79}\033[K" * 2 + "\n"


def test_a_callback_gets_reports_from_its_own_thread_and_a_last_one():
    """The last report is shown however short the batch was."""
    seen = []
    thread = progress_thread(lambda report: seen.append((report, threading.current_thread())), "x", report)
    thread.start()
    thread.stop()
    assert [each.finished for each, _ in seen] == [3]
    assert seen[0][1] is not threading.current_thread()


def test_output_that_blocks_does_not_block_the_end(monkeypatch):
    """The thread is left behind."""
    monkeypatch.setattr("memwarden.admission.executor.progress._STOP_TIMEOUT", 0.05)
    free = threading.Event()
    thread = ProgressThread(report, lambda report: free.wait(20))
    thread.start()
    thread.stop()
    assert thread._thread.is_alive()
    free.set()
    thread._thread.join(20)


@pytest.mark.parametrize(
    ("stream", "term", "progress"),
    [
        (io.StringIO(), "xterm", True),
        (None, "xterm", True),
        (Terminal(), "dumb", True),
        (Terminal(), "xterm", False),
    ],
)
def test_no_line_without_a_terminal(stream, term, progress, monkeypatch):
    """Neither a line nor a thread."""
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", term)
    assert progress_thread(progress, "x", report) is None


def test_a_line_on_a_terminal(monkeypatch):
    """On standard error."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    assert progress_thread(True, "x", report) is not None
