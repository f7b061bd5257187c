"""Whom a watch follows."""

from __future__ import annotations

from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.faces.cli.live.target import Following, Largest, MachineOnly, WhileAlive
from memwarden.model.facts import ProcessKey, TopProcesses
from memwarden.testing import ScriptedReader, gone

ABSENT = ReadError("psi", "/proc/pressure/memory", "absent", "no such count")


def test_the_next_one_is_followed_when_the_first_has_ended() -> None:
    """The reader of the first is closed; where nobody is left nothing is read."""
    readers = {1: ScriptedReader([1]), 2: ScriptedReader([2])}
    order: list[int | None] = [1, 1, 2, None]
    following = Following("cgroup", readers.__getitem__, lambda: order.pop(0))
    for used in (1, 1, 2):
        system = following.read()["system"]
        assert system.used == used
    assert readers[1].closed
    assert following.read() == {}
    assert readers[2].closed


@pytest.mark.parametrize(
    ("error", "alive", "gap"), [(gone(), True, False), (ABSENT, False, False), (ABSENT, True, True)]
)
def test_what_ended_with_its_process_is_no_gap(error: ReadError, alive: bool, gap: bool) -> None:
    """What this system does not have is one, and is told."""
    following = Following("psi", lambda _: ScriptedReader([error]), lambda: 1, lambda _: alive)
    if gap:
        with pytest.raises(ReadError):
            following.read()
    else:
        assert following.read() == {}


def test_shares_of_nobody_are_no_gap() -> None:
    """But a kernel that has no such file is."""
    assert WhileAlive(ScriptedReader([gone()])).read() == {}
    with pytest.raises(ReadError):
        WhileAlive(ScriptedReader([ABSENT])).read()


def test_the_largest_are_known_to_whoever_reads_more_of_them() -> None:
    """Nobody is known before the first look, and after one that failed."""
    top = TopProcesses(1, (ProcessKey(1, 1),), ("x",), (1,), (0,))
    script: list[Any] = [{"top": top}, ABSENT]
    largest = Largest(ScriptedReader(script))
    assert largest.keys() is None
    largest.read()
    assert largest.keys() == top.keys
    with pytest.raises(ReadError):
        largest.read()
    assert largest.keys() is None


def test_our_own_process_is_not_the_machine() -> None:
    """Elsewhere one reader tells of both."""
    assert set(MachineOnly(ScriptedReader([{"system": None, "process": None}])).read()) == {"system"}
