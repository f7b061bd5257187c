"""Start-up in the old names: set-up, the status, and the end of it; on a fake clock and scripted readers."""

import json
import os
import signal

import pytest

from memwarden import ReadError
from memwarden.compat import memory_init, memory_manager
from memwarden.compat.memory_init import (
    get_memory_status,
    is_memory_management_available,
    setup_memory_management,
    shutdown_memory_management_system,
)
from memwarden.compat.memory_manager import MemoryMonitor
from memwarden.compat.support.process_info import TrackedProcesses
from memwarden.guards.budget import processing_config
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory
from memwarden.model.limits import Constraint, Limit
from memwarden.model.units import GIB
from memwarden.model.verdicts import Assessment, PressureLevel
from memwarden.testing import FakeClock, ProcTree, ScriptedReader

MIB = 1 << 20
SYSTEM = SystemMemory(8000 * MIB, 6000 * MIB, 5000 * MIB, 0, 0, 0)
PROCESS = ProcessMemory(ProcessKey(7, 1), "python", 300 * MIB)


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Makes the monitor of the process one that sees these facts."""
    tree = ProcTree(tmp_path)
    tree.process(os.getpid(), name="pytest")

    def put(facts):
        monitor = MemoryMonitor(
            sources=lambda: [ScriptedReader([facts])], clock=FakeClock(), tracked=TrackedProcesses(proc=tree.proc)
        )
        monkeypatch.setattr(memory_manager, "_monitor", monitor)
        return monitor, tree

    yield put
    shutdown_memory_management_system()


@pytest.mark.contract("S1-48", "X-3")
def test_the_status_has_its_three_parts_before_set_up_too(use):
    """Memory, resources and FFmpeg, in MB of the seed, safe for JSON; and no error where all could be read."""
    monitor, tree = use({"system": SYSTEM, "process": PROCESS})
    tree.process(50, name="ffmpeg", rss=100 * MIB)
    tree.process(60, name="python", rss=10 * MIB)
    monitor.track_process(50, "ffmpeg_encode", is_ffmpeg=True)
    monitor.track_process(60, "helper")
    status = get_memory_status()
    assert status == {
        "initialized": False,
        "memory_management_available": False,
        "memory": {
            "total_mb": 8000.0,
            "available_mb": 6000.0,
            "used_percent": 25.0,
            "pressure_level": "low",
            "process_memory_mb": 300.0,
            "limit_source": "machine",
        },
        "resources": {"tracked_processes": 2, "tracked_files": 0, "temp_directories": 0, "opencv_objects": 0},
        "ffmpeg": {"active_processes": 1, "total_memory_mb": 100.0},
    }
    json.dumps(status)
    assert setup_memory_management()
    assert get_memory_status() == status | {"initialized": True, "memory_management_available": True}


@pytest.mark.contract("S1-49", "W1-10")
def test_what_cannot_be_read_is_reported_and_the_rest_stays(use):
    """A sentence with what and why; figures that are known are there, the others are None and not made up."""
    denied = ReadError("meminfo", "/proc/meminfo", "denied")
    monitor, tree = use(denied)
    tree.process(50, name="ffmpeg", rss=100 * MIB)
    monitor.track_process(50, "ffmpeg_encode", is_ffmpeg=True)
    status = get_memory_status()
    assert "meminfo: denied at /proc/meminfo" in status["error"]
    assert set(status["memory"].values()) == {None}
    assert status["ffmpeg"]["active_processes"] == 1
    json.dumps(status)
    use({"process": PROCESS})
    status = get_memory_status()
    assert "none of them reports a limit" in status["error"]
    assert (status["memory"]["process_memory_mb"], status["memory"]["total_mb"]) == (300.0, None)


def test_set_up_watches_until_it_is_shut_down(use):
    """Available from set-up on, until the end; both may be said twice."""
    monitor, _ = use({"system": SYSTEM})
    assert not is_memory_management_available()
    assert setup_memory_management()
    assert setup_memory_management()
    assert is_memory_management_available()
    assert monitor.monitoring
    shutdown_memory_management_system()
    shutdown_memory_management_system()
    assert not is_memory_management_available()


@pytest.mark.contract("S1-76")
def test_set_up_that_fails_lets_the_program_go_on(use, caplog):
    """False, and a warning that says why."""
    use(ReadError("meminfo", "/proc/meminfo", "denied"))
    assert setup_memory_management() is False
    assert not is_memory_management_available()
    assert "Memory management not available: meminfo: denied" in caplog.text


@pytest.mark.contract("W1-7")
def test_set_up_replaces_no_signal_handler(use):
    """Ctrl-C and SIGTERM stay what the program made of them."""
    use({"system": SYSTEM})
    before = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    assert setup_memory_management()
    shutdown_memory_management_system()
    assert before == [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    assert memory_init.__name__.startswith("memwarden")


@pytest.mark.contract("S1-24", "S1-27", "S1-31", "S1-38", "F1-6")
@pytest.mark.parametrize(
    ("level", "preset", "buffer", "encoders", "hardware", "reduced"),
    [
        ("low", "slow", 131072, 3, True, set()),
        ("moderate", "medium", 65536, 2, True, set()),
        ("high", "fast", 32768, 1, True, {"reduce_resolution"}),
        ("critical", "ultrafast", 16384, 1, False, {"force_low_resolution", "skip_audio_normalization"}),
    ],
)
def test_video_settings_fall_with_the_level(monkeypatch, level, preset, buffer, encoders, hardware, reduced):
    """The seed's table: preset, buffer, FFmpeg processes, graphics card, and further reductions as True."""
    level, limit = PressureLevel(level), Limit(64 * GIB, "machine")
    found = Assessment(level, level, Constraint(limit, 32 * GIB), limit, 32 * GIB, 0.0)
    monkeypatch.setattr(processing_config, "_now", lambda: found)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    config = memory_init.get_safe_processing_config()
    assert (config["quality_preset"], config["buffer_size"]) == (preset, buffer)
    assert (config["max_concurrent_ffmpeg"], config["enable_hardware_accel"]) == (encoders, hardware)
    assert {name for name, value in config.items() if value is True} - {"enable_hardware_accel"} == reduced


def test_video_settings_where_memory_cannot_be_read(monkeypatch):
    """The balanced preset with one FFmpeg process, and no graphics card."""
    low = PressureLevel.LOW
    monkeypatch.setattr(processing_config, "_now", lambda: Assessment(low, low, None, None, None, 0.0))
    config = memory_init.get_safe_processing_config()
    assert (config["quality_preset"], config["max_concurrent_ffmpeg"]) == ("medium", 1)
    assert config["enable_hardware_accel"] is False
