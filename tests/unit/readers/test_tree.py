"""A whole process tree, from files that a test owns."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.readers.linux.tree import TreeReader
from memwarden.testing import ProcTree
from support.trees import HOSTILE_NAMES, MIB, CountedTree, descriptors

#: The descriptor of the counter of process numbers.
COUNTER = 1


@pytest.fixture(params=[ProcTree, CountedTree], ids=["no counter", "counter"])
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> ProcTree:
    """Where nothing shows new processes, and where the kernel's counter does: the answers are the same."""
    made: ProcTree = request.param(tmp_path)
    return made


@pytest.fixture(params=[128, 0], ids=["kept open", "opened each time"])
def keep(request: pytest.FixtureRequest) -> int:
    """With descriptors and without: the answers are the same."""
    return int(request.param)


@pytest.fixture
def closing() -> Iterator[list[TreeReader]]:
    readers: list[TreeReader] = []
    yield readers
    for reader in readers:
        reader.close()


def pids(memory: TreeMemory) -> list[int]:
    return sorted(key.pid for key in memory.keys)


def read_once(reader: TreeReader) -> TreeMemory:
    memory, gaps = reader.sample()
    assert gaps == ()
    return memory


def test_a_tree_is_the_root_and_all_below_it(tree: ProcTree, keep: int) -> None:
    """Children of children count, processes beside the tree do not."""
    tree.process(10, rss=10 * MIB, shared=4 * MIB, start=1, children=[11, 12], name="root")
    tree.process(11, rss=20 * MIB, ppid=10, start=2, children=[13], name="left")
    tree.process(12, rss=30 * MIB, ppid=10, start=3, name="right")
    tree.process(13, rss=40 * MIB, ppid=11, start=4, name="leaf")
    tree.process(99, rss=50 * MIB, name="stranger")
    reader = TreeReader(10, tree.proc, keep=keep)
    reader.sample()
    memory = read_once(reader)
    assert memory.root == ProcessKey(10, 1)
    rows = {row.key: (row.name, row.rss, row.shared) for row in memory.rows()}
    assert {key: row[:2] for key, row in rows.items()} == {
        ProcessKey(10, 1): ("root", 10 * MIB),
        ProcessKey(11, 2): ("left", 20 * MIB),
        ProcessKey(12, 3): ("right", 30 * MIB),
        ProcessKey(13, 4): ("leaf", 40 * MIB),
    }
    assert (memory.total, memory.anon) == (100 * MIB, 96 * MIB)
    assert sorted(reader.members()) == sorted(memory.keys)
    reader.close()


def test_children_of_every_thread_count(tree: ProcTree, keep: int) -> None:
    """The kernel lists a child with the thread that forked it, not with the process."""
    tree.process(10, threads={10: [11], 15: [12], 16: [], 17: [13, 14]})
    for child in (11, 12, 13, 14):
        tree.process(child, ppid=10)
    reader = TreeReader(10, tree.proc, keep=keep)
    assert pids(read_once(reader)) == [10, 11, 12, 13, 14]
    reader.close()


def test_a_thread_that_comes_later_is_looked_at(tree: ProcTree, keep: int) -> None:
    """A program that starts its first thread after the first sample."""
    tree.process(10, children=[11])
    tree.process(11, ppid=10)
    reader = TreeReader(10, tree.proc, keep=keep)
    assert pids(read_once(reader)) == [10, 11]
    tree.process(10, threads={10: [11], 20: [12]})
    tree.process(12, ppid=10)
    assert pids(read_once(reader)) == [10, 11, 12]
    reader.close()


def test_more_children_than_one_read_gives(tree: ProcTree, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of ``children`` ends at a page (some 680 pids); the file is then read on to its end."""
    children = list(range(100_000, 101_000))
    tree.process(10, children=children)
    for child in children:
        tree.process(child, ppid=10, rss=MIB)
    pread, read = os.pread, os.read
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 4095), offset))
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 4095)))
    reader = TreeReader(10, tree.proc, keep=keep)
    memory = read_once(reader)
    assert len(memory.keys) == 1001
    assert memory.total == 1010 * MIB
    reader.close()


def test_an_orphan_is_kept_by_its_identity(tree: ProcTree, keep: int) -> None:
    """Its parent has ended and it hangs under init: still ours, and so is what it starts from now on."""
    tree.process(1, start=0, children=[10])
    tree.process(10, start=1, children=[11])
    tree.process(11, ppid=10, start=2, children=[12])
    tree.process(12, ppid=11, start=3)
    reader = TreeReader(10, tree.proc, keep=keep)
    assert pids(read_once(reader)) == [10, 11, 12]
    tree.end(11)
    tree.process(10, start=1)
    tree.process(12, ppid=1, start=3, children=[13])
    tree.process(13, ppid=12, start=4)
    assert pids(look_until_settled(reader)) == [10, 12, 13]
    reader.close()


def look_until_settled(reader: TreeReader) -> TreeMemory:
    """A plain file whose name is gone still reads, where the kernel shows ESRCH; names show within two samples."""
    for _ in range(2):
        memory = read_once(reader)
    return memory


def test_a_double_fork_stays_in_the_tree(tree: ProcTree, keep: int) -> None:
    """The middle of three generations ends at once: the daemon was seen below it and stays a member."""
    tree.process(10, start=1, children=[11])
    tree.process(11, ppid=10, start=2, children=[12])
    tree.process(12, ppid=11, start=3)
    reader = TreeReader(10, tree.proc, keep=keep)
    reader.sample()
    tree.process(10, start=1)
    tree.end(11)
    tree.process(12, ppid=1, start=3)
    assert 12 in pids(read_once(reader))
    reader.close()


def test_a_later_process_with_an_orphans_pid_is_none_of_ours(tree: ProcTree) -> None:
    """The pid is the same and the start is not: it is dropped, and its children never come in."""
    tree.process(10, start=1, children=[11])
    tree.process(11, ppid=10, start=2)
    reader = TreeReader(10, tree.proc, keep=0)
    reader.sample()
    tree.process(10, start=1)
    tree.process(11, ppid=1, start=500, children=[50])
    tree.process(50, ppid=11, start=501)
    assert pids(read_once(reader)) == [10]
    assert [key.pid for key in reader.members()] == [10]


@pytest.mark.parametrize("closed", [False, True], ids=["at once", "after the descriptors were given back"])
def test_a_later_process_with_the_roots_pid_brings_nothing_in(tree: ProcTree, closed: bool) -> None:
    """The tree ends with its root; a stranger's children under that pid must never be measured, or ended."""
    tree.process(10, start=1)
    reader = TreeReader(10, tree.proc, keep=8 if closed else 0)
    reader.sample()
    if closed:
        reader.close()
    tree.process(10, start=500, threads={10: [50], 60: [51]}, name="stranger")
    tree.process(50, ppid=10, start=501)
    tree.process(51, ppid=10, start=502)
    assert reader.members() == []
    with pytest.raises(ReadError) as caught:
        reader.sample()
    assert caught.value.why == "gone"


def test_orphans_live_on_when_the_root_has_gone(tree: ProcTree) -> None:
    """The tree is what is left of it, under its old name."""
    tree.process(10, start=1, children=[11])
    tree.process(11, ppid=10, start=2)
    reader = TreeReader(10, tree.proc, keep=0)
    reader.sample()
    tree.end(10)
    tree.process(11, ppid=1, start=2)
    memory = read_once(reader)
    assert (memory.root, pids(memory)) == (ProcessKey(10, 1), [11])


@pytest.mark.parametrize("state", ["Z", "X"])
@pytest.mark.parametrize("seen", [0, 1, 2, 4])
def test_a_zombie_is_counted_apart_and_holds_nothing(tree: ProcTree, keep: int, seen: int, state: str) -> None:
    """Its statm reads zeros without an error; it stands in no column."""
    tree.process(10, start=1, children=[11])
    tree.process(11, ppid=10, start=2)
    reader = TreeReader(10, tree.proc, keep=keep)
    assert [read_once(reader).zombies for _ in range(seen)] == [0] * seen
    tree.process(11, ppid=10, start=2, state=state)
    tree.write("proc/11/statm", "0 0 0 0 0 0 0\n")
    for _ in range(3):
        memory = read_once(reader)
        assert (pids(memory), memory.zombies) == ([10], 1)
    assert [key.pid for key in reader.members()] == [10, 11]
    reader.close()


def test_a_tree_of_a_zombie_alone_is_not_gone(tree: ProcTree) -> None:
    """It waits to be reaped; any process that waits for the tree must go on waiting."""
    tree.process(10, start=1, state="Z")
    memory = read_once(TreeReader(10, tree.proc))
    assert (memory.keys, memory.zombies, memory.total) == ((), 1, 0)


def test_a_process_that_was_never_there_is_gone(tree: ProcTree, keep: int) -> None:
    """And stays gone."""
    reader = TreeReader(10, tree.proc, keep=keep)
    for _ in range(2):
        with pytest.raises(ReadError) as caught:
            reader.read()
        assert (caught.value.what, caught.value.why) == ("tree", "gone")
    assert reader.members() == []


def test_names_follow_exec(tree: ProcTree, keep: int) -> None:
    """A launcher becomes the command under the same identity; soon after, its new name is shown."""
    tree.process(10, name="launcher")
    reader = TreeReader(10, tree.proc, keep=keep)
    assert read_once(reader).names == ("launcher",)
    tree.process(10, name="ffmpeg")
    assert read_once(reader).names == ("ffmpeg",)
    reader.close()


def test_a_name_that_changes_late_is_shown_in_the_end(tree: ProcTree) -> None:
    """It is read again every 64 samples."""
    tree.process(10, name="early")
    reader = TreeReader(10, tree.proc)
    for _ in range(100):
        reader.sample()
    tree.process(10, name="late")
    names = {read_once(reader).names for _ in range(64)}
    assert ("late",) in names
    reader.close()


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_a_hostile_name_misleads_no_parser(tree: ProcTree, name: bytes) -> None:
    """A child that is called ``) Z 0 …`` is neither a zombie nor another process's."""
    tree.process(10, children=[11])
    tree.process(11, ppid=10, name=name, rss=7 * MIB, start=5)
    memory = read_once(TreeReader(10, tree.proc, keep=0))
    assert (pids(memory), memory.zombies, memory.total) == ([10, 11], 0, 17 * MIB)


def test_descriptors_are_bounded_and_given_back(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """One each for as many as may be kept; none at all after close, and reading goes on."""
    tree.process(10, rss=MIB, children=range(11, 31))
    for child in range(11, 31):
        tree.process(child, ppid=10, rss=child * MIB)
    before = descriptors()
    reader = TreeReader(10, tree.proc, keep=5)
    opened, most = os.open, [0]

    def opening(*args: Any, **more: Any) -> int:
        fd = opened(*args, **more)
        most[0] = max(most[0], descriptors())
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opening)
        for _ in range(130):
            memory = read_once(reader)
            assert descriptors() <= before + 5 + COUNTER
    assert most[0] <= before + 5 + COUNTER + 1, "one at a time for those that are not kept open"
    assert len(memory.keys) == 21
    reader.close()
    reader.close()
    assert descriptors() == before
    assert len(read_once(reader).keys) == 21
    reader.close()


def test_members_come_and_go_without_leaking_descriptors(tree: ProcTree) -> None:
    """A shell that starts a thousand short commands."""
    tree.process(10)
    before = descriptors()
    reader = TreeReader(10, tree.proc, keep=4)
    for child in range(100, 200):
        tree.process(10, children=[child])
        tree.process(child, ppid=10, start=child)
        assert child in pids(read_once(reader))
        tree.end(child)
    assert descriptors() <= before + 4 + COUNTER
    reader.close()
    assert descriptors() == before


def test_adopted_orphans_are_members_and_strangers_are_not(tree: ProcTree, keep: int) -> None:
    """A subreaper's children belong to the tree, any process that forked them, but not those that it had before."""
    tree.process(1, threads={1: [10, 77], 2: [12]}, start=0)
    tree.process(10, start=1)
    tree.process(12, ppid=1, start=2, children=[13])
    tree.process(13, ppid=12, start=3)
    tree.process(77, ppid=1, start=4)
    reader = TreeReader(10, tree.proc, adopter=1, strangers=[77], keep=keep)
    assert pids(read_once(reader)) == [10, 12, 13]
    reader.close()


def test_an_adopter_that_has_ended_is_a_gap(tree: ProcTree, keep: int) -> None:
    """The tree itself is still read."""
    tree.process(10, start=1)
    reader = TreeReader(10, tree.proc, adopter=5, keep=keep)
    memory, gaps = reader.sample()
    assert pids(memory) == [10]
    assert [(gap.what, gap.why) for gap in gaps] == [("adopter", "absent")]
    reader.close()


def test_a_kernel_without_children_files_is_scanned(tree: ProcTree, keep: int) -> None:
    """Without CONFIG_PROC_CHILDREN the parent of every process is read; adopted orphans are found too."""
    for pid, ppid in ((1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (77, 1), (99, 5)):
        tree.process(pid, ppid=ppid, start=pid)
        os.unlink(f"{tree.proc}/{pid}/task/{pid}/children")
    reader = TreeReader(10, tree.proc, keep=keep)
    assert pids(read_once(reader)) == [10, 11, 12]
    reader.close()
    adopting = TreeReader(10, tree.proc, adopter=1, strangers=[77], keep=keep)
    assert pids(read_once(adopting)) == [10, 11, 12, 20]
    adopting.close()


def test_a_circle_of_parents_ends(tree: ProcTree) -> None:
    """Two files read at two moments may contradict each other."""
    tree.process(10, children=[11])
    tree.process(11, ppid=10, children=[10, 11])
    assert pids(read_once(TreeReader(10, tree.proc))) == [10, 11]
