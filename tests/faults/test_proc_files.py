"""Kernel files that are cut, vanish, are refused, hold garbage, or belong to another process by now."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import CgroupMemory, Gap, ProcessKey, ProcessMemory
from memwarden.readers.collect import collect
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.process import ProcessReader, Stat, parse_statm
from memwarden.readers.linux.tree import TreeReader
from memwarden.testing import ProcTree
from support.trees import MIB, container_v1, container_v2, descriptors, ended_files_are_gone, groups_of, nested

STAT = (
    b"4242 (we) b) S 17 4242 4242 0 -1 4194304 100 0 0 0 5 2 0 0 20 0 3 0 987654 12345678 2500"
    b" 18446744073709551615 1 1 0 0 0 0 0 16781312 134217730 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


def right_or_refused(read: Callable[[], Any], whole: Any) -> bool:
    """Return True if it was read; it must then equal the whole file."""
    try:
        assert read() == whole
    except ReadError as error:
        why = error.why
    else:
        return True
    assert why == "malformed"
    return False


# --- cut at every length ------------------------------------------------------------------------------


@pytest.mark.contract("S2-58")
def test_statm_cut_at_every_length() -> None:
    """A part of a number is another number: it is refused, not taken for the size."""
    data = b"765 397 369 5 0 123 0\n"
    whole = parse_statm(data, "statm")
    cuts = range(len(data))
    read = [cut for cut in cuts if right_or_refused(partial(parse_statm, data[:cut], "statm"), whole)]
    assert read == list(range(len(b"765 397 369 5"), len(data)))


@pytest.mark.contract("S2-58")
def test_stat_cut_at_every_length() -> None:
    """Also inside the name, where a parenthesis may sample like the last one."""

    def fields(data: bytes) -> tuple[object, ...]:
        stat = Stat(data, "stat")
        return stat.pid, stat.name, stat.state, stat.ppid, stat.start, stat.rss

    whole = fields(STAT)
    read = [cut for cut in range(len(STAT)) if right_or_refused(partial(fields, STAT[:cut]), whole)]
    assert read == list(range(STAT.index(b" 2500 ") + 7, len(STAT)))


@pytest.mark.contract("S2-58", "W1-10")
def test_meminfo_cut_at_every_length(tree: ProcTree) -> None:
    """All six figures or an error."""
    tree.meminfo(SwapTotal=5 << 20, SwapFree=3 << 20)
    data = (tree.folder / "proc/meminfo").read_bytes()
    whole = MeminfoReader(tree.proc).memory()
    for length in range(len(data)):
        tree.write("proc/meminfo", data[:length])
        right_or_refused(MeminfoReader(tree.proc).memory, whole)


@pytest.mark.contract("S2-58", "W1-10")
def test_status_cut_at_every_length(tree: ProcTree) -> None:
    """Fields that are there are right, missing ones are None."""
    tree.process(5, rss=30 * MIB, shared=10 * MIB, start=77)
    data = (tree.folder / "proc/5/status").read_bytes()
    reader = ProcessReader(5, tree.proc)
    whole = reader.memory()
    for length in range(len(data)):
        tree.write("proc/5/status", data[:length])
        try:
            process = reader.memory()
        except ReadError as error:
            cause: str | None = error.why
        else:
            cause = None
            for now, before in zip(process, whole, strict=True):
                assert now is None or now == before
        assert cause in (None, "malformed")
    reader.close()


@pytest.mark.contract("S2-58", "W1-10")
@pytest.mark.parametrize("build", [container_v1, container_v2])
def test_files_of_a_group_cut_at_every_length(build: Callable[[ProcTree], ProcTree], tree: ProcTree) -> None:
    """A limit is never a part of its digits: the figure, no figure, or a gap."""
    build(tree)
    ((whole,), _) = groups_of(tree).sample()
    reader = groups_of(tree)
    for file in sorted(Path(tree.sys).rglob("memory.*")):
        data = file.read_bytes()
        for length in range(len(data)):
            file.write_bytes(data[:length])
            groups, gaps = reader.sample()
            assert len(groups) + len(gaps) == 1
            for group in groups:
                _same_where_known(group, whole, file.name)
            for gap in gaps:
                assert gap.why == "malformed"
                assert gap.where == str(file)
        file.write_bytes(data)
    reader.close()


def _same_where_known(group: CgroupMemory, whole: CgroupMemory, file: str) -> None:
    for name, now, before in zip(CgroupMemory._fields, group, whole, strict=True):
        if name == "reclaimable" and file == "memory.stat":
            assert 0 <= now <= before  # what cannot be seen is not counted as free
        elif file == "memory.stat" and name in ("limit", "swap_limit"):
            assert now is None or now >= 0
        else:
            assert now is None or now == before, (name, file)


def test_children_cut_at_every_length(tree: ProcTree) -> None:
    """A cut pid names no process, or another one that is identified by name and start; none is invented."""
    tree.process(10, children=[1100, 1200])
    tree.process(1100, ppid=10)
    tree.process(1200, ppid=10)
    data = (tree.folder / "proc/10/task/10/children").read_bytes()
    for length in range(len(data)):
        tree.write("proc/10/task/10/children", data[:length])
        reader = TreeReader(10, tree.proc)
        memory, gaps = reader.sample()
        reader.close()
        assert {key.pid for key in memory.keys} <= {10, 1100, 1200}
        assert gaps == ()


# --- vanishing between listing and reading ------------------------------------------------------------


def test_a_child_that_ends_before_it_is_read_is_left_out(tree: ProcTree) -> None:
    """It stood in its parent's list; that is no gap, because it happens all the time."""
    tree.process(10, children=[11, 12])
    tree.process(12, ppid=10)
    memory, gaps = TreeReader(10, tree.proc, keep=0).sample()
    assert ([key.pid for key in memory.keys], gaps) == ([10, 12], ())


@pytest.mark.parametrize("keep", [0, 8])
def test_a_member_that_vanishes_in_mid_walk(tree: ProcTree, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed, and gone before it is measured: the others are measured."""
    tree.process(10, children=[11, 12], rss=MIB)
    tree.process(11, ppid=10, rss=2 * MIB)
    tree.process(12, ppid=10, rss=4 * MIB)
    ended_files_are_gone(monkeypatch)
    reader = TreeReader(10, tree.proc, keep=keep)
    walk = reader._walk

    def walk_and_lose(gaps: list[Gap]) -> Any:
        members = walk(gaps)
        shutil.rmtree(f"{tree.proc}/11", ignore_errors=True)
        return members

    monkeypatch.setattr(reader, "_walk", walk_and_lose)
    for _ in range(2):
        memory, gaps = reader.sample()
        assert (memory.total, [key.pid for key in memory.keys], gaps) == (5 * MIB, [10, 12], ())
    reader.close()


def test_a_thread_that_ends_between_listing_and_reading(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children have moved to another thread, and are found there at the next sample."""
    tree.process(10, threads={10: [11], 20: [12]})
    tree.process(11, ppid=10)
    tree.process(12, ppid=10)
    listed = os.listdir

    def lose(path: str) -> list[str]:
        names = listed(path)
        if path.endswith("/10/task"):
            shutil.rmtree(f"{path}/20", ignore_errors=True)
        return names

    monkeypatch.setattr(os, "listdir", lose)
    reader = TreeReader(10, tree.proc, keep=0)
    memory, gaps = reader.sample()
    assert ([key.pid for key in memory.keys], gaps) == ([10, 11], ())
    monkeypatch.undo()
    tree.process(10, children=[11, 12])
    assert sorted(key.pid for key in reader.sample()[0].keys) == [10, 11, 12]


def test_every_member_vanishes_in_mid_walk(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the tree is gone, and no descriptor is left."""
    tree.process(10, children=[11])
    tree.process(11, ppid=10)
    before = descriptors()
    ended_files_are_gone(monkeypatch)
    reader = TreeReader(10, tree.proc)
    walk = reader._walk

    def walk_and_lose(gaps: list[Gap]) -> Any:
        members = walk(gaps)
        for pid in (10, 11):
            shutil.rmtree(f"{tree.proc}/{pid}", ignore_errors=True)
        return members

    monkeypatch.setattr(reader, "_walk", walk_and_lose)
    with pytest.raises(ReadError) as caught:
        reader.sample()
    assert caught.value.why == "gone"
    reader.close()
    assert descriptors() == before


def test_proc_vanishes_as_a_whole(tree: ProcTree) -> None:
    """Unmounted under us: absent, not an OSError that escapes."""
    tree.process(10)
    shutil.rmtree(tree.proc)
    facts = collect([TreeReader(10, tree.proc), ProcessReader(10, tree.proc), MeminfoReader(tree.proc)])
    assert set(facts) == {"gaps"}
    assert {gap.why for gap in facts["gaps"]} <= {"absent", "gone"}


# --- refused ------------------------------------------------------------------------------------------


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make opening fail with EACCES for paths that end so: permissions do not stop root, which may run the tests."""
    real, ends = os.open, []

    def opening(path: Any, *rest: Any, **more: Any) -> int:
        if any(str(path).endswith(end) for end in ends):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", opening)
    return ends.append


@pytest.mark.contract("S2-58", "W1-10")
@pytest.mark.parametrize(
    ("end", "what"),
    [("/10/stat", "stat"), ("/11/stat", "stat"), ("/11/statm", "statm"), ("/11/task/11/children", "children")],
)
def test_a_member_that_may_not_be_read(tree: ProcTree, refuse: Callable[[str], None], end: str, what: str) -> None:
    """Another user's process in the tree is a gap with its place; the rest is measured."""
    tree.process(10, children=[11, 12], rss=MIB)
    tree.process(11, ppid=10, rss=2 * MIB)
    tree.process(12, ppid=10, rss=4 * MIB)
    refuse(end)
    reader = TreeReader(10, tree.proc, keep=8)
    facts = collect([reader])
    reader.close()
    assert [(gap.what, gap.why) for gap in facts["gaps"]] == [(what, "denied")]
    assert facts["gaps"][0].where.endswith(end)
    if end == "/10/stat":
        assert "tree" not in facts  # not "gone": it may well live
    else:
        assert {10, 12} <= {key.pid for key in facts["tree"].keys}


@pytest.mark.contract("S2-58")
def test_a_group_that_may_not_be_read(tree: ProcTree, refuse: Callable[[str], None]) -> None:
    """One ancestor is a gap, the other limits still count."""
    nested(tree)
    refuse("/kubepods/pod1/memory.current")
    found, gaps = groups_of(tree).sample()
    assert [group.path for group in found] == ["/kubepods/pod1/app", "/kubepods"]
    assert [(gap.what, gap.why) for gap in gaps] == [("memory.current", "denied")]


@pytest.mark.contract("S2-58")
@pytest.mark.parametrize("end", ["/self/cgroup", "/self/mountinfo"])
def test_the_own_group_may_not_be_looked_for(tree: ProcTree, refuse: Callable[[str], None], end: str) -> None:
    """Denied, so that no process takes it for a machine without groups."""
    refuse(end)
    facts = collect([groups_of(nested(tree))])
    assert [(gap.why, gap.where.endswith(end)) for gap in facts["gaps"]] == [("denied", True)]


@pytest.mark.contract("S2-58")
def test_no_descriptors_left(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE is a gap; when there are descriptors again everything is read."""
    tree.process(10)

    def none_left(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    readers = [MeminfoReader(tree.proc), ProcessReader(10, tree.proc), TreeReader(10, tree.proc)]
    monkeypatch.setattr(os, "open", none_left)
    gaps = collect(readers)["gaps"]
    assert [(gap.why, gap.detail) for gap in gaps] == [("broken", "Too many open files")] * 3
    monkeypatch.undo()
    assert set(collect(readers)) == {"system", "process", "tree", "gaps"}
    for reader in readers:
        reader.close()


# --- garbage ------------------------------------------------------------------------------------------

GARBAGE = {
    "empty": b"",
    "words": b"nothing of the kind\n",
    "zeros": b"\0" * 200,
    "bytes": bytes(range(256)),
    "long numbers": b"9" * 5000 + b"\n",
    "a page of spaces": b" " * 5000,
}


@pytest.mark.contract("S2-58", "W1-10")
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("file", ["meminfo", "10/stat", "10/status", "self/cgroup"])
def test_garbage_is_a_gap(tree: ProcTree, garbage: bytes, file: str) -> None:
    """Each damaged file costs its own fact and nothing else."""
    nested(tree)
    tree.process(10)
    tree.write(f"proc/{file}", garbage)
    facts = collect([MeminfoReader(tree.proc), ProcessReader(10, tree.proc), groups_of(tree)])
    field = {"meminfo": "system", "10/stat": "process", "10/status": "process", "self/cgroup": "cgroups"}[file]
    assert field not in facts
    assert {"system", "process", "cgroups"} - {field} <= set(facts)
    (gap,) = facts["gaps"]
    assert gap.why in ("malformed", "absent")
    assert f"/proc/{file}" in gap.where


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("keep", [0, 8])
def test_a_member_with_garbage_is_a_gap(tree: ProcTree, garbage: bytes, keep: int) -> None:
    """The rest of the tree is measured."""
    tree.process(10, children=[11], rss=MIB)
    tree.process(11, ppid=10)
    tree.write("proc/11/statm", garbage)
    memory, gaps = TreeReader(10, tree.proc, keep=keep).sample()
    assert [key.pid for key in memory.keys] == [10]
    assert [(gap.what, gap.why) for gap in gaps] == [("statm", "malformed")]


# --- another process under the same pid ---------------------------------------------------------------


def test_a_process_reader_never_shows_a_later_process(tree: ProcTree) -> None:
    """After its descriptors were given back, too: the start time shows."""
    tree.process(5, start=100, name="mine")
    reader = ProcessReader(5, tree.proc)
    assert reader.memory().key == ProcessKey(5, 100)
    reader.close()
    tree.process(5, start=900, name="later")
    for _ in range(2):
        with pytest.raises(ReadError) as caught:
            reader.read()
        assert caught.value.why == "gone"


def test_a_later_process_that_shows_through_an_open_file_is_noticed_by_its_name(tree: ProcTree) -> None:
    """The kernel would answer ESRCH; should anything else answer, the changed name leads to the start time."""
    tree.process(5, start=100, name="mine")
    reader = ProcessReader(5, tree.proc)
    reader.memory()
    tree.process(5, start=900, name="later")
    with pytest.raises(ReadError) as caught:
        reader.read()
    assert caught.value.why == "gone"
    reader.close()


@pytest.mark.parametrize("keep", [0, 8])
def test_a_tree_drops_a_childs_pid_that_was_reused(tree: ProcTree, keep: int) -> None:
    """Its parent forked again and got the same pid: a new member, with its own start and name."""
    tree.process(10, children=[11], start=1)
    tree.process(11, ppid=10, start=2, name="first")
    reader = TreeReader(10, tree.proc, keep=keep)
    reader.sample()
    tree.process(11, ppid=10, start=500, name="second")
    seen = [dict(zip(memory.keys, memory.names, strict=True)) for memory in (reader.sample()[0] for _ in range(3))]
    assert seen[-1] == {ProcessKey(10, 1): "worker", ProcessKey(11, 500): "second"}
    assert all(ProcessKey(11, 2) not in each or each[ProcessKey(11, 2)] == "first" for each in seen)
    reader.close()


def test_a_process_that_ended_gives_its_own_error(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESRCH on a kept descriptor, as the kernel answers for a process that was reaped."""
    tree.process(5)
    reader = ProcessReader(5, tree.proc)
    reader.memory()

    def gone(*_: object) -> bytes:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "pread", gone)
    with pytest.raises(ReadError) as caught:
        reader.read()
    assert (caught.value.why, caught.value.detail) == ("gone", "No such process")


def test_a_walk_that_loses_its_root_to_the_kernel_answer(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept descriptors show ESRCH while a stranger already has the pid: nothing of the stranger comes in."""
    tree.process(10, start=1)
    reader = TreeReader(10, tree.proc)
    reader.sample()
    kept = reader._members[10].fd
    assert kept >= 0
    tree.process(10, start=900, children=[50])
    tree.process(50, ppid=10)
    inode = os.stat(f"{tree.proc}/10/statm").st_ino
    pread = os.pread

    def answer(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == inode and fd == kept:
            raise ProcessLookupError(3, "No such process")
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", answer)
    assert reader.members() == []
    with pytest.raises(ReadError) as caught:
        reader.sample()
    assert caught.value.why == "gone"
    reader.close()


def test_the_facts_of_a_broken_sample_are_not_kept(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample with an error of our own making is one gap; the next sample has the facts again."""
    tree.process(10)
    reader = TreeReader(10, tree.proc)
    monkeypatch.setattr(reader, "_update", lambda *_: 1 / 0)
    assert [gap.why for gap in collect([reader])["gaps"]] == ["broken"]
    monkeypatch.undo()
    facts = collect([reader])
    assert facts["gaps"] == ()
    assert facts["tree"].keys == (ProcessKey(10, 100),)
    reader.close()


def test_a_zombie_is_reported_from_a_living_process_that_holds_nothing(tree: ProcTree) -> None:
    """State Z, not a size of zero, makes a zombie of a process."""
    tree.process(5, rss=0)
    assert ProcessReader(5, tree.proc).memory() == ProcessMemory(ProcessKey(5, 100), "worker", 0, 0, 0, 0, 0, 0)
    tree.process(5, state="Z")
    with pytest.raises(ReadError, match="reaped"):
        ProcessReader(5, tree.proc).memory()
