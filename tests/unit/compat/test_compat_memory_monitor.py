"""The old monitor of one task: its lines, its figures, its warnings and its collection."""

from __future__ import annotations

import gc
import json
import logging
import re
import weakref

import pytest

from memwarden.assess.pressure import PressureDetector
from memwarden.compat import memory_monitor
from memwarden.compat.memory_monitor import (
    MemoryMonitor,
    check_memory_threshold,
    get_system_memory_summary,
    log_worker_memory_summary,
)
from memwarden.errors import ExtraMissing, ReadError, SettingsError
from memwarden.guards.budget.reclaim import Freed
from memwarden.model.facts import CgroupMemory, ProcessKey, ProcessMemory, SystemMemory
from memwarden.model.sample import Sample
from memwarden.policy.rules import Policy, Rule
from memwarden.readers.gc_objects import GcObjects
from memwarden.testing import ScriptedReader
from support.kernel import MIB, Kernel, unreadable

GIB = 1 << 30
TASK = "fileintel.tasks.document_tasks.process_document"


@pytest.fixture(autouse=True)
def logged(caplog, monkeypatch):
    """The messages of the log; no collection of another test is rested from."""
    caplog.set_level(logging.INFO, "memwarden")
    monkeypatch.setattr(memory_monitor, "_next_collection", float("-inf"))
    return caplog


@pytest.fixture
def kernel():
    return Kernel(256 * MIB)


def container(rss=256 * MIB, limit=4 * GIB, used=1 << 30):
    """The facts of a sample in a container of 4 GiB on a machine of 64, with one group around it that has no limit."""
    return {
        "system": SystemMemory(64 * GIB, 60 * GIB, 60 * GIB, 0, 0, 0),
        "process": ProcessMemory(ProcessKey(1, 1), "python", rss, 2 * GIB),
        "cgroups": (CgroupMemory("/box", 2, used, limit, 0), CgroupMemory("/", 2, used, None, 0)),
    }


def made(kernel, *found, **options):
    """A monitor over that kernel, whose samples find this; and 127,453 objects."""
    reader = ScriptedReader(found or [container()])
    options.setdefault("objects", GcObjects(count=lambda: 127_453, monotonic=lambda: 0.0))
    options.setdefault("enable_gc", False)
    return MemoryMonitor(task_name=TASK, sources=lambda: [reader], scopes=kernel.scopes(), **options)


@pytest.mark.contract("S4-5", "S4-9", "S4-17", "X-31", "V-29")
def test_the_first_line_is_the_seeds(kernel, logged):
    """Letter by letter; shares are of the container's 4 GiB, and the record says so."""
    kernel.hold(256 * MIB)
    made(kernel).start_monitoring()
    (record,) = logged.records
    assert record.getMessage() == (
        f"Memory [{TASK}] START: RSS=256.0MB (peak=256.0MB), Process%=6.2%, System=25.0%, GC objects=127,453"
    )
    assert (record.levelname, record.memwarden_kind) == ("INFO", "task")
    assert record.memwarden["system"]["limit_source"] == "cgroup /box"
    assert record.memwarden["system"]["total_mb"] == 4096
    assert json.dumps(record.memwarden)


@pytest.mark.contract("S4-6", "S4-7", "S4-10", "S4-11", "S4-14")
def test_later_lines_are_the_seeds(kernel, logged):
    """A checkpoint with its label, and the end with a signed delta and the peak of the whole task."""
    monitor = made(kernel)
    monitor.start_monitoring()
    kernel.hold(512 * MIB)
    monitor.checkpoint("after_chunking")
    kernel.hold(381 * MIB)
    monitor.finish_monitoring()
    tail = "Process%=12.5%, System=25.0%, GC objects=127,453"
    assert logged.messages[1:] == [
        f"Memory [{TASK}] checkpoint:after_chunking: RSS=512.0MB (peak=512.0MB), {tail}",
        f"Memory [{TASK}] FINISH (delta=+125.0MB, peak=512.0MB): "
        f"RSS=381.0MB (peak=512.0MB), {tail.replace('12.5', '9.3')}",
    ]


@pytest.mark.parametrize(
    ("after", "shown"), [(256.0, "+0.0"), (252.8, "-3.2"), (255.97, "+0.0"), (256.04, "+0.0"), (380.4, "+124.4")]
)
def test_a_delta_is_signed_and_never_minus_nothing(kernel, logged, after, shown):
    """One that shrank has a minus; what rounds to nothing is +0.0."""
    monitor = made(kernel)
    monitor.start_monitoring()
    kernel.hold(int(after * MIB))
    monitor.finish_monitoring()
    assert f"FINISH (delta={shown}MB, " in logged.messages[-1]


@pytest.mark.contract("S4-13", "X-30", "W4-2")
def test_a_peak_between_two_points_is_seen(kernel):
    """What came and went between START and FINISH stands in the summary; what was before START does not."""
    kernel.spike(900 * MIB)
    monitor = made(kernel)
    monitor.start_monitoring()
    kernel.spike(700 * MIB)
    assert monitor.finish_monitoring() == {
        "task_name": TASK,
        "start_mb": 256.0,
        "finish_mb": 256.0,
        "peak_mb": 700.0,
        "delta_mb": 0.0,
    }
    monitor.start_monitoring()
    assert monitor.finish_monitoring()["peak_mb"] == 256.0, "the next task begins afresh"


def test_tasks_within_tasks_have_their_own_peaks(kernel):
    """The inner one's is not above what was held while it ran; the outer one's is the highest of all."""
    scopes, found = kernel.scopes(), ScriptedReader([container()])
    outer, inner = (MemoryMonitor(name, False, sources=lambda: [found], scopes=scopes) for name in ("outer", "inner"))
    outer.start_monitoring()
    kernel.spike(800 * MIB)
    inner.start_monitoring()
    kernel.spike(300 * MIB)
    assert inner.finish_monitoring()["peak_mb"] == 300.0
    assert outer.finish_monitoring()["peak_mb"] == 800.0
    assert not scopes.open_scopes, "no measurement is open any longer"


@pytest.mark.contract("S4-59", "S4-12", "S4-15", "S4-16")
def test_the_information_has_its_keys(kernel):
    """All of them; the process's share and the whole use are of the same limit; it is text for JSON as it is."""
    monitor = made(kernel, container(rss=512 * MIB))
    monitor.start_monitoring()
    kernel.spike(600 * MIB)
    kernel.hold(512 * MIB)
    info = json.loads(json.dumps(monitor.get_memory_info()))
    assert info.pop("timestamp")[10] == "T"
    assert info["process"].pop("pid") > 0
    assert info["process"].pop("children_mb") >= 0
    assert info["process"].pop("pss_mb") > 1
    assert len(info["gc"].pop("collections")) == 3
    assert info == {
        "task_name": TASK,
        "process": {"rss_mb": 512.0, "vms_mb": 2048.0, "percent": 12.5, "peak_mb": 600.0},
        "system": {"total_mb": 4096.0, "available_mb": 3072.0, "used_percent": 25.0, "limit_source": "cgroup /box"},
        "gc": {"objects": 127_453, "objects_age_seconds": 0.0},
        "gaps": [],
    }


@pytest.mark.contract("X-31", "W4-9")
def test_the_limit_is_the_machines_only_where_no_container_has_one(kernel):
    """Also where a group's limit is beyond what the machine has, and whichever of both is fuller."""
    machine = container()["system"]._replace(available=GIB)
    for group, source in ((4 * GIB, "cgroup /box"), (None, "machine"), (128 * GIB, "machine")):
        info = made(kernel, container(limit=group) | {"system": machine}).get_memory_info()
        assert info["system"]["limit_source"] == source
        assert info["system"]["available_mb"] == 1024.0, "what the machine leaves, whatever the container would"


@pytest.mark.contract("W4-4", "S4-17")
def test_objects_are_counted_on_a_ration(kernel, logged):
    """A count that took 0.1 s stands for 100 s, with its age; then there is another."""
    times, counts = [0.0], iter([1000, 2000])

    def count():
        times[0] += 0.1
        return next(counts)

    monitor = made(kernel, objects=GcObjects(count=count, monotonic=lambda: times[0]))
    monitor.start_monitoring()
    times[0] += 90
    monitor.checkpoint("later")
    assert logged.records[-1].memwarden["gc"] == {
        "collections": logged.records[-1].memwarden["gc"]["collections"],
        "objects": 1000,
        "objects_age_seconds": 90.0,
    }
    times[0] += 20
    monitor.checkpoint("again")
    assert [line.rpartition("=")[2] for line in logged.messages] == ["1,000", "1,000", "2,000"]


# --- what cannot be read ------------------------------------------------------------------------------


def blind(kernel, **options):
    """A monitor that can read nothing at all."""
    kernel.fails = unreadable()
    reader = ScriptedReader([ReadError("meminfo", "/proc/meminfo", "denied")])
    return MemoryMonitor("t", False, sources=lambda: [reader], scopes=kernel.scopes(), **options)


@pytest.mark.contract("W4-1", "S4-57")
def test_what_cannot_be_read_is_reported_in_the_line(kernel, logged):
    """No KeyError and no figure that was made up: question marks, and what failed where."""
    monitor = blind(kernel)
    monitor.start_monitoring()
    monitor.checkpoint("c")
    assert monitor.finish_monitoring() == {
        "task_name": "t",
        "start_mb": None,
        "finish_mb": None,
        "peak_mb": None,
        "delta_mb": None,
    }
    for line in logged.messages:
        assert "RSS=? (peak=?), Process%=?, System=?, GC objects=" in line
        assert "[not read: meminfo: denied at /proc/meminfo" in line
        assert "status: absent at /proc/self/status]" in line
    assert "FINISH (delta=?, peak=?): " in logged.messages[-1]


@pytest.mark.contract("W4-1", "S4-59")
def test_the_shape_is_whole_whatever_fails(kernel):
    """Every key is there with None; the reasons stand beside them."""
    whole, bare = made(kernel).get_memory_info(), blind(kernel).get_memory_info()

    def keys(value):
        return {key: keys(each) for key, each in value.items()} if isinstance(value, dict) else None

    assert keys(bare) == keys(whole)
    assert bare["process"]["rss_mb"] is bare["process"]["percent"] is bare["system"]["used_percent"] is None
    assert len(bare["gaps"]) == 2


@pytest.mark.contract("W4-1")
def test_a_part_that_fails_leaves_the_others(kernel, logged):
    """Without the kernel's mark there is no peak, and the resident size is still there."""
    kernel.fails = unreadable()
    monitor = made(kernel)
    monitor.start_monitoring()
    assert "RSS=256.0MB (peak=?), Process%=6.2%, System=25.0%" in logged.messages[0]
    kernel.fails = None
    assert monitor.finish_monitoring()["delta_mb"] == 0.0


def test_a_system_without_readers_is_reported(kernel, logged):
    """Where an optional package is missing the line says which."""

    def sources():
        raise ExtraMissing("memory on this system", "portable")

    MemoryMonitor("t", sources=sources, scopes=kernel.scopes()).start_monitoring()
    assert "RSS=256.0MB" in logged.messages[0]
    assert "pip install 'memwarden[portable]'" in logged.messages[0]
    assert check_memory_threshold(1, sources=sources)
    assert "was not checked" in logged.messages[-1]


# --- misuse -------------------------------------------------------------------------------------------


@pytest.mark.contract("S4-60")
def test_an_end_without_a_beginning_and_a_second_end(kernel, logged):
    """Nothing is raised; a second end is the first one's summary and no second line."""
    monitor = made(kernel)
    summary = monitor.finish_monitoring()
    assert (summary["start_mb"], summary["finish_mb"], summary["delta_mb"]) == (None, 256.0, None)
    summary["finish_mb"] = 0
    assert monitor.finish_monitoring()["finish_mb"] == 256.0
    assert len(logged.records) == 1


def test_a_name_and_a_label_cannot_forge_a_line(kernel, logged):
    """Line breaks, escapes and percent signs are text."""
    monitor = MemoryMonitor("a\nb %s", False, sources=lambda: [ScriptedReader([container()])], scopes=kernel.scopes())
    monitor.start_monitoring()
    monitor.checkpoint("x\r\nMemory [a] FINISH\x1b[2J %d")
    monitor.checkpoint(7)
    assert [line.count("\n") for line in logged.messages] == [0, 0, 0]
    assert logged.messages[0].startswith("Memory [a b %s] START: ")
    assert "checkpoint:x  Memory [a] FINISH [2J %d: RSS=" in logged.messages[1]
    assert "checkpoint:7: " in logged.messages[2]


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "3000", None, True])
def test_a_bad_threshold_is_refused(bad):
    """With its name and a good one."""
    for name, make in (
        ("threshold_mb", lambda: check_memory_threshold(bad)),
        ("peak_warning_mb", lambda: MemoryMonitor("t", peak_warning_mb=bad)),
        ("percent_warning", lambda: MemoryMonitor("t", percent_warning=bad)),
    ):
        with pytest.raises(SettingsError, match=f"{name} .*3000"):
            make()


# --- warnings -----------------------------------------------------------------------------------------


@pytest.mark.contract("S4-42")
@pytest.mark.parametrize(("peak", "warns"), [(999 * MIB, False), (1000 * MIB, False), (1000 * MIB + 4096, True)])
def test_a_peak_above_1000_mb_is_a_warning(kernel, logged, peak, warns):
    """Strictly above; with the task's name and number, its peak and its delta."""
    monitor = made(kernel, task_id="42")
    monitor.start_monitoring()
    kernel.spike(peak)
    monitor.finish_monitoring()
    reported = [record.getMessage() for record in logged.records if record.levelname == "WARNING"]
    expected = f"Task {TASK}[42] used significant memory: peak=1000.0MB, delta=+0.0MB"
    assert reported == ([expected] if warns else [])


@pytest.mark.contract("S4-43", "W4-9")
@pytest.mark.parametrize(("rss", "high"), [(799, False), (800, False), (801, True)])
def test_more_than_80_percent_of_the_container_is_a_warning(kernel, logged, rss, high):
    """Strictly above, of the container's limit on a machine that is 60 times as large."""
    kernel.hold(rss * MIB)
    made(kernel, container(limit=1000 * MIB)).start_monitoring()
    (record,) = logged.records
    assert record.levelname == ("WARNING" if high else "INFO")
    assert record.getMessage().startswith(
        f"{'HIGH MEMORY USAGE: ' if high else ''}Memory [{TASK}] START: RSS={rss}.0MB"
    )


@pytest.mark.contract("S4-44")
def test_thresholds_can_be_set(kernel, logged):
    """By argument; and the same as a rule that a settings file can hold."""
    monitor = made(kernel, peak_warning_mb=300, percent_warning=5)
    monitor.start_monitoring()
    kernel.spike(301 * MIB)
    monitor.finish_monitoring()
    assert [record.levelname for record in logged.records] == ["WARNING"] * 3
    rule = Rule.from_dict({"name": "threshold", "when": "process.rss > 3000MiB", "then": "notify", "rest": 0})
    policy, judge = Policy([rule]), PressureDetector()
    fired = []
    for now, rss in enumerate((3000 * MIB, 3000 * MIB + 4096)):
        sample = Sample(1e9 + now, now, **container(rss=rss))
        fired.append(len(policy.decide(sample, judge.assess(sample)).decisions))
    assert fired == [0, 1]


@pytest.mark.contract("S4-51")
@pytest.mark.parametrize(("rss", "holds"), [(2999 * MIB, True), (3000 * MIB, True), (3000 * MIB + 1, False)])
def test_the_threshold_is_checked(logged, rss, holds):
    """False when the process holds more; 3000 when nothing is said; a warning says both figures."""
    sources = [ScriptedReader([container(rss=rss)])]
    assert check_memory_threshold(sources=lambda: sources) is holds
    assert check_memory_threshold(threshold_mb=3000, sources=lambda: sources) is holds
    reported = "Memory threshold exceeded: RSS=3000.0MB, threshold=3000.0MB"
    assert logged.messages == ([] if holds else [reported, reported])


@pytest.mark.contract("S4-51", "W4-1")
def test_a_threshold_that_cannot_be_checked_is_reported(logged):
    """True, since nothing is known against it, and an error in the log."""
    failing = ScriptedReader([ReadError("statm", "/proc/self/statm", "denied")])
    assert check_memory_threshold(threshold_mb=1, sources=lambda: [failing])
    (record,) = logged.records
    assert record.levelname == "ERROR"
    assert "1.0MB was not checked: statm: denied at /proc/self/statm" in record.getMessage()
    logged.clear()
    assert check_memory_threshold(sources=list)
    assert "no reader covers this process" in logged.text


# --- the whole process and system ---------------------------------------------------------------------


@pytest.mark.contract("S4-62")
def test_the_system_has_its_summary():
    """The container's memory and swap in GB, or the machine's; where nothing could be read None and the reason."""
    found = container() | {"system": SystemMemory(64 * GIB, 60 * GIB, 60 * GIB, 0, 4 * GIB, 3 * GIB)}
    summary = get_system_memory_summary(sources=lambda: [ScriptedReader([found])])
    assert json.loads(json.dumps(summary)) == {
        "virtual_memory": {
            "total_gb": 4.0,
            "available_gb": 3.0,
            "used_gb": 1.0,
            "percent": 25.0,
            "limit_source": "cgroup /box",
        },
        "swap_memory": {"total_gb": 4.0, "used_gb": 1.0, "percent": 25.0},
        "gaps": [],
    }
    boxed = CgroupMemory("/box", 2, GIB, 4 * GIB, 0, swap=GIB // 2, swap_limit=2 * GIB)
    own = get_system_memory_summary(sources=lambda: [ScriptedReader([found | {"cgroups": (boxed,)}])])["swap_memory"]
    assert own == {"total_gb": 2.0, "used_gb": 0.5, "percent": 25.0}, "where the group reports its own"
    none = get_system_memory_summary(sources=lambda: [ScriptedReader([container()])])["swap_memory"]
    assert none == {"total_gb": 0.0, "used_gb": 0.0, "percent": 0.0}
    failing = ScriptedReader([ReadError("meminfo", "/proc/meminfo", "denied")])
    bare = get_system_memory_summary(sources=lambda: [failing])
    assert bare["virtual_memory"].keys() == summary["virtual_memory"].keys()
    assert bare["swap_memory"] == {"total_gb": None, "used_gb": None, "percent": None}
    assert bare["gaps"] == ["meminfo: denied at /proc/meminfo"]


@pytest.mark.contract("S4-61")
def test_the_worker_has_one_line(logged):
    """In the old words, of the container; question marks where nothing could be read."""
    log_worker_memory_summary(sources=lambda: [ScriptedReader([container()])])
    log_worker_memory_summary(sources=list)
    reported, bare = (re.sub(r"PID=\d+", "PID=7", message) for message in logged.messages)
    assert reported == ("Worker memory summary: PID=7, RSS=256.0MB, Process%=6.2%, System=25.0% (available=3072.0MB)")
    assert bare == "Worker memory summary: PID=7, RSS=?, Process%=?, System=? (available=?)"
    assert {record.levelname for record in logged.records} == {"INFO"}


# --- collecting ---------------------------------------------------------------------------------------


class Node:
    """Something that is garbage only to the cycle collector."""

    @classmethod
    def garbage(cls):
        node = cls()
        node.me = node
        return weakref.ref(node)


@pytest.mark.contract("S4-38", "S4-56")
def test_garbage_is_collected_at_the_end(kernel):
    """Of all generations; with ``enable_gc=False`` none is."""
    gc.collect()
    gc.disable()
    try:
        gone = Node.garbage()
        gc.collect(0)
    finally:
        gc.enable()
    left = Node.garbage()
    made(kernel, enable_gc=False).finish_monitoring()
    assert left() is not None
    made(kernel, enable_gc=True).finish_monitoring()
    assert left() is gone() is None


@pytest.mark.contract("W4-5", "S4-38")
def test_small_tasks_do_not_pay_for_it(kernel, monkeypatch):
    """A collection of 0.1 s is rested from for 10 s, however many tasks end meanwhile; an explicit request collects."""
    now, collected = [1000.0], []

    def collect():
        collected.append(now[0])
        return Freed((1, 2, 3), 900 * MIB, 800 * MIB, 100 * MIB, "", 0.1)

    monkeypatch.setattr(memory_monitor, "_collect", collect)
    monkeypatch.setattr(memory_monitor.time, "monotonic", lambda: now[0])
    for _ in range(40):
        made(kernel, enable_gc=True).finish_monitoring()
        now[0] += 0.5
    assert collected == [1000.0, 1010.0]
    made(kernel).force_garbage_collection()
    assert collected[2:] == [1020.0]
    gc.disable()
    try:
        now[0] += 1000
        made(kernel, enable_gc=True).finish_monitoring()
    finally:
        gc.enable()
    assert len(collected) == 3, "a program that has switched the collector off is left alone"


@pytest.mark.contract("S4-41", "S4-39")
@pytest.mark.parametrize(("freed", "reported"), [(10 * MIB, False), (10 * MIB + 1, True), (None, False), (0, False)])
def test_what_was_freed_has_its_keys_and_is_reported(kernel, logged, monkeypatch, freed, reported):
    """Above 10 MB, as what really left the process; what could not be measured is None."""
    monkeypatch.setattr(memory_monitor, "_collect", lambda: Freed((1, 2, 3), 900 * MIB, 800 * MIB, freed, "", 0.0))
    assert made(kernel).force_garbage_collection() == {
        "before_mb": 900.0,
        "after_mb": 800.0,
        "freed_mb": None if freed is None else 10.0 if freed else 0.0,
        "objects_collected": 6,
        "collections_by_generation": {"gen0": 1, "gen1": 2, "gen2": 3},
    }
    assert logged.messages == (["Garbage collection freed 10.0MB (6 objects)"] if reported else [])


@pytest.mark.contract("S4-45")
def test_the_greps_of_the_investigation_find_their_lines(kernel, logged):
    """The four patterns of the seed: ends, those that kept something, those that kept ten MB or more, peaks."""
    for kept in (3, 64):
        monitor = made(kernel)
        monitor.start_monitoring()
        kernel.hold(kernel.resident + kept * MIB)
        monitor.finish_monitoring()

    def grep(pattern):
        return [line for line in logged.messages if re.search(pattern, line)]

    assert len(grep(r"Memory.*FINISH")) == 2
    assert len(grep(r"delta=\+")) == 2
    assert [line for line in grep(r"delta=\+") if not re.search(r"delta=\+[0-9]\.", line)] == [logged.messages[3]]
    assert len(grep("peak=")) == 4
