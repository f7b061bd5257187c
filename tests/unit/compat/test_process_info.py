"""Tracked processes: their identity, and their use now; on a recorded ``/proc``."""

import dataclasses
import os

import pytest

from memwarden import ReadError
from memwarden.compat.memory_manager import MemoryMonitor
from memwarden.compat.support.process_info import TrackedProcesses
from memwarden.testing import FakeClock, ProcTree, ScriptedReader

MIB = 1 << 20


@pytest.fixture
def tree(tmp_path):
    made = ProcTree(tmp_path)
    made.process(os.getpid(), name="pytest", start=3)
    made.process(50, name="ffmpeg", rss=100 * MIB, start=7)
    return made


@pytest.fixture
def monitor(tree):
    return MemoryMonitor(
        sources=lambda: [ScriptedReader([1])], clock=FakeClock(), tracked=TrackedProcesses(proc=tree.proc)
    )


@pytest.mark.contract("S1-51", "S1-52", "W1-5")
def test_a_process_is_measured_each_time_with_what_it_started(monitor, tree):
    """Not at registration: what it takes now, the whole tree of it."""
    monitor.track_process(50, "ffmpeg_encode", is_ffmpeg=True)
    (found,) = monitor.get_ffmpeg_processes()
    assert (found.pid, found.name, found.memory_mb) == (50, "ffmpeg_encode", 100.0)
    tree.process(50, name="ffmpeg", rss=180 * MIB, start=7, children=[51])
    tree.process(51, ppid=50, name="x264", rss=20 * MIB, start=9)
    assert [each.memory_mb for each in monitor.get_ffmpeg_processes()] == [200.0]


@pytest.mark.contract("W1-5", "S1-51")
def test_a_reused_pid_is_another_process(monitor, tree):
    """Another process with the same pid is neither shown nor measured, and can be tracked anew."""
    monitor.track_process(50, "ffmpeg_encode", is_ffmpeg=True, essential=False)
    tree.end(50)
    assert monitor.get_ffmpeg_processes() == []
    monitor.track_process(_again(tree), "second", is_ffmpeg=True)
    tree.end(50)
    tree.process(50, name="bash", rss=5 * MIB, start=1000)
    assert monitor.get_tracked_processes() == []
    monitor.track_process(50, "shell")
    (found,) = monitor.get_tracked_processes()
    assert (found.memory_mb, found.is_ffmpeg) == (5.0, False)
    assert monitor.get_ffmpeg_processes() == []


def _again(tree):
    tree.process(50, name="ffmpeg", rss=MIB, start=500)
    return 50


def test_ended_ones_are_left_out(monitor, tree):
    """One that waits to be reaped holds nothing; one that never was is refused."""
    monitor.track_process(50, "ffmpeg_encode", is_ffmpeg=True)
    tree.process(50, name="ffmpeg", rss=0, start=7, state="Z")
    assert monitor.get_ffmpeg_processes() == []
    with pytest.raises(ReadError, match="gone"):
        monitor.track_process(4711, "absent")


@pytest.mark.contract("V-12", "S1-51")
def test_no_process_is_expendable_by_default(monitor, tree):
    """FFmpeg or not: only ``essential=False`` makes a process a target of termination."""
    tree.process(60, rss=MIB)
    monitor.track_process(50, "ffmpeg_encode", is_ffmpeg=True)
    monitor.track_process(60, "preview", essential=False)
    assert [(each.pid, each.essential) for each in monitor.get_tracked_processes()] == [(50, True), (60, False)]


def test_untracked_ones_are_forgotten(monitor):
    """They stand in no list any more; forgetting twice is no fault."""
    monitor.track_process(50)
    (found,) = monitor.get_tracked_processes()
    assert found.name == "pid 50"
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.pid = 1
    monitor.untrack_process(50)
    monitor.untrack_process(50)
    assert monitor.get_tracked_processes() == []
