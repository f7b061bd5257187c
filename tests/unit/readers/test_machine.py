"""The largest processes of a machine, from files that a test owns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, TopProcesses
from memwarden.readers.linux.machine import MachineReader
from memwarden.testing import ProcTree
from support.trees import HOSTILE_NAMES, MIB, CountedTree, descriptors, ended_files_are_gone


@pytest.fixture(params=[ProcTree, CountedTree], ids=["no counter", "counter"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> ProcTree:
    """Ten processes, 1 to 10 MiB, and ten kernel threads."""
    made: ProcTree = request.param(tmp_path)
    for pid in range(1, 11):
        made.process(pid, name=f"p{pid}", rss=pid * MIB, shared=MIB // 2, start=pid)
    for pid in range(20, 30):
        kernel_thread(made, pid)
    return made


@pytest.fixture(params=[64, 3, 0], ids=["kept open", "some kept open", "opened each time"])
def keep(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def reader(world: ProcTree, keep: int) -> Any:
    made = MachineReader(3, world.proc, keep=keep)
    yield made
    made.close()


def kernel_thread(world: ProcTree, pid: int, start: int = 5) -> None:
    world.process(pid, ppid=2, name=f"kworker/{pid}", rss=0, start=start)
    world.write(f"proc/{pid}/statm", "0 0 0 0 0 0 0\n")


def read_once(reader: MachineReader) -> TopProcesses:
    top, gaps = reader.sample()
    assert gaps == ()
    return top


def pids(reader: MachineReader) -> list[int]:
    return [key.pid for key in read_once(reader).keys]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes opening fail with EACCES for paths that end so."""
    real, ends = os.open, []

    def opening(path: Any, *rest: Any, **more: Any) -> int:
        if any(str(path).endswith(end) for end in ends):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", opening)
    return ends.append


@pytest.mark.contract("S2-18")
def test_the_largest_come_first(reader: MachineReader) -> None:
    """With identity, name, resident and shared size; and how many processes there are in all."""
    for _ in range(3):
        assert read_once(reader) == TopProcesses(
            20,
            (ProcessKey(10, 10), ProcessKey(9, 9), ProcessKey(8, 8)),
            ("p10", "p9", "p8"),
            (10 * MIB, 9 * MIB, 8 * MIB),
            (MIB // 2,) * 3,
        )
    assert set(reader.read()) == {"top", "gaps"}


def test_sizes_are_of_this_sample(world: ProcTree, reader: MachineReader) -> None:
    """One grows, one shrinks, one comes, one ends."""
    assert pids(reader) == [10, 9, 8]
    world.process(1, name="p1", rss=50 * MIB, start=1)
    assert pids(reader) == [1, 10, 9]
    world.process(10, name="p10", rss=MIB, start=10)
    assert pids(reader) == [1, 9, 8]
    world.process(40, name="new", rss=20 * MIB, start=40)
    assert pids(reader) == [1, 40, 9]
    world.end(1)
    assert (pids(reader), read_once(reader).processes) == ([40, 9, 8], 20)


def test_fewer_than_asked_for(world: ProcTree) -> None:
    """All that there are."""
    reader = MachineReader(50, world.proc)
    assert pids(reader) == list(range(10, 0, -1))
    reader.close()


def test_a_process_that_ends_while_it_is_read(world: ProcTree, reader: MachineReader, monkeypatch: Any) -> None:
    """Between the list and the read: the kernel answers ESRCH, and the next largest takes its place."""
    ended_files_are_gone(monkeypatch)
    assert pids(reader) == [10, 9, 8]
    listdir = os.listdir

    def list_and_end(path: str) -> list[str]:
        names = listdir(path)
        if path == world.proc and "10" in names:
            world.end(10)
        return names

    monkeypatch.setattr(os, "listdir", list_and_end)
    assert pids(reader) == [9, 8, 7]
    assert (pids(reader), read_once(reader).processes) == ([9, 8, 7], 19)


def test_a_number_that_is_given_out_again(world: ProcTree, reader: MachineReader, monkeypatch: Any) -> None:
    """To a larger process, and the next time to a smaller one: never the old name with the new size."""
    ended_files_are_gone(monkeypatch)
    assert pids(reader) == [10, 9, 8]
    world.end(10)
    world.process(10, name="larger", rss=90 * MIB, start=900)
    top = read_once(reader)
    assert (top.keys[0], top.names[0], top.rss[0]) == (ProcessKey(10, 900), "larger", 90 * MIB)
    world.end(10)
    world.process(10, name="smaller", rss=8 * MIB + 4096, start=901)
    top = read_once(reader)
    assert (top.keys[1], top.names[1], top.rss[1]) == (ProcessKey(10, 901), "smaller", 8 * MIB + 4096)


def test_kernel_threads_are_read_every_64_samples(world: ProcTree, reader: MachineReader, monkeypatch: Any) -> None:
    """They never have memory, so that 63 samples of 64 read none of them."""
    read_once(reader)
    opened: list[str] = []
    real = os.open

    def opening(path: Any, *rest: Any, **more: Any) -> int:
        opened.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", opening)
    for _ in range(63):
        read_once(reader)
    assert [path for path in opened if int(path.split("/")[-2]) >= 20] == []
    read_once(reader)
    assert {path.split("/")[-2] for path in opened if int(path.split("/")[-2]) >= 20} == {
        str(pid) for pid in range(20, 30)
    }


def test_a_kernel_threads_number_that_is_given_out_again(world: ProcTree, reader: MachineReader) -> None:
    """A process under it is found within 64 samples."""
    read_once(reader)
    world.process(25, name="large", rss=70 * MIB, start=900)
    for _ in range(64):
        top = read_once(reader)
    assert top.keys[0] == ProcessKey(25, 900)


def test_a_zombie_takes_no_part(world: ProcTree, reader: MachineReader) -> None:
    """It holds nothing from the moment it ended."""
    assert pids(reader) == [10, 9, 8]
    world.process(10, name="p10", start=10, state="Z")
    for _ in range(3):
        assert (pids(reader), read_once(reader).processes) == ([9, 8, 7], 20)


@pytest.mark.contract("W2-4")
def test_a_process_that_may_not_be_read_is_one_gap_and_takes_no_part(
    world: ProcTree, reader: MachineReader, refuse: Callable[[str], None]
) -> None:
    """Another user's processes behind hidepid: no size of theirs is sorted, and one gap shows how many they are."""
    for pid in (8, 9, 10):
        refuse(f"/{pid}/statm")
    for _ in range(3):
        top, gaps = reader.sample()
        assert [key.pid for key in top.keys] == [7, 6, 5]
        assert top.rss == (7 * MIB, 6 * MIB, 5 * MIB)
        (gap,) = gaps
        assert (gap.what, gap.why) == ("statm", "denied")
        assert gap.where.split("/")[-2] in ("8", "9", "10")
        assert gap.detail.endswith("; 2 more processes")


@pytest.mark.contract("W2-4")
@pytest.mark.parametrize("why", ["denied", "malformed"])
def test_whose_identity_cannot_be_read(
    world: ProcTree, reader: MachineReader, refuse: Callable[[str], None], why: str
) -> None:
    """Its size alone names no process: a gap, and the next largest takes its place."""
    if why == "denied":
        refuse("/10/stat")
    else:
        world.write("proc/10/stat", "10 (broken")
    top, gaps = reader.sample()
    assert [key.pid for key in top.keys] == [9, 8, 7]
    assert [(gap.what, gap.why) for gap in gaps] == [("stat", why)]


@pytest.mark.contract("W2-4")
def test_garbage_is_a_gap(world: ProcTree, reader: MachineReader) -> None:
    """Also when it comes later; and when it is right again the process is back."""
    world.write("proc/10/statm", "garbage")
    for _ in range(2):
        top, gaps = reader.sample()
        assert [key.pid for key in top.keys] == [9, 8, 7]
        assert [(gap.what, gap.why) for gap in gaps] == [("statm", "malformed")]
    world.process(10, name="p10", rss=10 * MIB, start=10)
    for _ in range(64):
        top, gaps = reader.sample()
    assert ([key.pid for key in top.keys], gaps) == ([10, 9, 8], ())
    world.write("proc/9/statm", b"\xff" * 40)
    top, gaps = reader.sample()
    assert [key.pid for key in top.keys] == [10, 8, 7]
    assert [(gap.what, gap.why) for gap in gaps] == [("statm", "malformed")]


def test_no_process_may_be_read(world: ProcTree, reader: MachineReader, refuse: Callable[[str], None]) -> None:
    """No list at all, and why."""
    refuse("/statm")
    with pytest.raises(ReadError) as caught:
        reader.sample()
    assert caught.value.why == "denied"


def test_names_follow_exec(world: ProcTree, reader: MachineReader) -> None:
    """Soon after a process is shown first, and when its size changes much."""
    assert read_once(reader).names[0] == "p10"
    world.process(10, name="ffmpeg", rss=10 * MIB, start=10)
    assert read_once(reader).names[0] == "ffmpeg"
    for _ in range(40):
        read_once(reader)
    world.process(10, name="gzip", rss=30 * MIB, start=10)
    assert read_once(reader).names[0] == "gzip"
    world.process(10, name="late", rss=30 * MIB, start=10)
    assert "late" in {read_once(reader).names[0] for _ in range(64)}


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_a_hostile_name_misleads_no_parser(world: ProcTree, name: bytes) -> None:
    """The size and the start are those of the process."""
    world.process(10, name=name, rss=10 * MIB, start=10)
    top = read_once(MachineReader(1, world.proc, keep=0))
    assert (top.keys, top.rss) == ((ProcessKey(10, 10),), (10 * MIB,))


def test_descriptors_are_bounded_and_given_back(world: ProcTree) -> None:
    """One each for as many as may be kept, and one at a time for the others."""
    before = descriptors()
    reader = MachineReader(3, world.proc, keep=4)
    for _ in range(70):
        read_once(reader)
        assert descriptors() <= before + 4 + 1
    reader.close()
    assert descriptors() == before
    assert pids(reader) == [10, 9, 8]
    reader.close()
    assert descriptors() == before


def test_processes_come_and_go_without_leaking_descriptors(world: ProcTree, monkeypatch: Any) -> None:
    """Short commands, larger than everything else."""
    ended_files_are_gone(monkeypatch)
    before = descriptors()
    reader = MachineReader(3, world.proc)
    for pid in range(100, 200):
        world.process(pid, rss=50 * MIB, start=pid)
        assert pids(reader)[0] == pid
        world.end(pid)
    read_once(reader)
    assert descriptors() <= before + 10 + 1
    assert len(reader._files) == 10
    assert len(reader._empty) == 10
    reader.close()
    assert descriptors() == before


def test_a_quiet_sample_opens_the_largest_only(world: ProcTree, monkeypatch: Any) -> None:
    """One list, one read for each process with memory, and the identity of those that are shown."""
    reader = MachineReader(3, world.proc)
    for _ in range(40):
        read_once(reader)
    opened: list[str] = []
    real = os.open

    def opening(path: Any, *rest: Any, **more: Any) -> int:
        opened.append("/".join(str(path).split("/")[-2:]))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", opening)
    read_once(reader)
    assert sorted(opened) == ["10/stat", "8/stat", "9/stat"]
    reader.close()
