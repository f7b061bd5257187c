"""All readers into one set of facts."""

from collections.abc import Mapping
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, SystemMemory
from memwarden.model.sample import Sample
from memwarden.readers.collect import collect
from memwarden.testing import ScriptedReader

SYSTEM = SystemMemory(1000, 500, 500, 0, 0, 0)


@pytest.mark.contract("W1-10", "S2-58")
def test_what_fails_is_a_gap_and_no_figure() -> None:
    """The reason comes along, the field does not."""
    facts = collect([ScriptedReader([ReadError("meminfo", "/proc/meminfo", "denied", "no")])])
    assert facts == {"gaps": (Gap("meminfo", "/proc/meminfo", "denied", "no"),)}
    sample = Sample(0.0, 0.0, **facts)
    assert (sample.system, sample.process, sample.used) == (None, None, None)


@pytest.mark.parametrize("why", ReadError.REASONS)
def test_every_reason_is_kept(why: str) -> None:
    """A gap shows the reader's own word."""
    assert collect([ScriptedReader([ReadError("a", "b", why)])])["gaps"] == (Gap("a", "b", why),)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(RuntimeError("no"), id="an error of its own"),
        pytest.param(ZeroDivisionError(), id="a mistake"),
        pytest.param(None, id="nothing at all"),
        pytest.param({"gaps": None}, id="gaps that are none"),
        pytest.param([1, 2], id="no mapping"),
    ],
)
@pytest.mark.contract("S2-58")
def test_a_broken_reader_costs_its_own_facts_only(answer: Any) -> None:
    """The others are read, and the gap names the broken one."""
    facts = collect([ScriptedReader([answer]), ScriptedReader([{"system": SYSTEM}])])
    assert facts["system"] == SYSTEM
    assert [(gap.what, gap.where, gap.why) for gap in facts["gaps"]] == [("scripted", "ScriptedReader", "broken")]
    assert facts["gaps"][0].detail


def test_the_first_reader_wins_and_a_second_stands_in() -> None:
    """Two readers may know the same fact; order is preference."""
    other = SYSTEM._replace(available=1)
    assert collect([ScriptedReader([{"system": SYSTEM}]), ScriptedReader([{"system": other}])])["system"] == SYSTEM
    failing = ScriptedReader([ReadError("meminfo", "x", "absent")])
    facts = collect([failing, ScriptedReader([{"system": other}])])
    assert facts["system"] == other
    assert len(facts["gaps"]) == 1


def test_gaps_of_all_readers_come_together() -> None:
    """A part of a reader's facts may be missing, too; the reader's own answer is not changed."""
    first: Mapping[str, Any] = {"cgroups": (), "gaps": (Gap("a", "a", "denied"),)}
    facts = collect([ScriptedReader([first]), ScriptedReader([{"gaps": [Gap("b", "b", "gone")]}])])
    assert [gap.what for gap in facts["gaps"]] == ["a", "b"]
    assert first["gaps"] == (Gap("a", "a", "denied"),)


def test_without_readers_there_is_nothing() -> None:
    """No facts and no gaps make a sample."""
    assert Sample(1.0, 2.0, **collect([])) == Sample(1.0, 2.0)


def test_an_interrupt_is_not_a_broken_reader() -> None:
    """Ctrl-C while a file is read ends the program."""
    with pytest.raises(KeyboardInterrupt):
        collect([ScriptedReader([KeyboardInterrupt()])])
