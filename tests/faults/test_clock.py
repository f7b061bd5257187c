"""The wall clock is set during a run: no hold, rest or age may depend on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from memwarden.engine.warden import Warden
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import EventKind
from memwarden.policy.rules import Rule
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import VAST, Keeper

HOUR = 3600.0
JUMPS = [pytest.param(-HOUR, id="an hour back"), pytest.param(HOUR, id="an hour on"), pytest.param(-1e9, id="1991")]
RULES = [
    Rule(name="sustained", when="level >= HIGH", then="act", sustain=10.0, rest=40.0),
    Rule(name="at once", when="level >= HIGH", then="act", rest=25.0),
]


class Jumps:
    """An action during which the clock may be set."""

    name = "act"

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self._during = during

    def run(self, decision: Decision) -> Outcome:
        """Raises, so that the engine takes the time."""
        self._during()
        raise RuntimeError("measured")


class Wave(ScriptedReader):
    """A machine that is full from the fifth second to the sixty-fifth."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__([0, VAST * 96 // 100], VAST)
        self._clock = clock

    def read(self) -> Mapping[str, Any]:
        """By the time, not by the count of samples."""
        self.reads = int(1005.0 <= self._clock.monotonic() < 1065.0)
        return super().read()


def story(jump: float) -> list[tuple[Any, ...]]:
    """The events of seven minutes of pressure that comes and goes, with a jump of the wall clock in each phase."""
    clock, keeper = FakeClock(), Keeper()
    warden = Warden([Wave(clock)], clock=clock, recorders=[keeper], rules=RULES, actions=[Jumps()])
    with warden:
        for seconds in (3, 4, 10, 20, 30, 20, 20, 320):
            clock.advance(seconds)
            assert warden.flush()
            clock.set_wall(clock.wall() + jump)
    assert len(keeper.of(EventKind.OUTCOME)) == len(keeper.of(EventKind.DECISION))
    return [
        (event.kind, event.monotonic, event.message)
        for event in keeper.events
        if event.kind is not EventKind.OUTCOME  # delivered by the other thread, at a time of its own
    ]


@pytest.mark.parametrize("jump", JUMPS)
def test_levels_rests_and_records_do_not_notice(jump: float) -> None:
    """The same events at the same moments as on a clock that is never set: holds, rests, hysteresis, the grid."""
    expected = story(0.0)
    kinds = [kind for kind, *_ in expected]
    assert kinds.count(EventKind.DECISION) == 8 + 12  # the level is kept for five minutes
    assert [message for kind, _, message in expected if kind is EventKind.LEVEL] == [
        "LOW",
        "CRITICAL, was LOW",
        "LOW, was CRITICAL",
    ]
    assert story(jump) == expected


@pytest.mark.parametrize("jump", JUMPS)
def test_how_long_an_action_took_does_not_notice(jump: float) -> None:
    """Half a second is half a second, although the wall clock disagrees."""
    clock, keeper = FakeClock(), Keeper()

    def during() -> None:
        clock.set_wall(clock.wall() + jump)
        clock.advance(0.5)

    reader = ScriptedReader([960], 1000)
    rule = Rule(name="high", when="level >= HIGH", then="act", rest=1e6)
    warden = Warden([reader], clock=clock, recorders=[keeper], rules=[rule], actions=[Jumps(during)])
    with warden:
        assert warden.flush()
    assert [event.value.seconds for event in keeper.of(EventKind.OUTCOME)] == [0.5]


@pytest.mark.parametrize("jump", JUMPS)
def test_samples_carry_the_wall_clock_as_it_is(jump: float) -> None:
    """The moments on the wall follow the clock that people see; lateness and ages stay what they are."""
    clock, keeper = FakeClock(wall=1_800_000_000.0), Keeper()
    warden = Warden([ScriptedReader([0], VAST)], clock=clock, recorders=[keeper])
    with warden:
        clock.advance(1.0)
        assert warden.flush()
        clock.set_wall(clock.wall() + jump)
        clock.advance(1.0)
    samples = [event.value.sample for event in keeper.of(EventKind.SAMPLE)]
    assert [sample.wall - 1_800_000_000.0 for sample in samples] == [0.0, 1.0, jump + 2.0]
    assert [sample.monotonic for sample in samples] == [1000.0, 1001.0, 1002.0]
    assert [sample.late for sample in samples] == [0.0, 0.0, 0.0]
    assert {event.value.assessment.since for event in keeper.of(EventKind.SAMPLE)} == {1000.0}
