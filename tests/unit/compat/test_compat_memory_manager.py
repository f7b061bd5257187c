"""The video programs' monitor: figures, levels, callbacks; on a fake clock and scripted readers."""

import subprocess
import sys
import threading

import pytest

from memwarden import ReadError
from memwarden.compat import memory_manager
from memwarden.compat.memory_manager import MemoryMonitor, MemoryPressureLevel, get_memory_monitor
from memwarden.model.facts import CgroupMemory, Gap, ProcessKey, ProcessMemory, SystemMemory
from memwarden.testing import FakeClock, ScriptedReader, gone
from support.dial import Dial

MIB = 1 << 20
#: So large that headroom never makes the pace shorter than the interval for long.
TOTAL = 1 << 40


def pass_time(monitor, clock, seconds):
    """In steps so short that a receiver at work, on real time, is never taken for one that hangs."""
    for _ in range(seconds // 2):
        clock.advance(2)
        assert monitor.flush()


@pytest.fixture
def dial():
    return Dial(10.0, TOTAL)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def monitor(dial, clock):
    made = MemoryMonitor(sources=lambda: [dial], clock=clock)
    yield made
    made.stop_monitoring()


def of(*facts):
    """A monitor that sees these facts."""
    return MemoryMonitor(sources=lambda: [ScriptedReader(facts)], clock=FakeClock())


SYSTEM = SystemMemory(8000 * MIB, 6000 * MIB, 5000 * MIB, 0, 1000 * MIB, 900 * MIB)
PROCESS = ProcessMemory(ProcessKey(7, 1), "python", 300 * MIB)


@pytest.mark.contract("S1-14", "S1-2")
def test_stats_carry_machine_and_process():
    """Without a limit the figures are the machine's, with the process's own beside them, before monitoring began."""
    stats = of({"system": SYSTEM, "process": PROCESS}).get_current_stats()
    assert (stats.total_mb, stats.available_mb, stats.used_mb) == (8000.0, 6000.0, 2000.0)
    assert (stats.percent_used, stats.swap_used_mb, stats.process_memory_mb) == (25.0, 100.0, 300.0)
    assert (stats.pressure_level.value, stats.timestamp, stats.limit_source) == ("low", 1_700_000_000.0, "machine")


@pytest.mark.contract("S1-14")
def test_stats_are_the_containers():
    """In a container the figures are those of its limit, file cache not counted as used, its own swap included."""
    group = CgroupMemory("/docker/a", 2, 1800 * MIB, 2000 * MIB, 100 * MIB, swap=40 * MIB)
    stats = of({"system": SYSTEM, "process": PROCESS, "cgroups": (group,)}).get_current_stats()
    assert (stats.total_mb, stats.available_mb, stats.used_mb) == (2000.0, 300.0, 1700.0)
    assert (stats.percent_used, stats.swap_used_mb, stats.pressure_level.value) == (85.0, 40.0, "high")
    assert stats.limit_source == "cgroup /docker/a"


def test_the_machine_counts_where_it_is_fuller():
    """A roomy container on a machine that runs out does not hide it; available is the least of the two."""
    full = SYSTEM._replace(available=500 * MIB)
    group = CgroupMemory("/docker/a", 2, 1800 * MIB, 2000 * MIB, 1600 * MIB)
    stats = of({"system": full, "cgroups": (group,)}).get_current_stats()
    assert (stats.limit_source, stats.percent_used, stats.available_mb) == ("machine", 93.75, 500.0)
    narrow = CgroupMemory("/docker/a", 2, 1800 * MIB, 2000 * MIB, 300 * MIB)
    assert of({"system": full, "cgroups": (narrow,)}).get_current_stats().available_mb == 500.0
    tight = SYSTEM._replace(available=1000 * MIB)
    roomy = CgroupMemory("/docker/a", 2, 1500 * MIB, 2000 * MIB, 100 * MIB)
    stats = of({"system": tight, "cgroups": (roomy,)}).get_current_stats()
    assert (stats.limit_source, stats.available_mb) == ("machine", 600.0)


@pytest.mark.contract("W1-10")
def test_nothing_is_invented():
    """Where memory cannot be read there is an error that says why; a process alone that cannot is None."""
    denied = ReadError("meminfo", "/proc/meminfo", "denied")
    with pytest.raises(ReadError) as caught:
        of(denied).get_current_stats()
    assert (caught.value.what, caught.value.why) == ("meminfo", "denied")
    with pytest.raises(ReadError, match="none of them"):
        of({}).get_current_stats()
    stats = of({"system": SYSTEM, "gaps": (Gap("process", "/proc/7", "gone"),)}).get_current_stats()
    assert stats.process_memory_mb is None
    group = CgroupMemory("/a", 2, 100, 200, 0)
    assert of({"cgroups": (group,)}).get_current_stats().swap_used_mb is None


@pytest.mark.contract("S1-23", "S1-25", "S1-28", "S1-33", "S1-66")
@pytest.mark.parametrize(
    ("percent", "level"),
    [
        pytest.param(0.0, "low", id="empty"),
        pytest.param(69.9, "low", id="under 70"),
        pytest.param(70.0, "moderate", id="70 begins moderate"),
        pytest.param(79.9, "moderate", id="under 80"),
        pytest.param(80.0, "high", id="80 begins high"),
        pytest.param(90.0, "high", id="90 is still high"),
        pytest.param(90.1, "critical", id="above 90"),
    ],
)
def test_levels_have_their_edges_and_names(percent, level):
    """Each level begins where the table of the seed says, under the seed's word."""
    used = round(percent * 10)
    monitor = MemoryMonitor(sources=lambda: [ScriptedReader([used])], clock=FakeClock())
    assert monitor.get_current_stats().pressure_level.value == level


def test_figures_are_fresh_while_the_level_is_the_watched_one(monitor, dial, clock):
    """While monitoring, stats are of this moment; the level has its duration, so one reading does not flip it."""
    monitor.start_monitoring()
    dial.percent = 75.0
    stats = monitor.get_current_stats()
    assert (round(stats.percent_used), stats.pressure_level.value) == (75, "low")
    pass_time(monitor, clock, 10)
    assert monitor.get_current_stats().pressure_level.value == "moderate"
    monitor.stop_monitoring()
    dial.percent = 10.0
    assert monitor.get_current_stats().pressure_level.value == "low"


@pytest.mark.contract("S1-3")
def test_pressure_is_answered_when_its_level_is_entered(monitor, dial, clock):
    """A callback gets the stats each time that its level is entered, and not again while it lasts."""
    high, low = [], []
    monitor.register_pressure_callback(MemoryPressureLevel.HIGH, high.append)
    monitor.register_pressure_callback(MemoryPressureLevel.LOW, low.append)
    monitor.start_monitoring()
    dial.percent = 85.0
    pass_time(monitor, clock, 60)
    assert monitor.flush()
    assert [(round(stats.percent_used), stats.pressure_level.value) for stats in high] == [(85, "high")]
    dial.percent = 10.0
    pass_time(monitor, clock, 360)  # a level is kept for five minutes
    dial.percent = 85.0
    pass_time(monitor, clock, 60)
    assert monitor.flush()
    assert [stats.pressure_level.value for stats in high] == ["high", "high"]
    assert [stats.pressure_level.value for stats in low] == ["low", "low"]


def test_a_callback_can_be_taken_off(monitor, dial, clock):
    """What registering returned ends the calls."""
    calls = []
    end = monitor.register_pressure_callback(MemoryPressureLevel.LOW, calls.append)
    end()
    monitor.start_monitoring()
    assert monitor.flush()
    assert calls == []


def test_a_callback_that_raises_spares_the_others(monitor, dial, clock, caplog):
    """The others are called all the same, the watching goes on, and the log names the one that raised."""
    calls = []

    def explode(stats):
        raise ValueError("boom")

    monitor.register_pressure_callback(MemoryPressureLevel.LOW, explode)
    monitor.register_pressure_callback(MemoryPressureLevel.LOW, calls.append)
    monitor.start_monitoring()
    assert monitor.flush()
    assert monitor.flush()  # the trouble is delivered behind its cause
    assert len(calls) == 1
    assert monitor.monitoring
    assert "explode raised ValueError('boom')" in caplog.text


def test_no_callback_for_a_level_that_was_not_read(monitor, dial, caplog):
    """A first sample that reads nothing enters no level, and is no fault of the callback."""
    calls = []
    dial.percent = gone()
    monitor.register_pressure_callback(MemoryPressureLevel.LOW, calls.append)
    monitor.start_monitoring()
    assert monitor.flush()
    assert monitor.flush()  # trouble would be delivered behind its cause
    assert calls == []
    assert "append" not in caplog.text


def test_watching_starts_and_stops_once(monitor, dial):
    """Two starts are one thread; a stop leaves none; it can start again."""
    before = set(threading.enumerate())
    for _ in range(2):
        monitor.start_monitoring()
        monitor.start_monitoring()
        assert monitor.monitoring
        started = set(threading.enumerate()) - before
        assert sorted(thread.name for thread in started) == ["memwarden-dispatcher", "memwarden-sampler"]
        assert all(thread.daemon for thread in started)
        monitor.stop_monitoring()
        monitor.stop_monitoring()
        assert not monitor.monitoring
        assert not set(threading.enumerate()) - before


def test_the_update_interval_is_the_pace(dial, clock):
    """By default memory is looked at every two seconds; another interval is kept to."""
    assert MemoryMonitor().update_interval == 2.0
    reader = ScriptedReader([1 << 30], total=TOTAL)
    monitor = MemoryMonitor(5.0, sources=lambda: [reader], clock=clock)
    monitor.start_monitoring()
    pass_time(monitor, clock, 20)
    monitor.stop_monitoring()
    assert reader.reads == 5


@pytest.mark.contract("S1-13")
def test_one_monitor_a_process(monkeypatch):
    """Every caller, on any thread, gets the same monitor, and so the same background thread."""
    monkeypatch.setattr(memory_manager, "_monitor", None)
    got = []
    threads = [threading.Thread(target=lambda: got.append(get_memory_monitor())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 16
    assert len({id(monitor) for monitor in got}) == 1
    assert got[0] is get_memory_monitor()


@pytest.mark.contract("W1-7")
def test_importing_and_watching_leave_signal_handlers_alone():
    """Handlers are the same before and after, also when the import happens on another thread."""
    program = """
import signal, threading
before = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
def use():
    from memwarden.compat.memory_manager import get_memory_monitor
    get_memory_monitor().start_monitoring()
    get_memory_monitor().get_current_stats()
    get_memory_monitor().stop_monitoring()
thread = threading.Thread(target=use)
thread.start(); thread.join()
from memwarden.compat import simple_memory_monitor
assert before == [signal.getsignal(number) for number in sorted(signal.valid_signals())]
print("same", threading.active_count())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("same 1\n", "")
