"""Snippets of the seeds S1 and S2, with only the import lines changed, as far as their names exist.

What a snippet leaves open (``time``, ``logger``, ``self``) is given by the few lines around it. Where it would
sleep, time is the test's, and a machine that the test sets stands for the real one.
"""

import json
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from memwarden.compat import simple_memory_monitor
from memwarden.model.facts import SystemMemory
from memwarden.testing import FakeClock, ScriptedReader

TOTAL = 1000 * (1 << 30)


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """Records go below the test's folder, and no monitor of the process is left behind."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    simple_memory_monitor.reset_monitor()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.long)])
def test_time(request, monkeypatch):
    """A machine of which 40 % is used, and time as the snippets use it: ``time.sleep`` moves the monitor's clock."""
    real = request.param == "real"
    clock = None if real else FakeClock()
    used = SimpleNamespace(percent=40)

    class Reader(ScriptedReader):
        def read(self):
            free = TOTAL - TOTAL * used.percent // 100
            return {"system": SystemMemory(TOTAL, free, free, 0, 0, 0)}

    original = simple_memory_monitor.SimpleMemoryMonitor

    def on_the_clock(*args, **options):
        used.monitor = original(*args, sources=lambda: [Reader([])], clock=clock, **options)
        return used.monitor

    def sleep(seconds):
        for _ in range(0, seconds, 5):
            clock.advance(5)
            assert used.monitor.flush()

    monkeypatch.setattr(simple_memory_monitor, "SimpleMemoryMonitor", on_the_clock)
    if clock is not None:
        monkeypatch.setattr(time, "sleep", sleep)
    return used


# --- S2 ------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S2-1", "S2-26")
def test_integration_example(tmp_path, capsys):
    """The example that makes, starts, asks, prints and stops, on this machine."""
    from memwarden.compat.simple_memory_monitor import get_monitor

    # Create monitor (5-min checks, alert at 80%)
    monitor = get_monitor(
        check_interval_seconds=300, alert_threshold_percent=80.0, log_file=tmp_path / "var" / "memory_monitor.log"
    )

    # Start monitoring in background
    monitor.start()

    # Check status anytime
    status = monitor.get_status()
    print(f"Current memory: {status['memory_percent']}")

    # Get detailed stats
    stats = monitor.get_detailed_status()
    print(f"Top process: {stats['top_processes'][0]}")

    # Print report
    monitor.print_stats()

    # Stop when done
    monitor.stop()

    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"Current memory: {status['percent']:.1f}%"
    assert printed[1].startswith("Top process: {'pid': ")
    assert printed[3] == "MEMORY MONITOR STATISTICS"
    assert "Monitoring: True" in printed


@pytest.mark.contract("S2-20")
def test_menu_example(tmp_path):
    """A log named below a folder that does not exist, started, and stopped in the end."""
    from memwarden.compat.simple_memory_monitor import get_monitor

    self = SimpleNamespace(models_dir=tmp_path)
    monitor = get_monitor(log_file=self.models_dir / "logs" / "memory.log")
    monitor.start()

    try:
        pass
    finally:
        monitor.stop()

    assert (tmp_path / "logs" / "memory.log").exists()


@pytest.mark.contract("S2-41")
def test_analysis_example(tmp_path, test_time, capsys):
    """The log can be counted and averaged by the seed's few lines."""
    monitor = simple_memory_monitor.SimpleMemoryMonitor(10, 30.0, tmp_path / "memory_monitor.log")
    monitor.start()
    time.sleep(60)
    monitor.stop()

    log_file = Path(tmp_path / "memory_monitor.log")
    entries = []

    with open(log_file) as f:
        for line in f:
            entries.append(json.loads(line))

    # Find peak memory
    peaks = [e for e in entries if e.get("event_type") == "ALERT"]
    print(f"Total alerts: {len(peaks)}")

    # Get average memory
    memory_checks = [float(e["percent"]) for e in entries if "percent" in e]
    avg = sum(memory_checks) / len(memory_checks)
    print(f"Average memory: {avg:.1f}%")

    # In real time the check at sixty seconds may still come before the stop, and its rest is then just over.
    alerts, average = capsys.readouterr().out.splitlines()
    assert alerts in ("Total alerts: 1", "Total alerts: 2")
    assert average == "Average memory: 40.0%"


@pytest.mark.contract("X-19")
def test_leak_recipe(capsys):
    """Processes are printed with one percent sign, and the block says the trend."""
    monitor = simple_memory_monitor.get_monitor()
    monitor.print_stats()
    assert "\nTrend: STABLE\n" in capsys.readouterr().out

    detailed = monitor.get_detailed_status()
    for proc in detailed["top_processes"]:
        print(f"{proc['name']}: {proc['memory_percent']}%")

    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.count("%") == 1 and float(line.rpartition(": ")[2][:-1]) >= 0 for line in lines)


def test_configuration_examples():
    """Aggressive, relaxed and high threshold: each value is the one in force."""
    from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor

    aggressive = SimpleMemoryMonitor(
        check_interval_seconds=60, alert_threshold_percent=75.0, log_file=Path("./memory_aggressive.log")
    )
    relaxed = SimpleMemoryMonitor(
        check_interval_seconds=900, alert_threshold_percent=85.0, log_file=Path("./memory_relaxed.log")
    )
    conservative = SimpleMemoryMonitor(
        check_interval_seconds=300, alert_threshold_percent=95.0, log_file=Path("./memory_conservative.log")
    )
    for monitor, interval, threshold, name in (
        (aggressive, 60, 75.0, "aggressive"),
        (relaxed, 900, 85.0, "relaxed"),
        (conservative, 300, 95.0, "conservative"),
    ):
        assert (monitor.check_interval_seconds, monitor.alert.threshold_percent) == (interval, threshold)
        monitor.start()
        monitor.stop()
        assert Path(f"memory_{name}.log").read_text().count("\n") == 3


@pytest.mark.contract("S2-51", "X-22")
def test_recommended_test_1(test_time):
    """Basic monitoring: ten seconds apart, after a minute five readings and more."""
    SimpleMemoryMonitor = simple_memory_monitor.SimpleMemoryMonitor

    monitor = SimpleMemoryMonitor(check_interval_seconds=10)
    monitor.start()
    time.sleep(60)  # Let it collect readings
    stats = monitor.get_stats()
    assert len(stats["readings"]) >= 5, "Should have 5+ readings"
    monitor.stop()

    assert len(stats["readings"]) in (6, 7)  # the last one is due in the very moment when the sleep ends


@pytest.mark.contract("S2-52", "S2-14")
def test_recommended_test_2(test_time):
    """Alert triggering: a very low threshold is passed."""
    SimpleMemoryMonitor = simple_memory_monitor.SimpleMemoryMonitor

    monitor = SimpleMemoryMonitor(
        check_interval_seconds=5,
        alert_threshold_percent=10.0,  # Very low threshold
    )
    monitor.start()
    time.sleep(30)
    assert monitor.metrics.alert_count > 0, "Should have triggered alerts"
    monitor.stop()

    assert monitor.metrics.alert_count == 1


@pytest.mark.contract("S2-53")
def test_recommended_test_3(test_time):
    """Log file output: the file is there, has lines, and the first one a time."""
    SimpleMemoryMonitor = simple_memory_monitor.SimpleMemoryMonitor

    log_file = Path("./test_memory.log")
    monitor = SimpleMemoryMonitor(check_interval_seconds=5, log_file=log_file)
    monitor.start()
    time.sleep(30)
    monitor.stop()

    assert log_file.exists(), "Log file should exist"
    with open(log_file) as f:
        lines = f.readlines()
        assert len(lines) > 0, "Log should have entries"
        entry = json.loads(lines[0])
        assert "timestamp" in entry, "Entry should have timestamp"

    assert len(lines) in (8, 9)  # the last check is due in the very moment when the sleep ends


# --- S1 ------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S1-13", "S1-14", "S1-66")
def test_current_memory_stats(capsys):
    """The monitor's first example, on this machine, before anything was started."""
    from memwarden.compat.memory_manager import get_memory_monitor

    # Get current memory stats
    monitor = get_memory_monitor()
    stats = monitor.get_current_stats()
    print(f"Available memory: {stats.available_mb}MB")
    print(f"Pressure level: {stats.pressure_level.value}")

    first, second = capsys.readouterr().out.splitlines()
    assert 0 < float(first.removeprefix("Available memory: ").removesuffix("MB")) <= stats.total_mb
    assert second.removeprefix("Pressure level: ") in ("low", "moderate", "high", "critical")
    if os.path.exists("/proc/self/statm"):
        assert stats.process_memory_mb > 1


@pytest.mark.contract("S1-66")
@pytest.mark.parametrize(("available", "low"), [(1023, True), (1024, False)])
def test_checking_before_large_operations(caplog, available, low):
    """Less than 1024 MB available leads to chunks; the levels can be compared by their words."""
    from memwarden.compat.memory_manager import MemoryMonitor

    logger, use_chunked_processing = logging.getLogger("seed"), False
    system = SystemMemory(8000 << 20, available << 20, 0, 0, 0, 0)
    monitor = MemoryMonitor(sources=lambda: [ScriptedReader([{"system": system}])])
    stats = monitor.get_current_stats()

    if stats.available_mb < 1024:  # Less than 1GB available
        logger.warning("Low memory - using chunked processing")
        use_chunked_processing = True

    assert use_chunked_processing is low
    assert stats.pressure_level.value in ["high", "critical"]
