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
    """The times of the samples, counted from the start."""
    reported = []
    warden.subscribe(lambda event: reported.append(event.monotonic - 1000) if event.kind is EventKind.SAMPLE else None)
    return reported


def test_asked_at_once(warden, clock, times):
    """The next sample is of the moment of asking, and the interval counts from there."""
    warden.start()
    clock.advance(130)
    warden.set_interval("10s")
    clock.advance(25)
    assert warden.flush()
    assert (times, warden.interval) == ([0, 100, 130, 140, 150], 10)


def test_asked_for_a_later_moment(warden, clock, times):
    """Nothing is recorded before that moment, and the old grid is forgotten."""
    warden.start()
    clock.advance(130)
    warden.set_interval(300, first=1250.0)
    clock.advance(500)
    assert warden.flush()
    assert times == [0, 100, 250, 550]


def test_looking_is_not_put_off_by_asking(clock, times, warden, reader):
    """Where memory is nearly full the samples between the records come when they were due, however often one asks."""
    reader._script = [TOTAL - (30 << 30)]  # at the rate that is assumed at first half of it is gone after 16 s
    warden.start()
    for _ in range(8):
        clock.advance(5)
        warden.set_interval(100, first=1100.0)
    assert reader.reads >= 3
    assert warden.flush()
    assert times == [0]


def test_a_new_interval_wakes_no_stopped_warden(warden, clock, times):
    """A stopped warden starts with the interval that was set last; stopping and setting cannot cross."""
    warden.set_interval(10)
    assert not warden.running
    warden.start()
    clock.advance(10)
    assert warden.flush()
    assert times == [0, 10]
    warden.set_interval(20)
    warden.stop()
    assert not [each for each in threading.enumerate() if each.name.startswith("memwarden")]


def test_replaced_rules_are_in_force_with_it(clock):
    """What an old rule did is taken back at once, not only at the next sample, which may be far away."""
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
        warden.set_interval(600, first=clock.monotonic() + 600)
        clock.advance(0.001)
        assert warden.flush()
        assert (done, reader.reads) == (["brake", "release"], reads)


def test_nonsense_is_refused(warden):
    """The old interval stays."""
    with pytest.raises(SettingsError):
        warden.set_interval(0)
    assert warden.interval == 100


def samples_of(warden, **more):
    """The times of the samples that a subscription gets, counted from 1000, and the function that ends it."""
    times = []
    end = warden.subscribe(
        lambda event: times.append(event.monotonic - 1000) if event.kind is EventKind.SAMPLE else None, **more
    )
    return times, end


def test_a_subscription_with_an_interval_of_its_own_changes_no_other(warden, clock, times):
    """It gets samples at its interval, the first at once; all others keep the asked one, also when it ended."""
    warden.start()
    clock.advance(50)
    own, end = samples_of(warden, every="20s")
    clock.advance(75)
    assert warden.flush()
    assert (own, warden.interval) == ([50, 70, 90, 110], 20)
    end()
    clock.advance(200)
    assert warden.flush()
    assert (own, warden.interval) == ([50, 70, 90, 110], 100)
    assert times == [0, 90, 190, 290]


def test_a_less_frequent_subscription_gets_every_nth_sample(warden, clock, times):
    """Never later than asked by more than a quarter of the warden's interval."""
    warden.start()
    own, _ = samples_of(warden, every=250)
    clock.advance(1000)
    assert warden.flush()
    assert times == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    assert own == [0, 200, 400, 600, 800, 1000]


def test_an_interval_that_is_none_subscribes_nothing(warden, times):
    """The interval is checked first."""
    with pytest.raises(SettingsError):
        warden.subscribe(lambda event: None, every=0)
    assert len(warden._dispatcher._all) == 2  # the log, and the fixture's own
