"""How the tree reader finds who is new: what it promises, and what a look costs where nobody is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from memwarden.model.facts import ProcessKey
from memwarden.readers.linux import tree as tree_module
from memwarden.readers.linux.new_pids import Numbers, PidCounter, PidList
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


@pytest.fixture(params=["walk", "list"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Through the children files, and by the list of the machine: the reader takes the cheaper one."""
    monkeypatch.setattr(tree_module, "_FILE_IN_LISTED", 0 if request.param == "walk" else 1000)
    return str(request.param)


@pytest.fixture
def reader(world: CountedTree) -> Any:
    """Settled: it has looked so often that it asks only every 64 looks."""
    made = TreeReader(10, world.proc)
    for _ in range(40):
        made.look()
    yield made
    made.close()


def pids(reader: TreeReader) -> list[int]:
    memory, gaps = reader.look()
    assert gaps == ()
    return sorted(key.pid for key in memory.keys)


def looks_until(reader: TreeReader, wanted: list[int], most: int) -> int:
    """After how many looks the tree is that."""
    for look in range(1, most + 1):
        if pids(reader) == wanted:
            return look
    raise AssertionError(f"not within {most} looks")


def test_a_look_at_a_quiet_tree_opens_and_lists_nothing(reader: TreeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read a member and one of the counter: nothing else, however large the machine is."""
    reads: list[int] = []
    pread = os.pread

    def reading(fd: int, size: int, offset: int) -> bytes:
        reads.append(fd)
        return pread(fd, size, offset)

    def refused(*_: object, **__: object) -> Any:
        raise AssertionError("a quiet look asks nobody")

    while reader._looks % 64 != 50:
        reader.look()
    monkeypatch.setattr(os, "pread", reading)
    for name in ("open", "listdir", "stat", "scandir"):
        monkeypatch.setattr(os, name, refused)
    first = reader.look()[0]
    assert len(reads) == 3
    assert reader.look()[0] is first, "nothing has changed: not even the value is made anew"


def test_a_child_is_found_by_the_next_look(world: CountedTree, reader: TreeReader, way: str) -> None:
    """And so are its children, which are new as well."""
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60, children=[61])
    world.process(61, ppid=60, start=61)
    assert pids(reader) == [10, 11, 60, 61]


def test_a_strangers_number_that_is_given_out_again(world: CountedTree, reader: TreeReader, way: str) -> None:
    """A stranger ended and a member's child got its number, between two looks: the list stayed the same."""
    world.process(60, start=60)  # somebody new: the list is up to date
    assert pids(reader) == [10, 11]
    world.end(51)
    world.process(11, ppid=10, start=2, children=[51])
    world.process(51, ppid=11, start=900)
    assert pids(reader) == [10, 11, 51]


def test_a_members_number_that_is_given_out_again(world: CountedTree, way: str) -> None:
    """To a stranger: it is dropped at once though no descriptor tells, and its children never come in."""
    reader = TreeReader(10, world.proc, keep=0)
    for _ in range(40):
        reader.look()
    world.process(10, start=1)
    world.process(11, start=900, children=[12])
    world.process(12, ppid=11, start=901)
    assert pids(reader) == [10]
    reader.close()


def test_a_members_number_that_its_own_child_gets(world: CountedTree, way: str) -> None:
    """The pid stays in the tree, under its new identity."""
    reader = TreeReader(10, world.proc, keep=0)
    for _ in range(40):
        reader.look()
    world.process(11, ppid=10, start=900)
    assert ProcessKey(11, 900) in reader.look()[0].keys
    assert pids(reader) == [10, 11]
    reader.close()


def test_the_numbers_begin_again_at_the_bottom(world: CountedTree, reader: TreeReader, way: str) -> None:
    """The counter falls: those above the old and those up to the new one may be new."""
    world.count(32_760)
    assert pids(reader) == [10, 11]
    world.end(51)
    world.process(10, start=1, children=[11, 51, 32_765])
    world.process(32_765, ppid=10, start=899)
    world.process(51, ppid=10, start=900)
    assert pids(reader) == [10, 11, 51, 32_765]


@pytest.mark.parametrize("under_way", [1, 2, 5, 20, 31])
def test_a_fork_that_is_under_way_is_found(world: CountedTree, reader: TreeReader, way: str, under_way: int) -> None:
    """Its number is taken first and it is seen later, when the counter stands still again: those looks ask again."""
    world.count(60)
    for _ in range(under_way):
        assert pids(reader) == [10, 11]
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60)
    world.count(60)
    looks_until(reader, [10, 11, 60], 32)


def test_whom_the_counter_did_not_announce(world: CountedTree, reader: TreeReader, way: str) -> None:
    """Found within 64 looks; and a counter that was caught standing still is not believed again."""
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60)
    world.count(53)
    looks_until(reader, [10, 11, 60], 64 + 1)
    looks_until(reader, [10, 11, 60], 64)
    world.process(11, ppid=10, start=2, children=[61])
    world.process(61, ppid=11, start=61)
    world.count(53)
    looks_until(reader, [10, 11, 60, 61], 64)


def test_a_lying_counter_is_found_out(world: CountedTree, reader: TreeReader) -> None:
    """After it stood still for 64 looks while somebody came, every look asks."""
    for _ in range(70):
        reader.look()
    for child in (60, 61):
        world.process(10, start=1, children=range(60, child + 1))
        world.process(child, ppid=10, start=child)
        world.count(53)
        taken = looks_until(reader, [10, 11, *range(60, child + 1)], 64)
    assert taken == 1


def test_all_numbers_were_given_out_between_two_looks(world: CountedTree, reader: TreeReader, way: str) -> None:
    """The counter went once around, so that the range says nothing: found within 320 looks by a walk."""
    world.end(51)
    world.process(11, ppid=10, start=2, children=[51])
    world.process(51, ppid=11, start=900)
    world.count(54)
    looks_until(reader, [10, 11, 51], 320)


def test_members_asks_each_time(world: CountedTree, reader: TreeReader, way: str) -> None:
    """Who is going to be signalled must be complete: no look is saved here."""
    for _ in range(5):
        reader.look()
    world.process(10, start=1, children=[11, 60])
    world.process(60, ppid=10, start=60)
    world.count(53)
    assert sorted(key.pid for key in reader.members()) == [10, 11, 60]


def test_a_parent_that_ends_while_it_is_asked(
    world: CountedTree, reader: TreeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its child named a parent that could not be asked any more: it is asked again, and found under the adopter."""
    monkeypatch.setattr(tree_module, "_FILE_IN_LISTED", 1000)
    adopting = TreeReader(10, world.proc, adopter=1, strangers=[50, 51, 52, 53])
    for _ in range(40):
        adopting.look()
    world.process(60, ppid=10, start=60)
    world.process(61, ppid=60, start=61)
    os.unlink(f"{world.proc}/60/stat")
    world.process(62, ppid=61, start=62)
    assert pids(adopting) == [10, 11]
    world.end(60)
    world.process(61, ppid=1, start=61)
    assert pids(adopting) == [10, 11, 61, 62]
    adopting.close()


def test_a_newcomer_that_may_not_be_asked(
    world: CountedTree, reader: TreeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hidepid=1: the children files of the members tell whose it is; ours is a gap, a stranger is none."""
    monkeypatch.setattr(tree_module, "_FILE_IN_LISTED", 1000)
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
        memory, gaps = reader.look()
        assert sorted(key.pid for key in memory.keys) == [10, 11]
        assert [(gap.why, gap.where.split("/")[-2]) for gap in gaps] == [("denied", "61")]


def test_newcomers_are_asked_once(world: CountedTree, reader: TreeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where others start and end all the time each of them is asked for its parent one time."""
    monkeypatch.setattr(tree_module, "_FILE_IN_LISTED", 1000)
    asked: list[str] = []
    read_stat = tree_module.read_stat

    def reading(pid: int | str, proc: str) -> Any:
        asked.append(str(pid))
        return read_stat(pid, proc)

    monkeypatch.setattr(tree_module, "read_stat", reading)
    reader.look()
    asked.clear()
    for stranger in range(200, 230):
        world.process(stranger, start=stranger)
        reader.look()
    assert [pid for pid in asked if pid not in ("10", "11")] == [str(pid) for pid in range(200, 230)]


def test_a_storm_of_newcomers_is_not_asked(
    world: CountedTree, reader: TreeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More newcomers than the tree has files: a walk is cheaper than to ask each of them."""
    monkeypatch.setattr(tree_module, "_FILE_IN_LISTED", 1000)
    world.process(60, start=60)
    reader.look()
    for stranger in range(200, 300):
        world.process(stranger, start=stranger)
    world.process(10, start=1, children=[11, 300])
    world.process(300, ppid=10, start=300)
    asked: list[int] = []
    read_stat = tree_module.read_stat
    monkeypatch.setattr(tree_module, "read_stat", lambda pid, proc: (asked.append(int(pid)), read_stat(pid, proc))[1])
    assert pids(reader) == [10, 11, 300]
    assert set(asked) <= {10, 11, 300}


# --- the counter itself -------------------------------------------------------------------------------


def test_the_counter_is_believed_in_its_own_namespace_only(tmp_path: Path) -> None:
    """In a container that shows the host's /proc the kernel would answer for another namespace."""
    world = CountedTree(tmp_path)
    assert PidCounter(world.proc).last() == 4242
    world.write("proc/self/status", "Name:\tpython3\nNSpid:\t4242\t7\n")
    assert PidCounter(world.proc).last() is None
    world.write("proc/self/status", "Name:\tpython3\n")
    assert PidCounter(world.proc).last() is None


def test_a_counter_that_could_not_be_opened_is_opened_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of a descriptor, say: that says nothing about the counter."""

    def none_left(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    counter = PidCounter(CountedTree(tmp_path).proc)
    monkeypatch.setattr(os, "open", none_left)
    assert counter.last() is None
    monkeypatch.undo()
    assert counter.last() == 4242
    counter.close()


def test_loadavg_stands_in_for_a_missing_counter(tmp_path: Path) -> None:
    """A kernel without CONFIG_CHECKPOINT_RESTORE; one that always says 0 is not believed."""
    world = CountedTree(tmp_path)
    os.unlink(f"{world.proc}/sys/kernel/ns_last_pid")
    assert PidCounter(world.proc).last() is None
    world.write("proc/loadavg", "0.54 0.25 0.10 1/95 9459\n")
    assert PidCounter(world.proc).last() == 9459
    for lie in ("0.00 0.00 0.00 0/0 0\n", "", "nothing of the kind\n", "0.5 0.2 0.1 1/95 \n"):
        world.write("proc/loadavg", lie)
        assert PidCounter(world.proc).last() is None


def test_numbers_between_two_readings() -> None:
    """Those after the first up to the second, over the top where the second is lower."""
    assert [pid for pid in range(1, 20) if pid in Numbers(5, 9)] == [6, 7, 8, 9]
    assert [pid for pid in range(1, 20) if pid in Numbers(15, 3)] == [1, 2, 3, 16, 17, 18, 19]
    assert 4_000_000 in Numbers(15, 3)
    assert (list(Numbers(5, 9)), len(Numbers(5, 9)), list(Numbers(7, 7))) == ([6, 7, 8, 9], 4, [])


def test_the_list_gives_processes_only(tmp_path: Path) -> None:
    """What else lies in /proc is no newcomer; who is forgotten is new again."""
    world = CountedTree(tmp_path)
    world.process(10)
    listed = PidList(world.proc)
    assert listed.renew(10) == ({"10"}, set())
    world.process(11)
    world.write("proc/vmstat", "")
    assert listed.renew(11)[0] == {"11"}
    listed.forget(10)
    assert listed.renew(11)[0] == {"10"}
    world.end(10)
    assert listed.renew(11)[1] == {"10"}
