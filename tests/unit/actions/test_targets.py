"""The registry of targets and their trees, on fake processes."""

from __future__ import annotations

import pytest

from memwarden.actions.targets import Targets
from memwarden.errors import ActionFailed, ReadError, TargetChanged
from memwarden.model.decisions import Decision
from memwarden.model.facts import ProcessKey

DECISION = Decision(rule="r", action="terminate", reason="CRITICAL", wall=0.0, monotonic=0.0)


class World:
    """A probe of given processes: parents by pid, leaders of sessions, and the own pid."""

    def __init__(self, parents: dict[int, int], sessions: dict[int, list[int]] | None = None, own: int = 1) -> None:
        self.parents, self.sessions, self.me = parents, sessions or {}, own

    def key_of(self, pid: int) -> ProcessKey:
        """Every process was started at its pid."""
        if pid not in self.parents:
            raise ReadError("process", f"/proc/{pid}", "gone")
        return ProcessKey(pid, pid)

    def own(self) -> ProcessKey:
        """This process."""
        return self.key_of(self.me)

    def alive(self, key: ProcessKey) -> bool:
        """Return whether it is one of them."""
        return key.pid in self.parents

    def stopped(self, key: ProcessKey) -> bool:
        """None is."""
        return False

    def children(self, key: ProcessKey) -> list[ProcessKey]:
        """By their parents."""
        return [ProcessKey(pid, pid) for pid, parent in self.parents.items() if parent == key.pid]

    def session(self, key: ProcessKey) -> list[ProcessKey]:
        """As given."""
        return [ProcessKey(pid, pid) for pid in self.sessions.get(key.pid, []) if pid in self.parents]


def pids(targets: Targets, pid: int) -> list[int]:
    """The family of a target."""
    (target,) = [each for each in targets.living() if each.key.pid == pid]
    return [key.pid for key in targets.tree(target).members]


def test_the_newest_first_and_never_the_essential() -> None:
    """Those that are gone are forgotten; a decision may name the one that it means."""
    world = World({1: 0, 10: 1, 11: 1, 12: 1, 13: 1})
    targets = Targets(world)
    for pid in (10, 11, 12, 13):
        targets.track_process(pid, f"p{pid}", essential=pid == 11)
    assert [each.key.pid for each in targets.expendable(DECISION)] == [13, 12, 10]
    del world.parents[13]
    assert [each.key.pid for each in targets.expendable(DECISION)] == [12, 10]
    assert targets.expendable(DECISION._replace(target=ProcessKey(11, 11))) == []
    assert [each.key.pid for each in targets.expendable(DECISION._replace(target=ProcessKey(10, 10)))] == [10]
    assert targets.expendable(DECISION._replace(target=ProcessKey(10, 99))) == []


def test_a_family_is_everybody_below() -> None:
    """Parents before children; and orphans in a session that a member leads."""
    targets = Targets(World({1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 30: 1, 31: 30}, {10: [11, 30]}))
    targets.track_process(10, "t", essential=False)
    assert pids(targets, 10) == [10, 11, 30, 12, 31]


@pytest.mark.contract("V-12")
def test_what_is_essential_inside_of_a_target_is_spared() -> None:
    """With all that it started; and what lost its parent in a session that it shares may be of it."""
    world = World({1: 0, 10: 1, 11: 10, 12: 11, 13: 10, 40: 1}, {10: [11, 12, 13, 40]})
    targets = Targets(world)
    targets.track_process(10, "t", essential=False)
    targets.track_process(11, "database")
    assert pids(targets, 10) == [10, 13]


@pytest.mark.parametrize("pid", [11, 10, 1], ids=["itself", "its parent", "its grandparent"])
def test_the_own_process_cannot_be_a_target(pid: int) -> None:
    """Neither this process nor one that it descends from can be non-essential, however this process is registered."""
    targets = Targets(World({1: 0, 10: 1, 11: 10, 12: 11}, own=11))
    targets.track_process(11, "me")
    with pytest.raises(ActionFailed, match="this process"):
        targets.track_process(pid, "me", essential=False)
    targets.track_process(12, "child", essential=False)
    assert pids(targets, 12) == [12]


def test_the_tree_of_a_target_that_is_gone() -> None:
    """The typed error has its name."""
    world = World({1: 0, 10: 1})
    targets = Targets(world)
    target = targets.track_process(10, "t", essential=False)
    del world.parents[10]
    with pytest.raises(TargetChanged, match=r"t \(pid 10\)"):
        targets.tree(target)
