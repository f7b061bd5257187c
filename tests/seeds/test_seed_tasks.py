"""Snippets of the seed S4 about one task's memory, with only the import lines changed.

What a snippet leaves open (``logger``, the work itself) is given by the few lines around it.
"""

import logging
import re

import pytest

from memwarden.compat import memory_monitor
from memwarden.guards.measure.peak_rss import peak_scopes

MIB = 1 << 20
LINE = re.compile(
    r"(?:HIGH MEMORY USAGE: )?Memory \[my_task\] "
    r"(START|checkpoint:\w+|FINISH \(delta=[+-]\d+\.\dMB, peak=\d+\.\dMB\)): "
    r"RSS=(\d+\.\d)MB \(peak=(\d+\.\d)MB\), Process%=\d+\.\d%, System=\d+\.\d%, GC objects=[\d,]+"
)


@pytest.fixture(autouse=True)
def logged(caplog, monkeypatch):
    """The messages of the log; no descriptor is kept, for other tests count them."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(memory_monitor, "_next_collection", float("-inf"))
    yield caplog
    peak_scopes.release()


@pytest.mark.own_process
@pytest.mark.contract("S4-40", "S4-56", "S4-57", "S4-58", "S4-60")
def test_memory_monitor_class(logged):
    """Lines at the start, at the point and at the end, in the seed's words; a summary; a peak that was gone before."""
    from memwarden.compat.memory_monitor import MemoryMonitor

    # Create monitor
    monitor = MemoryMonitor(task_name="my_task", enable_gc=True)

    # Start monitoring
    monitor.start_monitoring()

    transient = b"x" * (96 * MIB)
    del transient
    kept = b"x" * (32 * MIB)

    # Log at checkpoint
    monitor.checkpoint("processing_phase")

    # Get detailed info
    mem_info = monitor.get_memory_info()

    # Finish and get summary
    summary = monitor.finish_monitoring()

    lines = [LINE.fullmatch(message) for message in logged.messages if message.startswith(("Memory", "HIGH"))]
    assert [line[1].partition(" ")[0] for line in lines] == ["START", "checkpoint:processing_phase", "FINISH"]
    assert float(lines[1][3]) - float(lines[0][2]) == pytest.approx(96, abs=4)
    assert summary["peak_mb"] - summary["start_mb"] == pytest.approx(96, abs=4)
    assert summary["delta_mb"] == pytest.approx(len(kept) / MIB, abs=4)
    assert summary["finish_mb"] == pytest.approx(mem_info["process"]["rss_mb"], abs=4)


@pytest.mark.contract("S4-41", "S4-40")
def test_manual_gc(logged):
    """What was freed, for the log."""
    logger = logging.getLogger("tasks")
    from memwarden.compat.memory_monitor import MemoryMonitor

    monitor = MemoryMonitor(task_name="my_task")
    gc_stats = monitor.force_garbage_collection()
    logger.info(f"Freed {gc_stats['freed_mb']}MB")

    assert re.fullmatch(r"Freed \d+\.\d+MB", logged.messages[-1])


@pytest.mark.own_process
@pytest.mark.contract("S4-47")
def test_cleanup_pattern(logged):
    """The two lines of the pattern show what the clean-up gave back."""
    from memwarden.compat.memory_monitor import MemoryMonitor

    class Task:
        def __init__(self):
            self.monitor = MemoryMonitor("my_task")
            self.memory_checkpoint = self.monitor.checkpoint
            self.large_cache = {"rows": bytearray(64 * MIB)}
            self.temporary_data = bytearray(32 * MIB)

        # Add explicit cleanup
        def cleanup_large_objects(self):
            self.memory_checkpoint("before_cleanup")

            # Clear large data structures
            self.large_cache.clear()
            del self.temporary_data

            # Force GC
            import gc

            gc.collect()

            self.memory_checkpoint("after_cleanup")

    Task().cleanup_large_objects()

    before, after = [LINE.fullmatch(message) for message in logged.messages]
    assert (before[1], after[1]) == ("checkpoint:before_cleanup", "checkpoint:after_cleanup")
    assert float(before[2]) - float(after[2]) == pytest.approx(96, abs=4)


@pytest.mark.contract("S4-51")
def test_alert_thresholds(logged):
    """Nothing is said below the threshold; above it the program's own words come, too."""
    logger = logging.getLogger("tasks")
    from memwarden.compat.memory_monitor import check_memory_threshold

    if not check_memory_threshold(threshold_mb=3000):
        # Send alert (email, Slack, etc.)
        logger.critical("Memory threshold exceeded!")
    assert not logged.messages

    kept = bytearray(64 * MIB)
    if not check_memory_threshold(threshold_mb=len(kept) / MIB):
        logger.critical("Memory threshold exceeded!")
    assert logged.messages[-1] == "Memory threshold exceeded!"


@pytest.mark.contract("S4-61", "S4-62")
def test_utility_functions(logged):
    """The three can be imported as the reference does, and describe this process and system."""
    from memwarden.compat.memory_monitor import (
        check_memory_threshold,  # Check if memory exceeds limit
        get_system_memory_summary,  # Get system-wide memory info
        log_worker_memory_summary,  # Log overall worker memory
    )

    log_worker_memory_summary()
    assert re.fullmatch(
        r"Worker memory summary: PID=\d+, RSS=[\d.]+MB, Process%=[\d.]+%, System=[\d.]+% \(available=[\d.]+MB\)",
        logged.messages[0],
    )
    summary = get_system_memory_summary()
    assert summary["virtual_memory"]["total_gb"] > summary["virtual_memory"]["available_gb"] > 0
    assert check_memory_threshold(threshold_mb=1e6)
