"""Several trees as one, names that are followed, and how a process ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TreeMemory
from memwarden.readers.by_name import ProcessesByName
from memwarden.readers.exit_status import ExitStatus
from memwarden.readers.multi_tree import MultiTreeReader
from memwarden.testing import FakeClock, ProcTree, ScriptedReader, gone
from support.trees import MIB, CountedTree

#: No kernel gives such numbers out, so that none is meant by them.
A, B, CHILD = 1 << 23, (1 << 23) + 1, (1 << 23) + 2


def tree(root: int, *others: int, rss: int = MIB, alive: bool = True) -> dict[str, Any]:
    """What a tree reader gives."""
    pids = (root, *others) if alive else others
    keys = tuple([ProcessKey(pid, 7) for pid in pids])
    names = tuple([f"p{pid}" for pid in pids])
    each = (rss,) * len(pids)
    return {"tree": TreeMemory(ProcessKey(root, 7), keys, names, each, each, 1 - alive)}


def trees_of(scripts: dict[int, list[Any]], **more: Any) -> MultiTreeReader:
    return MultiTreeReader(scripts, reader=lambda pid: ScriptedReader(scripts[pid]), **more)


def test_one_tree_is_passed_on_as_it_is() -> None:
    """The usual case costs nothing more."""
    facts = tree(A, CHILD)
    reader = trees_of({A: [facts]})
    assert reader.read() == {"tree": facts["tree"], "gaps": ()}
    assert reader.read()["tree"] is facts["tree"]
    assert reader.roots == (ProcessKey(A, 7),)


def test_a_process_of_two_trees_counts_once() -> None:
    """One named process may be the child of another."""
    joined = trees_of({A: [tree(A, B, CHILD)], B: [tree(B, CHILD)]}).read()["tree"]
    assert [key.pid for key in joined.keys] == [A, B, CHILD]
    assert joined.total == 3 * MIB
    assert joined.root.pid == A


def test_an_end_is_reported_once_and_the_others_go_on() -> None:
    """With its name, and how many of its tree live on."""
    reader = trees_of({A: [tree(A, CHILD), tree(A, CHILD, alive=False), gone()], B: [tree(B)]})
    reader.read()
    assert [key.pid for key in reader.read()["tree"].keys] == [CHILD, B]
    assert [(end.key.pid, end.name, end.left) for end in reader.ended] == [(A, f"p{A}", 1)]
    assert reader.roots == (ProcessKey(B, 7),)
    assert [key.pid for key in reader.read()["tree"].keys] == [B]
    assert len(reader.ended) == 1


def test_when_no_process_is_left_there_is_no_tree() -> None:
    """Zombies are no process: they hold no memory."""
    reader = trees_of({A: [tree(A), tree(A, alive=False)]})
    reader.read()
    assert reader.read() == {"gaps": ()}
    assert (reader.tree, reader.roots) == (None, ())
    assert [end.left for end in reader.ended] == [0]


def test_a_process_that_cannot_be_read_has_not_ended() -> None:
    """A refused file is a gap; the tree is there again when it can be read again."""
    denied = ReadError("statm", "/proc/1/statm", "denied")
    gap = Gap("statm", "/proc/1/statm", "denied")
    reader = trees_of({A: [tree(A), denied, {**tree(A, alive=False), "gaps": (gap,)}, tree(A)]})
    reader.read()
    assert reader.read() == {"gaps": (gap,)}
    assert reader.read()["gaps"] == (gap,)
    assert reader.ended == []
    assert reader.read()["tree"].total == MIB


def test_newcomers_join_unless_they_are_members() -> None:
    """A child that bears the name, too, needs no tree of its own."""
    asked: list[set[int]] = [{A}, {A, B, CHILD}]
    scripts = {A: [tree(A, CHILD)], B: [tree(B)]}
    made: list[int] = []

    def reader(pid: int) -> ScriptedReader:
        made.append(pid)
        return ScriptedReader(scripts[pid])

    grown = MultiTreeReader(find_pids=lambda: asked.pop(0), reader=reader)
    grown.read()
    assert [key.pid for key in grown.read()["tree"].keys] == [A, CHILD, B]
    assert made == [A, B]


of_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=[ProcTree, CountedTree], ids=["no counter", "counter"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> ProcTree:
    made: ProcTree = request.param(tmp_path)
    return made


def start(world: ProcTree, pid: int, name: str, words: str, **more: Any) -> None:
    world.write(f"proc/{pid}/cmdline", words.replace(" ", "\0") + "\0")
    world.process(pid, name=name, **more)


@of_linux
def test_a_name_is_found_in_names_and_command_lines(world: ProcTree) -> None:
    """Whatever the case; kernel threads and zombies hold no memory and are no process."""
    start(world, 20, "Celery", "/usr/bin/python3 -m x")
    start(world, 21, "python3", "python3 -m celery worker")
    start(world, 22, "bash", "bash")
    start(world, 23, "celery", "", rss=0)
    assert ProcessesByName("celery", world.proc).find() == {20, 21}


@of_linux
def test_a_new_process_joins_and_an_ended_one_leaves(world: ProcTree) -> None:
    """Also under a number that was given out again, and by becoming another program within three seconds."""
    clock = FakeClock()
    named = ProcessesByName("worker", world.proc, monotonic=clock.monotonic)
    start(world, 20, "worker", "worker")
    start(world, 21, "sh", "sh")
    assert named.find() == {20}
    start(world, 21, "worker", "worker 2")  # exec
    clock.advance(1.0)
    assert named.find() == {20, 21}
    world.end(20)
    start(world, 22, "worker", "worker 3", start=300)
    assert named.find() == {21, 22}
    clock.advance(30.0)
    named.find()
    start(world, 22, "other", "other", start=300)  # so late an exec is seen when every process is asked again
    clock.advance(60.0)
    assert named.find() == {21}


@of_linux
def test_the_searcher_is_not_found(world: ProcTree) -> None:
    """This process and the shell that started it hold the searched word in their own command lines."""
    start(world, os.getpid(), "memwarden", "memwarden watch --name worker", ppid=30)
    start(world, 30, "sh", "sh -c memwarden watch --name worker", ppid=1)
    start(world, 31, "worker", "worker")
    assert ProcessesByName("worker", world.proc).find() == {31}


@of_linux
def test_names_that_cannot_be_listed_are_a_gap(tmp_path: Path) -> None:
    """No process is reported to be absent where no process could be asked."""
    reader = MultiTreeReader(find_pids=ProcessesByName("x", str(tmp_path / "nowhere")).find)
    [gap] = reader.read()["gaps"]
    assert gap.why == "absent"


def test_how_a_process_ended_is_unknown_where_it_was_never_there() -> None:
    """No error, no invented exit code; closing twice is fine."""
    exit_ = ExitStatus(A)
    assert exit_.status() is None
    exit_.close()
    exit_.close()


@of_linux
def test_a_living_process_has_no_exit_status() -> None:
    """Ourselves, for one."""
    exit_ = ExitStatus(os.getpid())
    assert exit_.status() is None
    exit_.close()
