"""Snippets of the seeds S1 and S2, with only the import lines changed, as far as their names exist.

What a snippet leaves open (``time``, ``logger``, ``self``) is given by the few lines around it. Where it would
sleep, time is the test's, and a machine that the test sets stands for the real one.
"""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from memwarden.compat import memory_manager, simple_memory_monitor
from memwarden.model.facts import SystemMemory
from memwarden.policy.presets import preset
from memwarden.testing import HOG, FakeClock, ScriptedReader

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
    used = SimpleNamespace(percent=40.0)

    class Reader(ScriptedReader):
        def read(self):
            free = TOTAL - round(TOTAL * used.percent / 100)
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


@pytest.mark.contract("S2-42", "X-19", "S2-16")
def test_leak_recipe(tmp_path, test_time, capsys):
    """Where memory climbs the block says so again and again, the log slopes upward, and processes can be printed."""
    log_file = tmp_path / "memory_monitor.log"
    monitor = simple_memory_monitor.SimpleMemoryMonitor(5, log_file=log_file)
    monitor.start()

    trends = []
    for _ in range(3):
        for _ in range(3):
            test_time.percent *= 1.05
            time.sleep(5)
        monitor.print_stats()
        # If trend shows "INCREASING" repeatedly, investigate
        trends += [line for line in capsys.readouterr().out.splitlines() if line.startswith("Trend: ")]
    monitor.stop()
    assert trends[-2:] == ["Trend: INCREASING"] * 2

    # Parse memory_monitor.log
    # Plot memory % over time
    # If graph shows upward slope, likely leak
    checks = [json.loads(line) for line in log_file.read_text().splitlines()]
    graph = [float(entry["percent"]) for entry in checks if "percent" in entry]
    assert graph == sorted(graph)
    assert graph[-1] > graph[0] + 10

    detailed = monitor.get_detailed_status()
    for proc in detailed["top_processes"]:
        print(f"{proc['name']}: {proc['memory_percent']}%")

    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.count("%") == 1 and float(line.rpartition(": ")[2][:-1]) >= 0 for line in lines)


@pytest.mark.contract("S2-44", "S2-45", "S2-46")
def test_configuration_examples():
    """Aggressive, relaxed and high threshold: each value is the one in force, and each is a preset, too."""
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
    for monitor, interval, threshold, name, native in (
        (aggressive, 60, 75.0, "aggressive", "aggressive"),
        (relaxed, 900, 85.0, "relaxed", "relaxed"),
        (conservative, 300, 95.0, "conservative", "high-threshold"),
    ):
        assert (monitor.check_interval_seconds, monitor.alert.threshold_percent) == (interval, threshold)
        assert preset(native).interval == interval
        assert [rule.when for rule in preset(native).rules] == [f"used > {threshold:g}%"]
        monitor.start()
        monitor.stop()
        assert Path(f"memory_{name}.log").read_text().count("\n") == 3


@pytest.mark.contract("S2-55")
@pytest.mark.parametrize(
    ("used", "alerts"),
    [pytest.param(60, 0, id="stable"), pytest.param(108, 0, id="full"), pytest.param(109, 1, id="over")],
)
def test_deployment_on_a_large_server(used, alerts):
    """128 GB, a check each 10 minutes, an alert above 108.8 GB: the 40 to 60 GB of models are no matter."""
    clock = FakeClock()
    system = SystemMemory(128 << 30, (128 - used) << 30, 0, 0, 0, 0)
    monitor = simple_memory_monitor.SimpleMemoryMonitor(
        check_interval_seconds=600,
        alert_threshold_percent=85.0,
        sources=lambda: [ScriptedReader([{"system": system}])],
        clock=clock,
    )
    monitor.start()
    for _ in range(120):
        clock.advance(5)
        assert monitor.flush()
    assert (len(monitor.metrics.memory_readings), monitor.metrics.alert_count > 0) == (2, alerts > 0)
    monitor.stop()
    assert (preset("server").interval, preset("server").rules[0].when) == (600, "used > 85%")


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


@pytest.fixture
def no_monitor(monkeypatch):
    """The process has no pressure monitor yet, and keeps none."""
    monkeypatch.setattr(memory_manager, "_monitor", None)
    yield
    memory_manager.get_memory_monitor().stop_monitoring()


@pytest.mark.contract("S1-8", "S1-63")
def test_basic_setup(no_monitor, capsys):
    """At application startup: it succeeds, and is then available."""
    from memwarden.compat.memory_init import setup_memory_management

    # Initialize memory management (recommended at application startup)
    success = setup_memory_management()
    if not success:
        print("Warning: Memory management not available")

    from memwarden.compat.memory_init import is_memory_management_available

    print(f"Available: {is_memory_management_available()}")

    assert capsys.readouterr().out == "Available: True\n"


@pytest.mark.contract("S1-48", "S1-49")
def test_check_memory_status(no_monitor, capsys):
    """The three parts can be printed, on this machine; and there is no error."""
    from memwarden.compat.memory_init import get_memory_status

    status = get_memory_status()
    print("Memory Status:", status["memory"])
    print("Active Resources:", status["resources"])
    print("FFmpeg Processes:", status["ffmpeg"])

    status = get_memory_status()
    if "error" in status:
        print(f"Error: {status['error']}")

    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("Memory Status: {'total_mb': ")
    assert second.startswith("Active Resources: {'tracked_processes': 0, 'tracked_files': 0, ")
    assert third == "FFmpeg Processes: {'active_processes': 0, 'total_memory_mb': 0}"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are tracked on Linux")
@pytest.mark.contract("S1-51", "S1-52", "W1-5")
def test_monitor_specific_processes(no_monitor, capsys):
    """A process that takes memory after it was tracked is shown as it is now, and no more when it has ended."""
    from memwarden.compat.memory_manager import get_memory_monitor

    process = subprocess.Popen(
        [sys.executable, "-c", HOG, "1", "0", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        monitor = get_memory_monitor()

        # Track FFmpeg process
        monitor.track_process(process.pid, "ffmpeg_encode", is_ffmpeg=True)

        while process.stdout.readline() != "at cap\n":
            pass

        # Get tracked processes
        processes = monitor.get_ffmpeg_processes()
        for proc in processes:
            print(f"Process {proc.pid}: {proc.memory_mb:.1f}MB")
    finally:
        process.communicate()

    said = capsys.readouterr().out
    assert said.startswith(f"Process {process.pid}: ")
    assert 60 < float(said.rpartition(" ")[2].removesuffix("MB\n")) < 120
    assert monitor.get_ffmpeg_processes() == []
