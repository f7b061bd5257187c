"""Readers of a watch's target."""

from __future__ import annotations

from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.faces.cli.live.target import Adapted, Following
from memwarden.model.facts import ProcessKey, TopProcesses
from memwarden.testing import ScriptedReader, gone

ABSENT = ReadError("psi", "/proc/pressure/memory", "absent", "no such count")


def test_the_next_process_is_read_when_the_first_has_ended() -> None:
    """The reader of the first is closed; without a process nothing is read."""
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
def test_a_file_that_is_gone_with_its_process_is_no_gap(error: ReadError, alive: bool, gap: bool) -> None:
    """A file that this system lacks is one."""
    following = Following("psi", lambda _: ScriptedReader([error]), lambda: 1, lambda _: alive)
    if gap:
        with pytest.raises(ReadError):
            following.read()
    else:
        assert following.read() == {}


def test_shares_of_ended_processes_are_no_gap() -> None:
    """A missing file of the kernel is one."""
    assert Adapted(ScriptedReader([gone()])).read() == {}
    with pytest.raises(ReadError):
        Adapted(ScriptedReader([ABSENT])).read()


def test_the_keys_of_the_largest_processes_are_kept() -> None:
    """There are none before the first reading, and after one that failed."""
    top = TopProcesses(1, (ProcessKey(1, 1),), ("x",), (1,), (0,))
    script: list[Any] = [{"top": top}, ABSENT]
    largest = Adapted(ScriptedReader(script))
    assert largest.keys is None
    largest.read()
    assert largest.keys == top.keys
    with pytest.raises(ReadError):
        largest.read()
    assert largest.keys is None


def test_our_own_process_is_not_the_machine() -> None:
    """The portable reader reads both."""
    assert set(Adapted(ScriptedReader([{"system": None, "process": None}]), without="process").read()) == {"system"}
