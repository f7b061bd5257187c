"""A warden over the readers that it has by default, on a made tree of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memwarden.assess.pressure import PressureDetector
from memwarden.engine.warden import Warden
from memwarden.model.events import Event, EventKind
from memwarden.protocols import Reader
from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.process import ProcessReader
from memwarden.testing import FakeClock, ProcTree
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
        ProcessReader(10, tree.proc, max_age=60),
        CgroupReader(None, tree.proc, tree.sys, max_age=60),
    ]


def test_samples_come_at_the_asked_interval_with_the_values_of_their_moment(tree: ProcTree) -> None:
    """Between two full readings, too; then the level, when it rises."""
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


def test_a_detector_of_ones_own_sees_every_sample(tree: ProcTree) -> None:
    """Also where memory is far from every limit."""

    class Counting:
        seen = 0

        def assess(self, sample: Any) -> Any:
            self.seen += 1
            return PressureDetector().assess(sample)

    counting = Counting()
    warden = Warden(readers_of(tree), detector=counting, clock=FakeClock())
    for _ in range(3):
        warden.sample()
    assert counting.seen == 3
