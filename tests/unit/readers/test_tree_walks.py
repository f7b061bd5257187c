"""When the tree reader walks: new processes are found, and a sample of a quiet tree costs one read a member."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.pid_counter import PidCounter
from memwarden.readers.linux.tree import TreeReader
from support.trees import CountedTree


@pytest.fixture
def world(tmp_path: Path) -> CountedTree:
    """Init, a tree of 10 and 11, and strangers 50 to 53."""
    made = CountedTree(tmp_path)
    made.process(1, ppid=0, start=0, children=[10, 50, 51, 52, 53])
    made.process(10, start=1, children=[11])
    made.process(11, ppid=10, start=2)
    for stranger in (50, 51, 52, 53):
        made.process(stranger, start=stranger)
    return made


@pytest.fixture
def reader(world: CountedTree) -> Any:
    """Settled: it has read so often that it walks only every 64 samples."""
    made = TreeReader(10, world.proc)
    for _ in range(40):
        made.sample()
    yield made
    made.close()


def pids(reader: TreeReader) -> list[int]:
    memory, gaps = reader.sample()
    assert gaps == ()
    return sorted(key.pid for key in memory.keys)


def samples_until(reader: TreeReader, wanted: list[int], most: int) -> int:
    """Return after how many samples the tree is that."""
    for count in range(1, most + 1):
        if pids(reader) == wanted:
            return count
    raise AssertionError(f"not within {most} samples")


def test_a_sample_of_a_quiet_tree_opens_and_lists_nothing(reader: TreeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read a member and one of the counter: nothing else, however large the machine is."""
    reads: list[int] = []
    pread = os.pread

    def reading(fd: int, size: int, offset: int) -> bytes:
        reads.append(fd)
        return pread(fd, size, offset)

    def refused(*_: object, **__: object) -> Any:
        raise AssertionError("a quiet sample opens nothing")

    while reader._samples % 64 != 50:
        reader.sample()
    monkeypatch.setattr(os, "pread", reading)
    for name in ("open", "listdir", "stat", "scandir"):
        monkeypatch.setattr(os, name, refused)
    first = reader.sample()[0]
    assert len(reads) == 3
    assert reader.sample()[0] is first, "nothing has changed: not even the value is made anew"


def test_a_child_is_found_by_the_next_sample(world: CountedTree, reader: TreeReader) -> None:
    """And so are its children, which are new as well."""
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60, children=[61])
    world.process(61, ppid=60, start=61)
    assert pids(reader) == [10, 11, 60, 61]


def test_a_strangers_number_that_is_given_out_again(world: CountedTree, reader: TreeReader) -> None:
    """A stranger ended and a member's child got its number, between two samples."""
    world.end(51)
    world.process(11, ppid=10, start=2, children=[51])
    world.process(51, ppid=11, start=900)
    assert pids(reader) == [10, 11, 51]


def test_a_members_number_that_is_given_out_again(world: CountedTree) -> None:
    """To another program: it is dropped at once, and its children never count."""
    reader = TreeReader(10, world.proc, keep=0)
    for _ in range(40):
        reader.sample()
    world.process(10, start=1)
    world.process(11, start=900, children=[12])
    world.process(12, ppid=11, start=901)
    assert pids(reader) == [10]
    reader.close()


def test_a_members_number_that_its_own_child_gets(world: CountedTree) -> None:
    """The pid stays in the tree, under its new identity."""
    reader = TreeReader(10, world.proc, keep=0)
    for _ in range(40):
        reader.sample()
    world.process(11, ppid=10, start=900)
    assert ProcessKey(11, 900) in reader.sample()[0].keys
    assert pids(reader) == [10, 11]
    reader.close()


def test_the_numbers_begin_again_at_the_bottom(world: CountedTree, reader: TreeReader) -> None:
    """The counter falls: it moved all the same."""
    world.count(32_760)
    assert pids(reader) == [10, 11]
    world.end(51)
    world.process(10, start=1, children=[11, 51, 32_765])
    world.process(32_765, ppid=10, start=899)
    world.process(51, ppid=10, start=900)
    assert pids(reader) == [10, 11, 51, 32_765]


@pytest.mark.parametrize("under_way", [1, 2, 5, 20, 31])
def test_a_fork_that_is_under_way_is_found(world: CountedTree, reader: TreeReader, under_way: int) -> None:
    """Its number is taken first and it is listed later, when the counter is stopped: later samples sample again."""
    world.count(60)
    for _ in range(under_way):
        assert pids(reader) == [10, 11]
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60)
    world.count(60)
    samples_until(reader, [10, 11, 60], 32)


def test_a_process_that_the_counter_did_not_count(world: CountedTree, reader: TreeReader) -> None:
    """A restored checkpoint chose its number: found within 64 samples."""
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60)
    world.count(53)
    samples_until(reader, [10, 11, 60], 64 + 1)
    world.process(11, ppid=10, start=2, children=[61])
    world.process(61, ppid=11, start=61)
    world.count(53)
    samples_until(reader, [10, 11, 60, 61], 64)


def test_all_numbers_were_given_out_between_two_samples(world: CountedTree, reader: TreeReader) -> None:
    """The counter went once around, so that its range shows nothing: found within 256 samples by a walk."""
    world.end(51)
    world.process(11, ppid=10, start=2, children=[51])
    world.process(51, ppid=11, start=900)
    world.count(54)
    samples_until(reader, [10, 11, 51], 256)


def test_members_walks_each_time(world: CountedTree, reader: TreeReader) -> None:
    """Targets of a signal must be complete: members() always walks."""
    for _ in range(5):
        reader.sample()
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60)
    world.count(53)
    assert sorted(key.pid for key in reader.members()) == [10, 11, 60]


def test_a_child_that_may_not_be_read(world: CountedTree, reader: TreeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """hidepid=1: a child that may not be read is a gap, another user's process is none."""
    real = os.open

    def opening(path: Any, *rest: Any, **more: Any) -> int:
        if "/60/" in str(path) or "/61/" in str(path):
            raise PermissionError(1, "Operation not permitted", path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", opening)
    world.process(60, start=60)
    assert pids(reader) == [10, 11]
    world.process(10, start=1, children=[11, 61])
    world.process(61, ppid=10, start=61)
    for _ in range(3):
        memory, gaps = reader.sample()
        assert sorted(key.pid for key in memory.keys) == [10, 11]
        assert [(gap.why, gap.where.split("/")[-2]) for gap in gaps] == [("denied", "61")]


# --- the counter itself -------------------------------------------------------------------------------


def test_the_counter_is_used_in_its_own_namespace_only(tmp_path: Path) -> None:
    """In a container that shows the host's /proc the kernel would answer for another namespace."""
    world = CountedTree(tmp_path)
    assert PidCounter(world.proc).last() == 4242
    world.write("proc/self/status", "Name:\tpython3\nNSpid:\t4242\t7\n")
    assert PidCounter(world.proc).last() is None
    world.write("proc/self/status", "Name:\tpython3\n")
    assert PidCounter(world.proc).last() is None


def test_a_counter_that_could_not_be_opened_is_opened_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, for example: that shows nothing about the counter."""

    def none_left(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    counter = PidCounter(CountedTree(tmp_path).proc)
    monkeypatch.setattr(os, "open", none_left)
    assert counter.last() is None
    monkeypatch.undo()
    assert counter.last() == 4242
    counter.close()


def test_loadavg_stands_in_for_a_missing_counter(tmp_path: Path) -> None:
    """A kernel without CONFIG_CHECKPOINT_RESTORE; one that always shows 0 is not used."""
    world = CountedTree(tmp_path)
    os.unlink(f"{world.proc}/sys/kernel/ns_last_pid")
    assert PidCounter(world.proc).last() is None
    world.write("proc/loadavg", "0.54 0.25 0.10 1/95 9459\n")
    assert PidCounter(world.proc).last() == 9459
    for lie in ("0.00 0.00 0.00 0/0 0\n", "", "nothing of the kind\n", "0.5 0.2 0.1 1/95 \n"):
        world.write("proc/loadavg", lie)
        assert PidCounter(world.proc).last() is None
