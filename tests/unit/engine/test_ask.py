"""Another interval for a running warden: a grid of its own, from the asked moment on; on a fake clock."""

import threading

import pytest

from memwarden import SettingsError
from memwarden.engine.warden import Warden
from memwarden.model.decisions import Outcome
from memwarden.model.events import EventKind
from memwarden.policy.rules import Rule
from memwarden.testing import FakeClock, ScriptedReader

#: So large that headroom never makes the pace shorter than the interval.
TOTAL = 1 << 50


@pytest.fixture
def clock():
    return FakeClock(monotonic=1000.0)


@pytest.fixture
def reader():
    return ScriptedReader([1 << 20], total=TOTAL)


@pytest.fixture
def warden(clock, reader):
    made = Warden([reader], interval=100, clock=clock)
    yield made
    made.stop()


@pytest.fixture
def times(warden, clock):
    """When samples were told, counted from the start."""
    told = []
    warden.subscribe(lambda event: told.append(event.monotonic - 1000) if event.kind is EventKind.SAMPLE else None)
    return told


def test_asked_at_once(warden, clock, times):
    """The next sample is of the moment of asking, and the interval counts from there."""
    warden.start()
    clock.advance(130)
    warden.ask("10s")
    clock.advance(25)
    assert warden.flush()
    assert (times, warden.interval) == ([0, 100, 130, 140, 150], 10)


def test_asked_for_a_later_moment(warden, clock, times):
    """Nothing is recorded before that moment, and the old grid is forgotten."""
    warden.start()
    clock.advance(130)
    warden.ask(300, first=1250.0)
    clock.advance(500)
    assert warden.flush()
    assert times == [0, 100, 250, 550]


def test_looking_is_not_put_off_by_asking(clock, times, warden, reader):
    """Where memory is nearly full the looks between the records come when they were due, however often one asks."""
    reader._script = [TOTAL - (30 << 30)]  # at the rate that is assumed at first half of it is gone after 16 s
    warden.start()
    for _ in range(8):
        clock.advance(5)
        warden.ask(100, first=1100.0)
    assert reader.reads >= 3
    assert warden.flush()
    assert times == [0]


def test_asking_wakes_nobody_who_stands_still(warden, clock, times):
    """A stopped warden begins with the interval that it was last asked for; stopping and asking cannot cross."""
    warden.ask(10)
    assert not warden.running
    warden.start()
    clock.advance(10)
    assert warden.flush()
    assert times == [0, 10]
    warden.ask(20)
    warden.stop()
    assert not [each for each in threading.enumerate() if each.name.startswith("memwarden")]


def test_replaced_rules_are_in_force_with_it(clock):
    """What an old rule did is taken back at once, not only at the next look, which may be far away."""
    done = []

    class Brake:
        name = "brake"

        def run(self, decision):
            done.append("brake")
            return Outcome(decision=decision, done=True, message="")

        def undo(self, decision):
            done.append("release")
            return Outcome(decision=decision, done=True, message="")

    reader = ScriptedReader([TOTAL - (1 << 40)], total=TOTAL)
    rule = Rule(name="full", when="level >= HIGH", then="brake")
    with Warden([reader], interval=600, rules=[rule], actions=[Brake()], clock=clock) as warden:
        assert warden.flush()
        reads = reader.reads
        warden.use_rules([])
        warden.ask(600, first=clock.monotonic() + 600)
        clock.advance(0.001)
        assert warden.flush()
        assert (done, reader.reads) == (["brake", "release"], reads)


def test_nonsense_is_refused(warden):
    """The old interval stays."""
    with pytest.raises(SettingsError):
        warden.ask(0)
    assert warden.interval == 100
