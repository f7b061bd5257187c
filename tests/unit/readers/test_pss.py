"""PSS and USS: the right figures, of the right process, within the budget."""

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, ShareMemory
from memwarden.readers.collect import collect
from memwarden.readers.linux.pss import PssReader
from memwarden.readers.linux.tree import TreeReader
from memwarden.testing import ProcTree
from support.trees import MIB, descriptors


def rollup(pss: int, clean: int = 0, dirty: int = 0, *more: str) -> str:
    """A process's ``smaps_rollup`` (Linux 6.18); sizes in bytes."""
    return (
        "55f5d9b19000-7ffd63a19000 ---p 00000000 00:00 0                          [rollup]\n"
        f"Rss:           {2 * pss // 1024:8} kB\nPss:           {pss // 1024:8} kB\nPss_Dirty:            112 kB\n"
        f"Shared_Clean:        1456 kB\nPrivate_Clean: {clean // 1024:8} kB\nPrivate_Dirty: {dirty // 1024:8} kB\n"
        + "".join(f"{line}\n" for line in more)
        + "Locked:                0 kB\n"
    )


class World:
    """Processes whose walks cost what their size shows, and the two clocks."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcTree(folder)
        self.now, self.cpu, self.walks = 1000.0, 5.0, list[tuple[float, int, float]]()
        self.price = 20e-12

    def process(self, pid: int, rss: int = 10 * MIB, *, start: int = 100, pss: int | None = None) -> None:
        self.tree.process(pid, rss=rss, start=start)
        pss = rss // 2 if pss is None else pss
        self.tree.write(f"proc/{pid}/smaps_rollup", rollup(pss, 0, pss // 2))

    def reader(self, keys: Any, **options: Any) -> PssReader:
        clocks: dict[str, Callable[[], float]] = {"monotonic": lambda: self.now, "cpu": lambda: self.cpu}
        reader = PssReader(keys, proc=self.tree.proc, **clocks, **options)
        genuine = reader._rollup

        def walk(key: ProcessKey, path: str) -> bytes:
            rss = reader._members[key].rss
            cost = 50e-6 + rss * self.price
            self.cpu += cost
            self.walks.append((self.now, key.pid, cost))
            return genuine(key, path)

        reader._rollup = walk  # type: ignore[method-assign]
        return reader


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shares(reader: PssReader) -> ShareMemory:
    read = reader.read()
    assert read["gaps"] == ()
    found: ShareMemory = read["shares"]
    return found


def test_shared_pages_are_divided_and_own_pages_are_reported(world: World) -> None:
    """PSS is its line, USS is what is private, huge pages included; kB means 1024 bytes."""
    world.tree.process(10, start=7)
    lines = ["Shared_Hugetlb:     9 kB", "Private_Hugetlb:  2048 kB"]
    world.tree.write("proc/10/smaps_rollup", rollup(300 * 1024, 40 * 1024, 112 * 1024, *lines))
    assert shares(world.reader(10)) == ShareMemory((ProcessKey(10, 7),), (300 * 1024,), (2200 * 1024,), (0.0,))


def test_figures_have_ages(world: World) -> None:
    """What was not read on this sample shows how old it is."""
    world.process(10, 1000 * MIB)
    reader = world.reader(10)
    shares(reader)
    world.now += 1.5
    assert shares(reader).ages == (1.5,)
    world.now += 1.0
    assert shares(reader).ages == (0.0,)
    assert [when for when, _, _ in world.walks] == [1000.0, 1002.5]


def test_the_largest_is_first_and_then_the_oldest(world: World) -> None:
    """One expensive read a sample; the small one has its turn after the large ones, and all come round."""
    for pid, size in ((10, 200), (11, 900), (12, 300)):
        world.process(pid, size * MIB)
    reader = world.reader([10, 11, 12])
    for _ in range(60):
        shares(reader)
        world.now += 1.0
    order = [pid for _, pid, _ in world.walks]
    assert order[:9] == [11, 12, 10] * 3
    assert len({when for when, _, _ in world.walks}) == len(world.walks)


def test_small_processes_share_a_sample(world: World) -> None:
    """Forty workers of 1 MB are all read in two samples, and a sample never takes more than 2 ms for it."""
    for pid in range(10, 50):
        world.process(pid, MIB)
    reader = world.reader(list(range(10, 50)))
    for _ in range(2):
        found = shares(reader)
        world.now += 1.0
    assert len(found.keys) == 40
    for moment in (1000.0, 1001.0):
        assert sum(cost for when, _, cost in world.walks if when == moment) <= 0.0021


def test_newcomers_do_not_starve_the_rest(world: World) -> None:
    """Where new processes never stop coming, the old figures are renewed all the same."""
    world.process(10, 100 * MIB)
    pids = [10]
    reader = world.reader(lambda: list(pids))
    for number in range(400):
        world.process(1000 + number, 100 * MIB)
        pids = [10, *range(1000, 1001 + number)]
        reader.read()
        world.now += 1.0
    assert len([pid for _, pid, _ in world.walks if pid == 10]) >= 3


@pytest.mark.parametrize(("interval", "budget"), [(0.01, 0.01), (0.1, 0.01), (1.0, 0.01), (1.0, 0.001)])
def test_the_budget_is_kept_whatever_there_is_to_read(world: World, interval: float, budget: float) -> None:
    """A hundred processes of 1 MB to 3 GB, coming and going: at no moment more than the share and one read."""
    chance = random.Random(7)
    sizes = [int(2 ** chance.uniform(0, 11.5)) * MIB for _ in range(100)]
    for pid, size in enumerate(sizes, 100):
        world.process(pid, size)
    reader = world.reader(lambda: range(100, 100 + chance.randrange(50, 101)), budget=budget)
    started, before, dearest = world.now, world.cpu, 0.0
    for _ in range(2000):
        spent = world.cpu
        reader.read()
        dearest = max(dearest, world.cpu - spent)
        assert world.cpu - before - dearest <= budget * (world.now - started)
        world.now += interval * chance.uniform(0.5, 1.5)
    costs: dict[float, list[float]] = {}
    for when, _, cost in world.walks:
        costs.setdefault(when, []).append(cost)
    assert len(costs) >= 3
    moments = sorted(costs)
    for this, following in itertools.pairwise(moments):
        assert following - this >= sum(costs[this]) / budget
        assert len(costs[this]) == 1 or sum(costs[this]) <= 0.0041


def test_listing_processes_is_on_the_budget_too(world: World) -> None:
    """A dear function is called as rarely as its cost demands: a tenth of the budget is for it."""
    world.process(10)
    calls = []

    def keys() -> list[int]:
        world.cpu += 0.005
        calls.append(world.now)
        return [10]

    reader = world.reader(keys)
    for _ in range(200):
        shares(reader)
        world.now += 0.1
    assert len(calls) == pytest.approx(20 * 0.001 / 0.005, abs=1)


def test_a_walk_that_would_hold_up_the_sample_is_left_out_and_reported(world: World) -> None:
    """By its size; the others are read, and the gap names the way out."""
    world.process(10, 9000 * MIB)
    world.process(11, 8 * MIB)
    facts = collect([world.reader([10, 11], longest=0.1)])
    assert [key.pid for key in facts["shares"].keys] == [11]
    [gap] = facts["gaps"]
    assert (gap.what, gap.why) == ("shares", "slow")
    assert "pid 10" in gap.detail
    assert "longest" in gap.detail


def test_the_prediction_is_what_it_cost_before(world: World) -> None:
    """In 2 MB pages a walk is cheap: once seen, the size no longer frightens; grown tenfold, it may again."""
    world.price = 1e-12
    world.process(10, 4000 * MIB)
    reader = world.reader(10, longest=0.1, budget=1.0)
    shares(reader)
    world.process(10, 19_000 * MIB)
    world.now += 10
    assert len(world.walks) == 1
    assert shares(reader).pss == (9500 * MIB,)
    world.process(10, 200_000 * MIB)
    world.now += 10
    read = reader.read()
    assert read["shares"].ages == (10.0,)
    assert [gap.why for gap in read["gaps"]] == ["slow"]


def test_a_later_process_with_the_same_pid_is_another_one(world: World) -> None:
    """Its figures stand under its own identity, and those of the one before it are gone."""
    world.process(10, 10 * MIB, start=1)
    reader = world.reader([10])
    shares(reader)
    world.process(10, 20 * MIB, start=2)
    world.now += 60
    found = shares(reader)
    assert (found.keys, found.pss) == ((ProcessKey(10, 2),), (10 * MIB,))


def test_a_process_that_was_asked_for_by_identity_is_never_mistaken(world: World) -> None:
    """The pid lives, the process that was meant does not: nothing is reported, and no walk is made."""
    world.process(10, start=2)
    with pytest.raises(ReadError) as caught:
        world.reader([ProcessKey(10, 1)]).read()
    assert caught.value.why == "gone"
    assert world.walks == []


def test_a_pid_that_changes_hands_between_the_census_and_the_walk(world: World) -> None:
    """What was opened is identified before it is believed."""
    world.process(10, 100 * MIB, start=1)
    world.process(11, 900 * MIB)
    reader = world.reader([10, 11])
    shares(reader)  # the large one; the other waits its turn
    world.process(10, 500 * MIB, start=2)
    reader._list_due = float("inf")
    world.now += 10
    assert [key.pid for key in shares(reader).keys] == [11]
    assert [pid for _, pid, _ in world.walks] == [11, 10]


def test_ended_processes_are_forgotten(world: World) -> None:
    """A zombie too: it holds nothing."""
    for pid in (10, 11, 12):
        world.process(pid)
    reader = world.reader([10, 11, 12])
    assert len(shares(reader).keys) == 3
    world.tree.end(10)
    world.tree.process(11, state="Z")
    world.now += 60
    assert [key.pid for key in shares(reader).keys] == [12]


@pytest.mark.contract("W1-10", "S2-58")
def test_a_thousand_processes_that_may_not_be_read_are_one_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the first, counts the rest, shows the way out, and does not change from sample to sample."""
    for pid in range(100, 1100):
        world.process(pid, MIB)
    world.process(10, 50 * MIB)
    opened = os.open

    def refuse(path: str, *rest: Any, **more: Any) -> int:
        if path.endswith("smaps_rollup") and "/10/" not in path:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    reader = world.reader([10, *range(100, 1100)])
    seen = set()
    for _ in range(100):
        read = reader.read()
        seen |= {gap[:3] for gap in read["gaps"]}
        world.now += 1.0
    assert [key.pid for key in read["shares"].keys] == [10]
    assert seen == {("shares", f"{world.tree.proc}/PID/smaps_rollup", "denied")}
    assert "pid 100 and 999 more" in read["gaps"][0].detail
    assert "CAP_SYS_PTRACE" in read["gaps"][0].detail


def test_a_kernel_without_the_file_is_reported(world: World) -> None:
    """Absent, with the version that has it; the process itself is there."""
    world.tree.process(10)
    with pytest.raises(ReadError) as caught:
        world.reader(10).read()
    assert caught.value.why == "absent"
    assert "4.14" in caught.value.detail


WHOLE = rollup(MIB, MIB, MIB)


@pytest.mark.contract("W1-10", "S2-58")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(WHOLE.replace("Pss:", "Pxx:"), id="no Pss"),
        pytest.param(WHOLE.replace("Private_Dirty", "Private"), id="no Private_Dirty"),
        pytest.param(WHOLE.replace("1024 kB", "-1024 kB"), id="negative"),
        pytest.param(WHOLE.replace("1024 kB", "1024 MB"), id="another unit"),
        pytest.param(WHOLE.replace("1024 kB", "much kB"), id="no number"),
        pytest.param("\0" * 200, id="zeros"),
        *(pytest.param(WHOLE[:cut], id=f"cut at {cut}") for cut in range(10, len(WHOLE) - 1, 23)),
    ],
)
def test_what_is_no_such_file_is_malformed_and_no_figure(world: World, text: str) -> None:
    """Cut anywhere in its figures, or something else."""
    world.tree.process(10)
    world.tree.write("proc/10/smaps_rollup", text)
    before = descriptors()
    with pytest.raises(ReadError) as caught:
        world.reader(10).read()
    assert caught.value.why == "malformed"
    assert descriptors() == before


def test_a_tree_reader_shows_which_to_read(world: World) -> None:
    """Its members as a function, and its TreeMemory, whose sizes are taken over; None while it knows no process."""
    world.tree.process(10, children=[11])
    world.tree.process(11, ppid=10, rss=30 * MIB)
    for pid in (10, 11):
        world.tree.write(f"proc/{pid}/smaps_rollup", rollup(pid * MIB))
    tree = TreeReader(10, world.tree.proc)
    assert {key.pid for key in shares(world.reader(tree.members)).keys} == {10, 11}
    given = [None, tree.sample()[0]]
    reader = world.reader(lambda: given.pop(0))
    with pytest.raises(ReadError):
        reader.read()
    world.now += 1.0
    assert shares(reader).pss == (11 * MIB, 10 * MIB)
    tree.close()


def test_a_tree_that_is_gone_has_no_shares(world: World) -> None:
    """The function's own error is reported."""
    world.process(10)
    tree = TreeReader(10, world.tree.proc)
    reader = world.reader(lambda: tree.sample()[0])
    shares(reader)
    world.tree.end(10)
    world.now += 60
    with pytest.raises(ReadError) as caught:
        reader.read()
    assert (caught.value.what, caught.value.why) == ("tree", "gone")
    tree.close()
