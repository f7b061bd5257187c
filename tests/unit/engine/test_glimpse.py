"""Looks in which nothing can matter: read now, made into values later, and the same values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from memwarden.assess.pressure import PressureDetector
from memwarden.engine.tick import Tick
from memwarden.engine.warden import Warden
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Limit
from memwarden.model.verdicts import PressureLevel
from memwarden.policy.rules import Policy, Rule
from memwarden.protocols import Reader
from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.process import ProcessReader
from memwarden.testing import FakeClock, ProcTree, ScriptedReader
from support.trees import container_v2

GIB = 1 << 30


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    """A container far from its limits."""
    tree = container_v2(ProcTree(tmp_path))
    tree.meminfo(8 * GIB, 6 * GIB, Cached=GIB, Shmem=GIB // 4)
    tree.process(10, rss=50 << 20, shared=10 << 20)
    return tree


def readers_of(tree: ProcTree) -> list[Reader]:
    """What a warden watches, patiently."""
    return [
        MeminfoReader(tree.proc),
        ProcessReader(10, tree.proc, patience=60),
        CgroupReader(None, tree.proc, tree.sys, patience=60),
    ]


def tick_of(readers: list[Reader], **changes: Any) -> Tick:
    """A tick that has looked once."""
    parts: dict[str, Any] = {"policy": None, "asked": None, "detector": PressureDetector()} | changes
    tick = Tick(readers, parts["detector"], parts["policy"], FakeClock(), parts["asked"])
    tick(0.0)
    return tick


def test_its_reading_is_that_of_a_look_in_full(tree: ProcTree) -> None:
    """Value for value, after everything that is read anew has changed."""
    tick = tick_of(readers_of(tree))
    tree.meminfo(8 * GIB, 5 * GIB, Cached=GIB, Shmem=GIB // 2)
    tree.process(10, rss=90 << 20, shared=20 << 20)
    look = tick.glimpse(0.0)
    assert look is not None
    full, _, _ = tick_of(readers_of(tree))(0.0)
    made = look.reading()
    assert made.sample.system == full.sample.system
    assert made.sample.process is not None
    assert made.sample.process == full.sample.process
    assert made.sample.cgroups == full.sample.cgroups
    assert made.assessment == full.assessment
    assert look.left is not None
    assert full.assessment.available is not None
    assert look.left <= full.assessment.available


def test_what_it_saw_stays_what_it_was(tree: ProcTree) -> None:
    """Values that are made late are those of the moment, not of now; also when the level has changed since."""
    tick = tick_of(readers_of(tree))
    look = tick.glimpse(0.0)
    assert look is not None
    tree.meminfo(8 * GIB, GIB // 8)
    reading, _, _ = tick(0.0)
    assert reading.assessment.level is PressureLevel.CRITICAL
    made = look.reading()
    assert made.assessment.level is PressureLevel.LOW
    assert made.sample.system is not None
    assert made.sample.system.available == 6 * GIB
    assert look.event.value is made


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tree: tree.meminfo(8 * GIB, 2 * GIB), id="the machine fills"),
        pytest.param(lambda tree: tree.write("proc/meminfo", "nonsense"), id="a file is broken"),
        pytest.param(lambda tree: tree.process(10, state="Z", rss=0), id="the process has ended"),
    ],
)
def test_what_may_matter_is_looked_at_in_full(tree: ProcTree, change: Any) -> None:
    """The glimpse says nothing then."""
    tick = tick_of(readers_of(tree))
    assert tick.glimpse(0.0) is not None
    change(tree)
    assert tick.glimpse(0.0) is None


def test_it_needs_a_watch_in_which_nothing_else_can_matter(tree: ProcTree) -> None:
    """Rules want facts; a limit of one's own, a level that is up, and readers or detectors of others too."""
    rule = Rule(name="r", when="growth > 1GiB", then="notify")
    assert tick_of(readers_of(tree), policy=Policy([rule])).glimpse(0.0) is None
    assert tick_of(readers_of(tree), asked=Limit(GIB, "asked")).glimpse(0.0) is None
    assert tick_of([*readers_of(tree), ScriptedReader([{}])]).glimpse(0.0) is None
    tree.meminfo(8 * GIB, 2 * GIB)
    assert tick_of(readers_of(tree)).glimpse(0.0) is None


def test_a_level_that_was_up_is_watched_until_it_is_forgotten(tree: ProcTree) -> None:
    """Its way down takes time, and that time is judged."""
    tree.meminfo(8 * GIB, GIB)
    tick = tick_of(readers_of(tree))
    tree.meminfo(8 * GIB, 6 * GIB)
    reading, _, _ = tick(0.0)
    assert reading.assessment.level is PressureLevel.HIGH
    assert tick.glimpse(0.0) is None


def test_who_subscribes_sees_no_difference(tree: ProcTree) -> None:
    """Samples come at the asked interval with the values of their moment; then the level, when it rises."""
    clock = FakeClock()
    seen: list[Event] = []
    warden = Warden(readers_of(tree), clock=clock, interval=1.0)
    warden.subscribe(seen.append)
    with warden:
        clock.advance(2.0)
        tree.meminfo(8 * GIB, 7 * GIB)
        clock.advance(1.0)
        tree.meminfo(8 * GIB, GIB // 8)
        clock.advance(1.0)
        warden.flush()
    samples = [event.value.sample.system.available for event in seen if event.kind is EventKind.SAMPLE]
    assert samples == [6 * GIB, 6 * GIB, 6 * GIB, 7 * GIB, GIB // 8]
    assert [event.value.level.name for event in seen if event.kind is EventKind.LEVEL] == ["LOW", "CRITICAL"]


def test_a_detector_of_others_needs_to_know_nothing_of_it(tree: ProcTree) -> None:
    """It then sees every sample."""

    class Counting:
        seen = 0

        def assess(self, sample: Any) -> Any:
            self.seen += 1
            return PressureDetector().assess(sample)

    counting = Counting()
    warden = Warden(readers_of(tree), detector=counting, clock=FakeClock())
    for _ in range(3):
        warden.look()
    assert counting.seen == 3


@pytest.mark.parametrize("rest", [1, 63, 64, 200])
def test_numbers_that_move_are_found_again(tmp_path: Path, rest: int) -> None:
    """A machine with more than 95 GiB writes wider numbers, and the lines behind them move."""
    tree = ProcTree(tmp_path)
    tree.meminfo(400 * GIB, 90 * GIB, SwapTotal=rest * 1024, SwapFree=rest * 1024)
    reader = MeminfoReader(tree.proc)
    seen: list[Mapping[str, Any]] = []
    for available in (90, 96, 90, 399, 1):
        tree.meminfo(400 * GIB, available * GIB, SwapTotal=rest * 1024, SwapFree=rest * 1024)
        looked = reader.glance()
        seen.append(reader.facts(looked[0]) if looked is not None else reader.read())
    assert [each["system"].available // GIB for each in seen] == [90, 96, 90, 399, 1]
    assert {each["system"].swap_free for each in seen} == {rest * 1024}
