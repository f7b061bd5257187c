"""What a patient reader reads anew at each sample, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from memwarden.errors import ReadError
from memwarden.readers.linux import cgroup, process
from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.readers.linux.process import ProcessReader
from memwarden.testing import ProcTree
from support.trees import MIB, v2_group, v2_line


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the readers: one number that a test sets."""
    moment = [100.0]
    for module in (process, cgroup):
        monkeypatch.setattr(module, "monotonic", lambda: moment[0])
    return moment


def test_the_size_of_a_process_is_never_old(tmp_path: Path, now: list[float]) -> None:
    """And its peak is never below its size; the name waits for its time."""
    tree = ProcTree(tmp_path)
    tree.process(10, name="before", rss=10 * MIB, shared=MIB)
    reader = ProcessReader(10, tree.proc, max_age=5)
    assert reader.memory().peak == 10 * MIB
    tree.process(10, name="after", rss=30 * MIB, shared=2 * MIB)
    seen = reader.memory()
    assert (seen.rss, seen.shared, seen.anon, seen.peak, seen.name) == (30 * MIB, 2 * MIB, 28 * MIB, 30 * MIB, "before")
    now[0] += 5
    assert reader.memory().name == "after"


def test_a_process_that_ended_is_gone_at_once(tmp_path: Path, now: list[float]) -> None:
    """As a zombie, and afterwards."""
    tree = ProcTree(tmp_path)
    tree.process(10)
    reader = ProcessReader(10, tree.proc, max_age=5)
    reader.memory()
    tree.process(10, state="Z", rss=0)
    with pytest.raises(ReadError, match="gone"):
        reader.memory()


@pytest.fixture
def group(tmp_path: Path) -> ProcTree:
    """A group of 1000 MiB that uses a tenth."""
    tree = ProcTree(tmp_path)
    tree.mounted("self", "0::/\n", v2_line())
    v2_group(tree, "", 100 * MIB, 1000 * MIB)
    return tree


def test_the_usage_of_a_group_is_never_old(group: ProcTree, now: list[float]) -> None:
    """Its limit may be, for as long as the reader may be patient."""
    reader = CgroupReader(None, group.proc, group.sys, max_age=5)
    reader.sample()
    v2_group(group, "", 300 * MIB, 700 * MIB)
    (seen,) = reader.read()["cgroups"]
    assert (seen.usage // MIB, seen.limit // MIB) == (300, 1000)
    assert seen.peak is None or seen.peak >= seen.usage
    now[0] += 5
    (seen,) = reader.read()["cgroups"]
    assert (seen.usage // MIB, seen.limit // MIB) == (300, 700)


def test_from_half_of_its_limit_a_group_is_read_in_full(group: ProcTree, now: list[float]) -> None:
    """There it decides what part of the usage can be reclaimed."""
    reader = CgroupReader(None, group.proc, group.sys, max_age=5)
    reader.sample()
    v2_group(group, "", 500 * MIB, 700 * MIB)
    (seen,) = reader.read()["cgroups"]
    assert (seen.usage // MIB, seen.limit // MIB) == (500, 700)


def test_a_group_that_is_removed_is_reported_at_once(group: ProcTree, now: list[float]) -> None:
    """Not after the max_age."""
    reader = CgroupReader(None, group.proc, group.sys, max_age=5)
    reader.sample()
    group.write("sys/memory.current", "torn")
    assert reader.read()["gaps"]
