"""The simple monitor: metrics, alert, log, status; on a fake clock and a reader that the test sets."""

import inspect
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from memwarden import ReadError, RecordError, SettingsError
from memwarden.compat import simple_memory_monitor
from memwarden.compat.simple_memory_monitor import (
    MemoryAlert,
    MemoryMetrics,
    SimpleMemoryMonitor,
    check_interval_for,
    get_monitor,
    reset_monitor,
)
from memwarden.compat.support.processes import largest_processes
from memwarden.model.facts import CgroupMemory, SystemMemory
from memwarden.testing import FakeClock, ProcTree, ScriptedReader
from support.dial import Dial

MIB = 1 << 20
#: So large that headroom never makes the pace shorter than the interval for long.
TOTAL = 1000 * (1 << 30)
WALL = 1_700_000_000.0


@pytest.fixture
def dial():
    return Dial(40.0, TOTAL)


@pytest.fixture
def clock():
    return FakeClock(wall=WALL)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "memory.log"


@pytest.fixture
def make(dial, clock, log):
    """Makes monitors on the dial and the clock, and stops them in the end."""
    made = []

    def build(*args, **options):
        monitor = SimpleMemoryMonitor(*args, **{"log_file": log, "sources": lambda: [dial], "clock": clock} | options)
        made.append(monitor)
        return monitor

    yield build
    for monitor in made:
        monitor.stop()


@pytest.fixture
def only(monkeypatch):
    """No monitor of the process yet, and none left behind."""
    monkeypatch.setattr(simple_memory_monitor, "_monitor", None)
    yield
    reset_monitor()


def entries(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def kinds(log):
    return [entry.get("event_type", "check") for entry in entries(log)]


def pass_time(monitor, clock, seconds):
    """In steps so short that a receiver at work, on real time, is never taken for one that hangs."""
    while seconds > 0:
        clock.advance(min(5, seconds))
        assert monitor.flush()
        seconds -= 5


# --- MemoryMetrics -----------------------------------------------------------------------------------------


@pytest.mark.contract("S2-8", "X-4")
def test_metrics_know_window_average_and_peak(clock):
    """The average is of the last 100 readings, the peak of all, with the time when it was first reached."""
    metrics = MemoryMetrics(clock=clock)
    assert metrics.window_size == 100
    metrics.record(90.0)
    clock.advance(1)
    metrics.record(90.0)
    for _ in range(100):
        clock.advance(1)
        metrics.record(50.0)
    assert metrics.memory_readings == [50.0] * 100
    assert metrics.get_average() == 50.0
    assert (metrics.peak_memory, metrics.peak_time) == (90.0, datetime.fromtimestamp(WALL))
    assert metrics.timestamps[-1] == datetime.fromtimestamp(WALL + 101)
    assert metrics.alert_count == 0


def test_a_summary_shows_texts_and_numbers(clock):
    """Percentages stand as text as they always did, and as numbers under names of their own."""
    metrics = MemoryMetrics(3, clock=clock)
    for percent in (74.46, 50.0, 60.0, 70.0):
        metrics.record(percent)
    assert metrics.get_summary() == {
        "current": "70.0%",
        "average": "60.0%",
        "peak": "74.5%",
        "peak_time": datetime.fromtimestamp(WALL).isoformat(timespec="microseconds"),
        "trend": "stable",
        "readings": 3,
        "alert_count": 0,
        "current_percent": 70.0,
        "average_percent": 60.0,
        "peak_percent": 74.46,
        "trend_confidence": 0.0,
        "trend_readings": 4,
    }


def test_no_readings_are_no_zeros():
    """Before the first reading nothing is known: not an average and not a peak of 0 %."""
    metrics = MemoryMetrics()
    assert (metrics.get_average(), metrics.peak_memory, metrics.peak_time) == (None, None, None)
    summary = metrics.get_summary()
    assert (summary["current"], summary["average"], summary["peak"], summary["trend"]) == (
        "N/A",
        "N/A",
        "N/A",
        "stable",
    )


@pytest.mark.contract("S2-5")
@pytest.mark.parametrize(
    ("readings", "trend"),
    [
        pytest.param([], "stable", id="nothing"),
        pytest.param([10, 90], "stable", id="two say nothing yet"),
        pytest.param([10, 20, 30, 40, 50], "stable", id="five have nothing older"),
        pytest.param([50] + [55] * 5, "increasing", id="ten percent more"),
        pytest.param([3] + [3.3] * 5, "increasing", id="ten percent more, in binary fractions"),
        pytest.param([50] + [54.9] * 5, "stable", id="less than ten percent more"),
        pytest.param([50] + [45] * 5, "decreasing", id="ten percent less"),
        pytest.param([50] + [45.1] * 5, "stable", id="less than ten percent less"),
        pytest.param([50] * 20, "stable", id="no change"),
        pytest.param([0] * 6, "stable", id="nothing used at all"),
        pytest.param([0] + [1] * 5, "increasing", id="from nothing"),
    ],
)
def test_a_trend_is_one_of_three_words(readings, trend):
    """The last five against the older ones, ten percent or more; stable until there is something to compare."""
    metrics = MemoryMetrics()
    for percent in readings:
        metrics.record(percent)
    assert metrics.get_trend() == trend


@pytest.mark.contract("X-23")
def test_how_sure_a_trend_is_stands_beside_it():
    """Stable until there is evidence: no fourth word, and the count and the confidence have fields of their own."""
    metrics = MemoryMetrics()
    seen = []
    for percent in [50.0] * 5 + [60.0] * 5:
        metrics.record(percent)
        summary = metrics.get_summary()
        seen.append((summary["trend"], summary["trend_readings"]))
    assert seen[:6] == [("stable", count) for count in range(1, 7)]
    assert seen[-1] == ("increasing", 10)
    assert metrics.get_summary()["trend_confidence"] > 0.9
    assert MemoryMetrics().get_summary()["trend_confidence"] == 0.0


@pytest.mark.contract("S2-15", "W2-7")
def test_a_slow_leak_is_increasing_and_a_load_is_over():
    """0.01 points a reading, which two averages of the window never see; and a load that came once is
    stable when it has been there for some twenty readings."""
    slow, load = MemoryMetrics(), MemoryMetrics()
    for number in range(600):
        slow.record(50 + 0.01 * number)
    assert slow.get_trend() == "increasing"
    for percent in [40.0] * 30 + [60.0] * 25:
        load.record(percent)
    assert load.get_trend() == "stable"


@pytest.mark.contract("W2-1")
def test_metrics_bear_many_threads():
    """Recording and asking at once loses nothing and raises nothing."""
    metrics = MemoryMetrics(window_size=50)
    failures = []

    def use():
        try:
            for number in range(300):
                metrics.record(float(number))
                metrics.count_alert()
                summary = metrics.get_summary()
                assert len(metrics.memory_readings) <= 50
                assert summary["peak_percent"] is not None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (metrics.alert_count, metrics.peak_memory) == (1200, 299.0)


# --- MemoryAlert -------------------------------------------------------------------------------------------


@pytest.mark.contract("S2-4", "X-24")
def test_an_alert_needs_more_than_the_threshold(clock):
    """80 % is no alert, anything above is; the threshold can be set, and nonsense is refused."""
    assert not MemoryAlert(clock=clock).check(80.0)
    assert MemoryAlert(clock=clock).check(80.01)
    assert MemoryAlert(75.0, clock=clock).check(75.5)
    assert not MemoryAlert(95.0, clock=clock).check(94.9)
    assert not MemoryAlert(clock=clock).check(float("nan"))
    for nonsense in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="threshold"):
            MemoryAlert(nonsense)


@pytest.mark.contract("S2-9", "S2-12")
def test_alerts_rest_on_a_clock_that_is_never_set(clock):
    """More than 60 s lie between two alerts, also when the wall clock jumps in either direction."""
    alert = MemoryAlert(clock=clock)
    assert alert.alert_cooldown_seconds == 60
    assert alert.last_alert_time is None
    assert alert.check(90.0)
    assert alert.last_alert_time == datetime.fromtimestamp(WALL)
    clock.set_wall(WALL + 86400)
    clock.advance(60)
    assert not alert.check(90.0)
    clock.set_wall(WALL - 86400)
    clock.advance(0.1)
    assert alert.check(90.0)
    assert not alert.check(90.0)
    alert.last_alert_time = None
    assert alert.check(90.0)


@pytest.mark.contract("S2-9", "S2-13")
def test_the_callback_gets_the_percentage(clock):
    """It is called at each alert, and not in between."""
    calls = []
    alert = MemoryAlert(80.0, calls.append, clock=clock)
    for percent in (50.0, 91.0, 92.0):
        alert.check(percent)
    assert calls == [91.0]


# --- SimpleMemoryMonitor: life -------------------------------------------------------------------------------


@pytest.mark.contract("S2-22", "S2-38", "W2-1")
def test_start_is_logged_and_checks_once(make, dial, log):
    """START, then exactly one check, both there when start returns; a second start changes nothing."""
    monitor = make()
    monitor.start()
    monitor.start()
    first, check = entries(log)
    assert (first["event_type"], first["message"]) == ("START", "Memory monitor started")
    assert check["percent"] == "40.0"
    assert monitor.metrics.memory_readings == [40.0]
    assert monitor.running


@pytest.mark.contract("S2-23", "S2-39", "W2-2")
def test_stop_ends_all_and_a_restart_is_one_loop(make, dial, clock, log):
    """Stop does not wait for the interval, leaves no thread, and its line is the last; a restart checks once a time."""
    before = set(threading.enumerate())
    monitor = make(300)
    for _ in range(3):
        monitor.start()
        pass_time(monitor, clock, 300)
        monitor.stop()
        assert not set(threading.enumerate()) - before
    monitor.stop()
    assert kinds(log) == ["START", "check", "check", "STOP"] * 3
    last = entries(log)[-1]
    assert (last["event_type"], last["message"]) == ("STOP", "Memory monitor stopped")
    clock.advance(900)
    assert len(entries(log)) == 12


@pytest.mark.contract("S2-6", "S2-57")
def test_checks_come_from_a_daemon_thread(make, dial, clock):
    """After the first one nothing is read on the caller's thread, and no thread keeps the program alive."""
    monitor = make(10)
    monitor.start()
    dial.threads.clear()
    pass_time(monitor, clock, 30)
    assert dial.threads
    assert threading.main_thread() not in dial.threads
    assert all(thread.daemon for thread in dial.threads)


@pytest.mark.contract("S2-3", "S2-10", "S2-21")
def test_defaults_are_those_of_the_original(clock, dial, log):
    """Every 300 s, above 80 %; both can be set, and a check comes at each interval."""
    assert SimpleMemoryMonitor().check_interval_seconds == 300
    assert SimpleMemoryMonitor().alert_threshold_percent == 80.0
    monitor = SimpleMemoryMonitor(60, 75.0, log, sources=lambda: [dial], clock=clock)
    assert (monitor.check_interval_seconds, monitor.alert_threshold_percent, monitor.log_file) == (60, 75.0, log)
    monitor.start()
    pass_time(monitor, clock, 300)
    monitor.stop()
    times = [datetime.fromisoformat(each["timestamp"]) for each in entries(log) if "percent" in each]
    assert [time - times[0] for time in times] == [timedelta(seconds=60 * number) for number in range(6)]


def test_nonsense_is_refused():
    """An interval or a threshold that cannot be is refused at once."""
    with pytest.raises(SettingsError):
        SimpleMemoryMonitor(0)
    with pytest.raises(SettingsError):
        SimpleMemoryMonitor(300, -5.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_usable_monitor(make, clock, log):
    """In the child the monitor is stopped and can start again; the parent's goes on."""
    monitor = make(10)
    monitor.start()
    with monitor.metrics._lock:  # the thread that holds it does not exist in the child
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(20)  # a child that hangs must not hang the tests
                assert not monitor.running
                child = SimpleMemoryMonitor(
                    10, log_file=log.with_name("child.log"), sources=monitor._sources, clock=clock
                )
                child.start()
                child.stop()
                monitor.metrics.record(1.0)
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert kinds(log.with_name("child.log")) == ["START", "check", "STOP"]
    pass_time(monitor, clock, 10)
    monitor.stop()
    assert kinds(log) == ["START", "check", "check", "STOP"]


# --- SimpleMemoryMonitor: the log ----------------------------------------------------------------------------


@pytest.mark.contract("S2-7", "S2-11", "S2-36", "X-19")
def test_a_check_is_one_line_of_strings(clock, log):
    """Its keys stand in the seed's order, numbers as strings, percent without a sign, sizes in whole MB."""
    system = SystemMemory(3341 * MIB, 1196 * MIB, 0, 0, 0, 0)
    monitor = SimpleMemoryMonitor(
        300, log_file=log, sources=lambda: [ScriptedReader([{"system": system}])], clock=clock
    )
    monitor.start()
    monitor.stop()
    assert list(entries(log)[1].items())[1:] == [
        ("percent", "64.2"),
        ("used_mb", "2145"),
        ("available_mb", "1196"),
        ("total_mb", "3341"),
        ("trend", "stable"),
    ]
    assert next(iter(entries(log)[1])) == "timestamp"


@pytest.mark.contract("S2-17", "S2-7")
def test_each_line_is_an_object_with_its_time(make, dial, clock, log):
    """Whatever the line has: checks with percentage and trend, alerts, start and end; in the order of time."""
    monitor = make(10)
    monitor.start()
    for _ in range(12):
        dial.percent *= 1.1
        pass_time(monitor, clock, 10)
    monitor.stop()
    lines = log.read_bytes().split(b"\n")
    assert lines.pop() == b""
    reported = [json.loads(line) for line in lines]
    times = [datetime.fromisoformat(entry["timestamp"]) for entry in reported]
    assert times == sorted(times)
    assert {entry["trend"] for entry in reported if "percent" in entry} == {"stable", "increasing"}
    assert all(float(entry["percent"]) >= 40 for entry in reported if "percent" in entry)
    assert {entry["event_type"] for entry in reported if "percent" not in entry} == {"START", "ALERT", "STOP"}


@pytest.mark.contract("S2-37")
@pytest.mark.parametrize(("threshold", "shown"), [(80.0, "80"), (82.5, "82.5"), (10, "10")])
def test_an_alert_is_a_line_in_the_seeds_words(make, dial, log, threshold, shown):
    """Percentage and threshold stand in the message, a threshold's decimals only where it has some."""
    dial.percent = 85.04
    make(300, threshold).start()
    alert = entries(log)[2]
    message = f"MEMORY ALERT: 85.0% of RAM in use (threshold: {shown}%)"
    assert list(alert) == ["timestamp", "event_type", "message"]
    assert (alert["event_type"], alert["message"]) == ("ALERT", message)
    assert alert["timestamp"] == entries(log)[1]["timestamp"]


@pytest.mark.contract("S2-40", "V-16")
def test_times_are_iso_with_microseconds(make, dial, clock, log, tmp_path):
    """Naive local time as in the example, microseconds also when they are zero; with the offset on request."""
    dial.percent = 90.0
    make().start()
    assert len(entries(log)) == 3
    for entry in entries(log):
        assert entry["timestamp"] == datetime.fromtimestamp(WALL).strftime("%Y-%m-%dT%H:%M:%S.000000")
    other = tmp_path / "offset.log"
    make(log_file=other, utc_offset=True).start()
    for entry in entries(other):
        assert datetime.fromisoformat(entry["timestamp"]).timestamp() == WALL
        assert re.search(r"\.000000[+-]\d\d:\d\d$", entry["timestamp"])


@pytest.mark.contract("S2-11", "S2-58")
def test_a_check_that_fails_is_a_line_of_the_log(make, dial, clock, log):
    """No figures are made up: an entry of its own says why there are none, and the checks go on."""
    monitor = make(10)
    monitor.start()
    dial.percent = ReadError("meminfo", "/proc/meminfo", "denied")
    pass_time(monitor, clock, 10)
    dial.percent = 50.0
    pass_time(monitor, clock, 10)
    monitor.stop()
    assert kinds(log) == ["START", "check", "GAP", "check", "STOP"]
    gap = entries(log)[2]
    assert list(gap) == ["timestamp", "event_type", "message"]
    assert "denied at /proc/meminfo" in gap["message"]
    assert monitor.metrics.memory_readings == [40.0, 50.0]


@pytest.mark.contract("S2-59")
def test_every_line_is_json_whatever_happens(make, dial, clock, log):
    """Hostile texts, a torn line of an earlier life, and strange figures: each line of ours is an object of its own."""
    log.parent.mkdir()
    log.write_text('{"timestamp":"2025-12-22T12:')
    monitor = make(10)
    monitor.start()
    dial.percent = ReadError('a "b"\n\x00', "/proc/\udcff/\u2028", "malformed", '{"}')
    pass_time(monitor, clock, 10)
    dial.percent = OSError("}\n{")
    pass_time(monitor, clock, 10)
    dial.percent = 0.0
    pass_time(monitor, clock, 10)
    monitor.stop()
    torn, *lines = log.read_bytes().decode().splitlines()[:1] + log.read_bytes().decode().split("\n")[1:-1]
    assert torn == '{"timestamp":"2025-12-22T12:'
    assert [json.loads(line).get("event_type", "check") for line in lines] == [
        "START",
        "check",
        "GAP",
        "GAP",
        "check",
        "STOP",
    ]


@pytest.mark.contract("W2-5", "S2-20")
def test_missing_folders_are_made(make, tmp_path):
    """A log in folders that do not exist yet loses no line, and is for this user alone."""
    path = tmp_path / "a" / "b" / "memory.log"
    make(log_file=str(path)).start()
    assert kinds(path) == ["START", "check"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.contract("W2-5", "S2-59")
def test_a_log_that_cannot_be_is_reported_at_once(make, tmp_path):
    """Asked for and impossible: start raises, and nothing runs. Links are not followed."""
    (tmp_path / "file").write_text("")
    monitor = make(log_file=tmp_path / "file" / "memory.log")
    with pytest.raises(RecordError, match=r"memory\.log"):
        monitor.start()
    assert not monitor.running
    if os.path.exists("/dev/full"):
        with pytest.raises(RecordError, match="No space left"):
            make(log_file="/dev/full").start()
    (tmp_path / "aim").write_text("precious")
    (tmp_path / "link.log").symlink_to(tmp_path / "aim")
    with pytest.raises(RecordError):
        make(log_file=tmp_path / "link.log").start()
    assert (tmp_path / "aim").read_text() == "precious"


def test_a_default_log_that_cannot_be_is_only_logged(dial, clock, tmp_path, monkeypatch, caplog):
    """It is a default, so the checks go on without it, with a warning."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monitor = SimpleMemoryMonitor(10, sources=lambda: [dial], clock=clock)
    monitor.start()
    pass_time(monitor, clock, 10)
    monitor.stop()
    assert len(monitor.metrics.memory_readings) == 2
    assert "memory_monitor.log" in caplog.text


@pytest.mark.contract("W2-5", "S2-62")
def test_the_default_log_is_in_a_place_of_ones_own(tmp_path, monkeypatch):
    """Not in a shared directory: below the state directory of this user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert SimpleMemoryMonitor().log_file == Path(tmp_path, "memwarden", "memory_monitor.log")


# --- SimpleMemoryMonitor: alerts ---------------------------------------------------------------------------


@pytest.mark.contract("S2-14", "S2-12")
def test_alerts_are_counted_not_readings(make, dial, clock, log):
    """Seven checks above the threshold in a minute are one alert; the next comes after more than a minute."""
    dial.percent = 90.0
    monitor = make(10)
    monitor.start()
    pass_time(monitor, clock, 60)
    assert (monitor.metrics.alert_count, len(monitor.metrics.memory_readings)) == (1, 7)
    pass_time(monitor, clock, 10)
    monitor.stop()
    assert (monitor.metrics.alert_count, kinds(log).count("ALERT")) == (2, 2)


@pytest.mark.contract("S2-13", "S2-57", "W2-3")
def test_a_callback_is_called_and_may_raise(make, dial, clock, log, caplog):
    """It can be given to the monitor; what it raises is logged, and neither the line nor the next check is lost."""
    calls, threads = [], []

    def callback(percent):
        calls.append(percent)
        threads.append(threading.current_thread())
        raise ValueError("boom")

    dial.percent = 90.0
    monitor = make(100, alert_callback=callback)
    monitor.start()
    pass_time(monitor, clock, 100)
    monitor.stop()
    assert calls == [90.0, 90.0]
    assert all(thread.daemon and thread not in dial.threads for thread in threads)
    assert kinds(log) == ["START", "check", "ALERT", "check", "ALERT", "STOP"]
    assert "boom" in caplog.text


def test_a_callback_that_hangs_ends_no_check(make, dial, clock, log):
    """It is set aside alone: checks go on being made and written."""
    hanging, release = threading.Event(), threading.Event()

    def callback(percent):
        hanging.set()
        release.wait(20)

    dial.percent = 90.0
    monitor = make(100, alert_callback=callback)
    try:
        monitor.start()
        assert hanging.wait(5)
        dial.percent = 40.0
        clock.advance(60)  # so full it is looked at once in between, and the callback found to hang
        pass_time(monitor, clock, 240)
        assert kinds(log) == ["START", "check", "ALERT", "CLEARED", "check", "check", "check"]
    finally:
        release.set()


@pytest.mark.contract("W2-8")
def test_the_end_of_an_alert_is_reported_once(make, dial, clock, log):
    """Back by three points it is over, with a line of its own; flapping about the threshold ends nothing."""
    monitor = make(100)
    monitor.start()
    for percent in (90.0, 79.9, 80.1, 77.1, 77.0, 60.0, 85.0, 40.0):
        dial.percent = percent
        pass_time(monitor, clock, 100)
    monitor.stop()
    assert [kind for kind in kinds(log) if kind not in ("check", "START", "STOP")] == [
        "ALERT",  # 90
        "ALERT",  # 80.1: more than a minute later
        "CLEARED",  # 77
        "ALERT",  # 85
        "CLEARED",  # 40
    ]
    cleared = [entry["message"] for entry in entries(log) if entry.get("event_type") == "CLEARED"]
    assert cleared[0] == "MEMORY ALERT over: 77.0% of RAM in use (threshold: 80%)"
    assert (monitor.metrics.alert_count, monitor.alert.active) == (3, False)


@pytest.mark.contract("W2-8", "S2-25")
def test_uptime_counts_from_start(make, clock):
    """Not from construction, not by the wall clock; and anew after a restart."""
    monitor = make(300)
    clock.advance(1000)
    monitor.start()
    clock.set_wall(WALL - 86400)
    pass_time(monitor, clock, 90)
    assert monitor.get_status()["uptime"] == "0:01:30"
    monitor.stop()
    clock.advance(500)
    assert monitor.get_status()["uptime_seconds"] == pytest.approx(90)
    monitor.start()
    assert monitor.get_status()["uptime"] == "0:00:00"


@pytest.mark.contract("S2-61")
def test_the_warning_comes_before_the_memory_is_gone(clock, log):
    """A machine that fills within three minutes, between checks five minutes apart: the alert waits for no check."""
    total, rate = 16_000 * MIB, 60 * MIB

    class Filling:
        name = "filling"

        def read(self):
            used = min(total, round(total * 0.3 + rate * (clock.monotonic() - 1000)))
            return {"system": SystemMemory(total, total - used, total - used, 0, 0, 0)}

        def close(self):
            pass

    calls = []
    monitor = SimpleMemoryMonitor(
        300, log_file=log, alert_callback=calls.append, sources=lambda: [Filling()], clock=clock
    )
    monitor.start()
    pass_time(monitor, clock, 290)
    assert kinds(log) == ["START", "check", "ALERT"]
    assert len(calls) == 1
    assert 80 < calls[0] < 95
    monitor.stop()


# --- SimpleMemoryMonitor: asking -----------------------------------------------------------------------------


@pytest.mark.contract("S2-24", "S2-25", "X-19")
def test_status_has_texts_and_numbers(make, dial, clock):
    """A fresh sample: percent with its sign, sizes as text, numbers beside them; health follows the set threshold."""
    monitor = make(300, 60.0)
    assert (monitor.get_status()["monitoring"], monitor.get_status()["uptime"]) == (False, "0:00:00")
    clock.advance(1000)
    monitor.start()
    pass_time(monitor, clock, 60)
    dial.percent = 64.2
    status = monitor.get_status()
    assert status == {
        "timestamp": datetime.fromtimestamp(WALL + 1060).isoformat(timespec="microseconds"),
        "memory_percent": "64.2%",
        "memory_used_mb": "657408",
        "memory_available_mb": "366592",
        "memory_total_mb": "1024000",
        "status": "high",
        "percent": pytest.approx(64.2),
        "used_bytes": pytest.approx(0.642 * TOTAL),
        "available_bytes": TOTAL - status["used_bytes"],
        "total_bytes": TOTAL,
        "limit_source": "machine",
        "monitoring": True,
        "uptime": "0:01:00",
        "uptime_seconds": pytest.approx(60.0),
    }
    json.dumps(status)
    dial.percent = 60.0
    assert monitor.get_status()["status"] == "normal"
    monitor.stop()
    pass_time(monitor, clock, 60)
    assert (monitor.get_status()["monitoring"], monitor.get_status()["uptime"]) == (False, "0:01:00")


def test_status_and_alerts_are_about_the_container(clock, log):
    """On a half empty machine a full container alerts, and the figures are its own."""
    system = SystemMemory(64_000 * MIB, 48_000 * MIB, 0, 0, 0, 0)
    group = CgroupMemory("/docker/a", 2, 3800 * MIB, 4000 * MIB, 200 * MIB)
    reader = ScriptedReader([{"system": system, "cgroups": (group,)}])
    monitor = SimpleMemoryMonitor(log_file=log, sources=lambda: [reader], clock=clock)
    monitor.start()
    status = monitor.get_status()
    monitor.stop()
    assert (status["memory_percent"], status["memory_total_mb"], status["limit_source"]) == (
        "90.0%",
        "4000",
        "cgroup /docker/a",
    )
    assert entries(log)[2]["message"].startswith("MEMORY ALERT: 90.0%")


@pytest.mark.contract("S2-58", "W1-10")
def test_a_status_without_figures_has_the_reason(make, dial, capsys):
    """Nothing can be read: no figure, no health, the reason; and the block of text can still be printed."""
    dial.percent = ReadError("meminfo", "/proc/meminfo", "denied")
    monitor = make()
    status = monitor.get_status()
    assert (status["memory_percent"], status["memory_used_mb"], status["status"]) == (None, None, "unknown")
    assert "denied" in status["error"]
    detailed = monitor.get_detailed_status()
    assert detailed["system_memory"] == dict.fromkeys(("percent", "used_mb", "available_mb", "total_mb"))
    assert "denied" in detailed["gaps"][0]
    json.dumps(detailed)
    monitor.print_stats()
    assert "Current Memory: N/A (N/AMB / N/AMB)\nAvailable: N/AMB\nStatus: UNKNOWN\n" in capsys.readouterr().out


@pytest.mark.contract("S2-27", "S2-28")
def test_detailed_status_names_the_largest_processes(make, dial):
    """Memory, metrics and up to five processes, largest first, with their share without a sign."""
    monitor = make()
    monitor.start()
    detailed = monitor.get_detailed_status()
    assert detailed["system_memory"] == {
        "percent": "40.0%",
        "used_mb": "409600",
        "available_mb": "614400",
        "total_mb": "1024000",
    }
    assert detailed["metrics"] == monitor.metrics.get_summary()
    top = detailed["top_processes"]
    assert 1 <= len(top) <= 5
    assert [each["memory_bytes"] for each in top] == sorted((each["memory_bytes"] for each in top), reverse=True)
    for each in top:
        assert each["memory_percent"] == f"{100 * each['memory_bytes'] / TOTAL:.1f}"
        assert each["name"]
        assert each["pid"]
    json.dumps(detailed)


@pytest.mark.contract("S2-18")
def test_processes_are_listed_only_when_asked_for(make, dial, clock, monkeypatch):
    """Neither a check nor the status walks over the processes; each detailed status does so once."""
    walks = []

    def walk(count):
        walks.append(count)
        return largest_processes(count)

    monkeypatch.setattr(simple_memory_monitor, "largest_processes", walk)
    monitor = make(10)
    monitor.start()
    pass_time(monitor, clock, 30)
    monitor.get_status()
    monitor.get_stats()
    monitor.print_stats()
    assert walks == []
    monitor.get_detailed_status()
    assert walks == [5]


@pytest.mark.contract("W2-4")
def test_processes_that_cannot_be_read_are_reported(tmp_path):
    """Kernel threads, ended and unreadable processes are left out; only what was refused or broken is a gap."""
    tree = ProcTree(tmp_path)
    for pid, size in ((10, 30), (11, 50), (12, 0), (13, 40), (14, 20)):
        tree.process(pid, name=f"p{pid}", rss=size << 20)
    tree.process(15, name="a) R 1 (b", rss=60 << 20)
    tree.write("proc/16/statm", "16 broken")
    os.mkdir(f"{tree.proc}/17")
    found, gaps = largest_processes(4, tree.proc)
    assert [(each.key.pid, each.rss >> 20) for each in found] == [(15, 60), (11, 50), (13, 40), (10, 30)]
    assert found[0].name == "a) R 1 (b"
    assert [(gap.what, gap.why) for gap in gaps] == [("statm", "malformed")]
    assert largest_processes(4, str(tmp_path / "none"))[1][0].why == "absent"


@pytest.mark.contract("X-22")
def test_stats_hold_the_readings_as_a_list(make, dial, clock):
    """Readings in percent, oldest first, with the time of each and the figures of the metrics."""
    monitor = make(10)
    monitor.start()
    dial.percent = 50.0
    pass_time(monitor, clock, 10)
    stats = monitor.get_stats()
    assert (stats["readings"], stats["count"], stats["average_percent"]) == ([40.0, 50.0], 2, 45.0)
    assert stats["timestamps"] == [
        datetime.fromtimestamp(WALL + seconds).isoformat(timespec="microseconds") for seconds in (0, 10)
    ]
    json.dumps(stats)


@pytest.mark.contract("S2-29", "S2-30", "S2-31", "S2-32", "S2-33")
def test_the_upper_half_of_the_block_is_the_seeds(make, clock, log, capsys):
    """Line for line, spaces and decimals included."""
    assert _block(clock, log, capsys).splitlines()[:11] == [
        "=" * 70,
        "MEMORY MONITOR STATISTICS",
        "=" * 70,
        "Current Memory: 64.2% (2145MB / 3341MB)",
        "Available: 1196MB",
        "Status: NORMAL",
        "",
        "METRICS",
        "-" * 70,
        "Average: 64.2%",
        f"Peak: 64.2% at {datetime.fromtimestamp(WALL).isoformat(timespec='microseconds')}",
    ]


@pytest.mark.contract("S2-34", "S2-35")
def test_the_lower_half_of_the_block_is_the_seeds(make, clock, log, capsys):
    """Line for line, down to the last ruler."""
    assert _block(clock, log, capsys).splitlines()[11:] == [
        "Trend: STABLE",
        "Readings: 7",
        "Alerts Triggered: 0",
        "",
        "Monitoring: True",
        "Uptime: 0:01:00",
        f"Log File: {log}",
        "=" * 70,
    ]


def _block(clock, log, capsys):
    system = SystemMemory(3341 * MIB, 1196 * MIB, 0, 0, 0, 0)
    monitor = SimpleMemoryMonitor(10, log_file=log, sources=lambda: [ScriptedReader([{"system": system}])], clock=clock)
    monitor.start()
    pass_time(monitor, clock, 60)
    monitor.print_stats()
    monitor.stop()
    return capsys.readouterr().out


# --- get_monitor -----------------------------------------------------------------------------------------------


@pytest.mark.contract("S2-19", "W2-6")
def test_a_second_call_that_differs_is_reported(only, tmp_path):
    """The first call decides; later ones may repeat it or leave things out, and differing ones say in what."""
    monitor = get_monitor(check_interval_seconds=60, alert_threshold_percent=75.0, log_file=tmp_path / "a.log")
    assert (monitor.check_interval_seconds, monitor.alert_threshold_percent) == (60, 75.0)
    assert monitor.log_file == tmp_path / "a.log"
    assert get_monitor() is monitor
    assert get_monitor(60.0, 75, str(tmp_path / "a.log")) is monitor
    for call in (
        lambda: get_monitor(check_interval_seconds=300),
        lambda: get_monitor(alert_threshold_percent=80.0),
        lambda: get_monitor(log_file=tmp_path / "b.log"),
    ):
        with pytest.raises(SettingsError, match="exists already"):
            call()
    with pytest.raises(SettingsError, match="check_interval_seconds is 60, not 300"):
        get_monitor(300)
    defaults = [parameter.default for parameter in inspect.signature(get_monitor).parameters.values()]
    assert defaults == [300, 80.0, None]


@pytest.mark.contract("S2-19", "W2-6")
def test_many_threads_get_one_monitor(only, monkeypatch):
    """A second thread that asks while the first one's monitor is being made waits for it, and gets the same."""
    got, made, go_on = [], [], threading.Event()

    def slowly(*args):
        made.append(SimpleMemoryMonitor(*args))
        go_on.wait(5)
        return made[-1]

    monkeypatch.setattr(simple_memory_monitor, "SimpleMemoryMonitor", slowly)
    threads = [threading.Thread(target=lambda: got.append(get_monitor())) for _ in range(8)]
    for thread in threads:
        thread.start()
    threads[-1].join(0.05)  # time enough to make one more, if it could
    go_on.set()
    for thread in threads:
        thread.join()
    assert (len(made), {id(monitor) for monitor in got}) == (1, {id(made[0])})
    assert (made[0].check_interval_seconds, made[0].alert_threshold_percent) == (300, 80.0)


def test_reset_forgets_and_stops(only, tmp_path):
    """After it the next call makes a new monitor, with values of its own."""
    old = get_monitor(log_file=tmp_path / "a.log").start()
    reset_monitor()
    assert not old.running
    assert get_monitor(60) is not old
    reset_monitor()
    reset_monitor()


@pytest.mark.contract("S2-56")
@pytest.mark.parametrize(
    ("duration", "interval"),
    [
        pytest.param(60, 60, id="a minute"),
        pytest.param(3599.9, 60, id="just below an hour"),
        pytest.param("1h", 300, id="an hour is of the middle"),
        pytest.param("1d", 300, id="so is a day"),
        pytest.param(86400.1, 600, id="above a day"),
        pytest.param("30d", 600, id="a month"),
    ],
)
def test_the_guide_by_duration(duration, interval):
    """Short runs are checked each minute, middle ones each five, long ones each ten."""
    assert check_interval_for(duration) == interval
    with pytest.raises(SettingsError):
        check_interval_for(-1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the readers are psutil's")
@pytest.mark.contract("S2-47")
def test_no_package_but_the_standard_library_is_needed(tmp_path):
    """On Linux the monitor runs without psutil, and imports nothing that does not come with Python."""
    program = """
import sys
sys.modules["psutil"] = None
before = set(sys.modules)
from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
monitor = SimpleMemoryMonitor(log_file=sys.argv[1]).start()
monitor.print_stats()
assert monitor.get_detailed_status()["top_processes"]
monitor.stop()
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "memory.log")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["['memwarden']"], done.stderr
