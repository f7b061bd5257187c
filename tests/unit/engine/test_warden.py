"""The Warden: its events and their times, and what does not stop it. Time is the test's, threads are real."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from memwarden.assess.pressure import PressureDetector
from memwarden.engine.warden import Warden
from memwarden.errors import ReadError, SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import ProcessKey, ProcessMemory, ProgramMemory, SystemMemory
from memwarden.model.limits import Limit
from memwarden.model.sample import Sample
from memwarden.model.serialize import iso
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment, PressureLevel
from memwarden.policy.presets import preset
from memwarden.policy.rules import Rule
from memwarden.records.statistics import Statistics
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import SOON, VAST, Keeper, no_thread_is_left, our_threads

DENIED = ReadError("meminfo", "/proc/meminfo", "denied")
HIGH_RULE = Rule(name="high", when="level >= HIGH", then="act", rest=10.0)


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test moves."""
    return FakeClock()


@pytest.fixture
def keeper() -> Keeper:
    """A recorder that keeps everything."""
    return Keeper()


@pytest.fixture
def make(clock: FakeClock, keeper: Keeper) -> Iterator[Callable[..., Warden]]:
    """Make a warden on the test's clock, with the keeper as recorder; it is stopped after the test."""
    made: list[Warden] = []

    def warden(script: Any = (0,), total: int = VAST, **options: Any) -> Warden:
        readers = script if isinstance(script, list) else [ScriptedReader(script, total)]
        made.append(Warden(readers, clock=clock, recorders=[keeper], **options))
        return made[-1]

    yield warden
    for each in made:
        each.stop()


class Doing:
    """An action that remembers, and does what it is given to do."""

    name = "act"

    def __init__(self, does: Callable[[], None] = lambda: None) -> None:
        self.does = does
        self.runs: list[Decision] = []
        self.threads: set[str] = set()

    def run(self, decision: Decision) -> Outcome:
        """Remembered."""
        self.runs.append(decision)
        self.threads.add(threading.current_thread().name)
        self.does()
        return Outcome(decision=decision, done=True, message="done")


Make = Callable[..., Warden]

# --- the grid and the pace -----------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0.25, 1.0, 5.0, 300.0])
def test_records_lie_on_the_grid_of_the_asked_interval(
    make: Make, clock: FakeClock, keeper: Keeper, interval: float
) -> None:
    """Start plus n times the interval, exactly, however long it runs."""
    warden = make(interval=interval).start()
    clock.advance(200 * interval)
    assert warden.flush()
    assert keeper.moments() == [1000.0 + n * interval for n in range(201)]
    assert {event.value.sample.late for event in keeper.of(EventKind.SAMPLE)} == {0.0}


def test_an_interval_that_is_no_binary_fraction_does_not_drift(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Ten thousand tenths of a second are a thousand seconds: points are multiplied, not added up."""
    warden = make(interval="100ms").start()
    for _ in range(20):
        clock.advance(50.0)
        assert warden.flush()
    moments = keeper.moments()
    assert len(moments) in (10_000, 10_001)  # whether the last one lies at the end or a rounding beyond it
    assert max(abs(moment - (1000.0 + n * 0.1)) for n, moment in enumerate(moments)) < 1e-9


class Slow:
    """A reader whose samples take so many seconds each."""

    name = "slow"

    def __init__(self, clock: FakeClock, takes: Callable[[int], float], facts: Mapping[str, Any]) -> None:
        self._clock, self._takes, self._facts = clock, takes, facts
        self.begun: list[float] = []

    def read(self) -> Mapping[str, Any]:
        """Time passes."""
        self.begun.append(self._clock.monotonic())
        self._clock.advance(self._takes(len(self.begun)))
        return self._facts

    def close(self) -> None:
        """Nothing to close."""


def test_points_of_the_grid_that_were_missed_are_skipped(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """A sample of 2.5 s costs the points in it; the next one is on the grid again and nothing is made up for."""
    facts = ScriptedReader([0], VAST).read()
    warden = make([Slow(clock, lambda count: 2.5 if count == 3 else 0.0, facts)], interval=1.0).start()
    clock.advance(8.0)
    assert warden.flush()
    assert keeper.moments() == [1000.0, 1001.0, 1002.0, 1005.0, 1006.0, 1007.0, 1008.0]


def test_looks_that_take_longer_than_the_interval_leave_a_rest(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Each begins on the grid, so a slow reader does not turn into a loop without a pause."""
    facts = ScriptedReader([0], VAST).read()
    warden = make([Slow(clock, lambda _: 1.5, facts)], interval=1.0).start()
    clock.advance(8.0)
    assert warden.flush()
    assert keeper.moments()[:5] == [1000.0, 1002.0, 1004.0, 1006.0, 1008.0]


def test_a_point_that_passed_during_an_extra_look_is_recorded_late(
    make: Make, clock: FakeClock, keeper: Keeper
) -> None:
    """Near the limit, where samples follow each other closely, records would otherwise miss most points."""
    # A sample about every 50 ms (half of what is left, at the assumed rate), and each takes 30 ms.
    facts = ScriptedReader([10**12 - 10**8], 10**12).read()
    warden = make([Slow(clock, lambda _: 0.03, facts)], interval=1.0).start()
    clock.advance(10.0)
    assert warden.flush()
    samples = [event.value.sample for event in keeper.of(EventKind.SAMPLE)]
    assert len(samples) == 11
    assert any(sample.late > 0.0 for sample in samples)
    for number, sample in enumerate(samples):
        assert 0.0 <= sample.late < 0.03
        assert sample.monotonic - sample.late == pytest.approx(1000.0 + number, abs=1e-6)


def test_looking_is_faster_than_recording_near_the_limit(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """With a byte left there are a hundred samples a second, and records at the asked interval alone."""
    reader = ScriptedReader([999])
    warden = make([reader], interval=1.0).start()
    clock.advance(5.0)
    assert warden.flush()
    assert 480 <= reader.reads <= 520
    assert keeper.moments() == [1000.0 + n for n in range(6)]


@pytest.mark.contract("V-4")
def test_looking_follows_the_fill_rate_and_is_never_slower_than_asked(make: Make, clock: FakeClock) -> None:
    """After the first minute what was measured counts: far from the limit the asked interval, near it less."""
    gb = 10**9
    used = {"now": 0}

    class Filling:
        name = "filling"
        moments_read: list[float] = []  # noqa: RUF012 - one object

        def read(self) -> Mapping[str, Any]:
            self.moments_read.append(clock.monotonic())
            return ScriptedReader([used["now"]], 100 * gb).read()

        def close(self) -> None: ...

    reader = Filling()
    make([reader], interval=10.0).start()
    clock.advance(70.0)
    assert reader.moments_read == [1000.0 + 10 * n for n in range(8)]  # 100 GB at 1 GB/s: nothing shortens it
    used["now"] = 90 * gb  # 9 GB/s: half of the 10 GB that are left would be gone in 0.56 s
    clock.advance(10.0)
    before = len(reader.moments_read)
    clock.advance(1.0)
    assert reader.moments_read[before] == pytest.approx(1080.0 + 5 / 9)
    clock.advance(129.0)
    after = [moment for moment in reader.moments_read if moment > 1150]
    assert [b - a for a, b in itertools.pairwise(after)] == [10.0] * (len(after) - 1)


def test_an_eager_warden_looks_before_its_age_doubles(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """What ends soon is seen before, from 10 ms on; records keep to the asked interval."""

    class Timed(ScriptedReader):
        moments: list[float] = []  # noqa: RUF012 - one object

        def read(self) -> Mapping[str, Any]:
            self.moments.append(clock.monotonic() - 1000.0)
            return super().read()

    reader = Timed([0], VAST)
    warden = make([reader], interval=10.0, eager=True).start()
    clock.advance(30.0)
    assert warden.flush()
    expected = [0.0, *(0.01 * 2**n for n in range(10)), 10.0, 20.0, 30.0]
    assert reader.moments == pytest.approx(expected)
    assert keeper.moments() == [1000.0, 1010.0, 1020.0, 1030.0]


def test_an_unconfirmed_crossing_is_confirmed_a_second_later(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """HIGH is reported three seconds after it was first seen although the interval is five minutes."""
    big = 1 << 60  # half of a tenth of it lasts for months at the assumed rate
    warden = make([ScriptedReader([0, 0, big * 85 // 100], big)], interval=300.0).start()
    clock.advance(610.0)
    assert warden.flush()
    reported = [event.monotonic for event in keeper.of(EventKind.LEVEL)]
    assert reported == [1000.0, 1603.0]
    assert keeper.messages(EventKind.LEVEL) == ["LOW", "HIGH, was LOW"]


def test_a_warden_that_starts_again_assumes_a_rate_again(make: Make, clock: FakeClock) -> None:
    """What was seen before a pause says nothing of how fast memory fills now."""
    reader = ScriptedReader([0], 10 * 10**9)
    warden = make([reader], interval=60.0).start()
    clock.advance(60.0)
    assert reader.reads == 13  # half of 10 GB at 1 GB/s: every 5 s
    clock.advance(120.0)
    assert reader.reads == 15
    warden.stop()
    clock.advance(1000.0)
    warden.start()
    clock.advance(59.0)
    assert reader.reads == 15 + 12


# --- events -------------------------------------------------------------------------------------------


@pytest.mark.contract("S2-22", "W2-1")
def test_start_is_reported_first_and_then_one_first_look(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """When `start()` returns the sample was taken, and every reading is taken on one thread."""
    threads: list[str] = []

    class Reader(ScriptedReader):
        def read(self) -> Mapping[str, Any]:
            threads.append(threading.current_thread().name)
            return super().read()

    reader = Reader([0], VAST)
    warden = make([reader])
    assert warden.last is None
    warden.start()
    assert warden.last is not None
    assert reader.reads == 1
    assert warden.flush()
    assert keeper.kinds() == [EventKind.START, EventKind.SAMPLE, EventKind.LEVEL]
    clock.advance(3.0)
    assert set(threads) == {"memwarden-sampler"}
    assert len(threads) == 4


@pytest.mark.contract("S2-22")
def test_what_the_program_reports_is_in_the_samples(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Once for each sample, on the thread that samples; a function that raises is a gap, and costs no sample."""
    reported: list[str] = []

    def program() -> ProgramMemory | None:
        reported.append(threading.current_thread().name)
        if len(reported) == 3:
            raise ZeroDivisionError
        return ProgramMemory(calls=len(reported), collections=0)

    with make(program=program, shortest=1):
        clock.advance(3)
    samples = [event.value.sample for event in keeper.of(EventKind.SAMPLE)]
    assert [sample.program and sample.program.calls for sample in samples] == [1, 2, None, 4]
    assert set(reported) == {"memwarden-sampler"}
    (gap,) = samples[2].gaps
    assert (gap.what, gap.why) == ("program", "broken")
    assert "ZeroDivisionError" in gap.detail


def test_registered_caches_of_the_own_program_are_reported() -> None:
    """Where it watches itself; one that watches something else leaves them out."""
    warden, other = Warden(), Warden([ScriptedReader((0,), VAST)])
    for each in (warden, other):
        each.caches.register(list, "mine", size=lambda: 3, most=7)
    found = warden.sample().sample.program
    assert found is not None
    assert (found.caches, found.all_caches) == (((3, 7),), False)
    assert other.sample().sample.program is None
    for each in (warden, other):
        each.close()


def test_starting_twice_changes_nothing(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """One thread of each kind, one START, one record a second, and the second start does not wait."""
    warden = make().start()
    threads = our_threads()
    assert warden.start() is warden
    with warden:
        assert our_threads() == threads
        assert len(threads) == 2
        clock.advance(3.0)
        assert warden.flush()
    assert keeper.moments() == [1000.0, 1001.0, 1002.0, 1003.0]
    assert len(keeper.of(EventKind.START)) == 1


@pytest.mark.contract("S2-6", "S2-57")
def test_the_warden_works_in_the_background(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """A daemon thread samples, a second one delivers; further subscribers cost no further thread."""
    action = Doing()
    warden = make((960,), 1000, rules=[HIGH_RULE], actions=[action])
    subscribers = [Keeper() for _ in range(5)]
    for each in subscribers:
        warden.subscribe(each)
    assert our_threads() == []
    warden.start()
    clock.advance(2.0)
    assert warden.flush()
    assert sorted(thread.name for thread in our_threads()) == ["memwarden-dispatcher", "memwarden-sampler"]
    assert all(thread.daemon for thread in our_threads())
    threads = {name for each in [keeper, *subscribers, action] for name in each.threads}
    assert threads == {"memwarden-dispatcher"}


@pytest.mark.contract("S2-57", "W2-1")
def test_what_passes_between_threads_cannot_be_changed(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Events and everything in them are frozen, so that no receiver spoils another one's."""
    warden = make((DENIED, 960), 1000, rules=[HIGH_RULE], actions=[Doing()]).start()
    clock.advance(2.0)
    assert warden.flush()
    assert {EventKind.GAP, EventKind.DECISION, EventKind.OUTCOME, EventKind.SAMPLE} <= set(keeper.kinds())
    for event in keeper.events:
        with pytest.raises(AttributeError):
            event.message = "mine"  # type: ignore[misc]
        if event.value is not None:
            field = next(iter(getattr(event.value, "_fields", None) or event.value.__dataclass_fields__))
            with pytest.raises(AttributeError):
                setattr(event.value, field, None)


def test_levels_gaps_and_their_ends_are_reported_once(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """In the order in which they come, between the samples."""
    warden = make((0, DENIED, DENIED, DENIED, 0, 980), 1000, interval=1.0).start()
    clock.advance(6.0)
    assert warden.flush()
    reported = [event for event in keeper.events if event.kind not in (EventKind.SAMPLE, EventKind.START)]
    assert [(event.kind, event.message) for event in reported] == [
        (EventKind.LEVEL, "LOW"),
        (EventKind.GAP, "meminfo cannot be read: denied (/proc/meminfo)"),
        (EventKind.GAP_CLOSED, "meminfo can be read again (/proc/meminfo)"),
        (EventKind.LEVEL, "CRITICAL, was LOW"),
    ]


@pytest.mark.contract("S1-3")
def test_a_rule_decides_acts_and_reports_the_outcome(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Level, decision and outcome, one after the other; after its rest the rule acts again."""
    action = Doing()
    warden = make((0, 960), 1000, rules=[HIGH_RULE], actions=[action])
    warden.start()
    clock.advance(11.5)
    assert warden.flush()
    reported = [kind for kind in keeper.kinds() if kind in (EventKind.LEVEL, EventKind.DECISION, EventKind.OUTCOME)]
    assert reported[1:] == [
        EventKind.LEVEL,
        EventKind.DECISION,
        EventKind.OUTCOME,
        EventKind.DECISION,
        EventKind.OUTCOME,
    ]
    first, second = action.runs
    assert 10.0 <= second.monotonic - first.monotonic < 10.1
    for outcome, decision in zip(keeper.of(EventKind.OUTCOME), action.runs, strict=True):
        assert outcome.value == Outcome(decision=decision, done=True, message="done")


@pytest.mark.contract("S1-3")
def test_nothing_is_done_without_a_rule(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Without a rule the highest level leads to no decision, whatever actions there are."""
    action = Doing()
    warden = make((1000,), 1000, actions=[action]).start()
    clock.advance(30.0)
    assert warden.flush()
    assert action.runs == []
    assert keeper.of(EventKind.DECISION) == []
    assert keeper.messages(EventKind.LEVEL) == ["CRITICAL"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(3)])
def test_an_action_that_raises_is_an_outcome(
    make: Make, clock: FakeClock, keeper: Keeper, error: BaseException
) -> None:
    """Not done, with what it raised and how long it took; it is run again when its rule fires again."""

    def boom() -> None:
        clock.advance(0.5)
        raise error

    action = Doing(boom)
    warden = make((960,), 1000, interval=20.0, rules=[HIGH_RULE], actions=[action]).start()
    assert warden.flush()
    clock.advance(30.0)
    assert warden.flush()
    outcomes = [event.value for event in keeper.of(EventKind.OUTCOME)]
    assert [(each.done, each.message) for each in outcomes] == [(False, repr(error))] * len(action.runs)
    assert outcomes[0].seconds == 0.5
    assert len(outcomes) >= 2
    assert keeper.of(EventKind.TROUBLE) == []
    assert len(keeper.moments()) >= 2


def test_a_rule_must_name_an_action_that_there_is() -> None:
    """The error names rule and action and says which there are, before anything is watched."""
    rule = Rule(name="mine", when="level >= HIGH", then="nuke")
    with pytest.raises(SettingsError, match=r"rule 'mine': no action is called 'nuke'; known: caches, collect, notify"):
        Warden([], rules=[rule])
    assert our_threads() == []


@pytest.mark.parametrize("interval", [0, -1, "soon", float("nan")])
def test_an_interval_must_be_one(interval: Any) -> None:
    """Refused at the call, not by a thread later on."""
    with pytest.raises(SettingsError):
        Warden([], interval=interval)


# --- what does not stop it -----------------------------------------------------------------------------


@pytest.mark.contract("S0-14", "S2-58")
def test_a_broken_reader_costs_a_gap_and_nothing_else(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Reported once while it lasts, closed once when it is over; the other reader is read all the time."""
    broken, good = ScriptedReader([RuntimeError("boom")] * 3 + [{}]), ScriptedReader([0], VAST)
    warden = make([broken, good]).start()
    clock.advance(5.0)
    assert warden.flush()
    assert keeper.messages(EventKind.GAP) == ["scripted cannot be read: broken (ScriptedReader)"]
    assert len(keeper.of(EventKind.GAP_CLOSED)) == 1
    assert len(keeper.moments()) == good.reads == broken.reads == 6
    assert all(event.value.sample.system is not None for event in keeper.of(EventKind.SAMPLE))


@pytest.mark.contract("S0-14")
@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(1)])
def test_a_broken_recorder_is_reported_once_and_the_others_go_on(
    make: Make, clock: FakeClock, keeper: Keeper, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """What it says goes to every other recorder and into the log; so does the news that it works again."""
    warden, other = make(), Keeper()
    warden.subscribe(other)
    with caplog.at_level(logging.WARNING, "memwarden"):
        warden.start()
        warden.flush()
        keeper.broken = error
        clock.advance(4.0)
        warden.flush()
        keeper.broken = None
        clock.advance(2.0)
        assert warden.flush()
        assert warden.flush()
    reported = [f"support.engine.Keeper raised {error!r}", "support.engine.Keeper works again"]
    assert other.messages(EventKind.TROUBLE) == reported
    assert caplog.messages == reported
    assert other.moments() == [1000.0 + n for n in range(7)]
    assert keeper.moments() == [1000.0, 1005.0, 1006.0]


@pytest.mark.parametrize("from_the_first", [True, False])
def test_a_broken_detector_is_reported_once_and_looking_goes_on(
    make: Make, clock: FakeClock, keeper: Keeper, from_the_first: bool
) -> None:
    """Even one that is broken from the first sample on does not make `start()` raise."""

    class Moody(PressureDetector):
        broken = from_the_first

        def assess(self, sample: Sample) -> Assessment:
            if self.broken:
                raise RuntimeError("not now")
            return super().assess(sample)

    detector, reader = Moody(), ScriptedReader([0], VAST)
    warden = make([reader], detector=detector).start()
    clock.advance(1.0)
    detector.broken = True
    clock.advance(3.0)
    detector.broken = False
    clock.advance(2.0)
    assert warden.flush()
    assert keeper.messages(EventKind.TROUBLE) == ["judging failed: RuntimeError('not now')", "judging works again"]
    assert reader.reads == 7
    assert keeper.moments()[-2:] == [1005.0, 1006.0]
    warden.stop()
    assert not warden.running


def test_a_broken_detector_is_asked_at_the_asked_interval(make: Make, clock: FakeClock) -> None:
    """With the last verdict near the limit: a hundred failures a second would help nothing."""

    class Breaks(PressureDetector):
        def assess(self, sample: Sample) -> Assessment:
            if sample.monotonic > 1000.0:
                raise RuntimeError("not any more")
            return super().assess(sample)

    reader = ScriptedReader([999])
    make([reader], interval=5.0, detector=Breaks()).start()
    clock.advance(20.0)
    assert reader.reads <= 6


def test_a_failing_look_between_two_records_costs_no_record(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """The next one is taken at the next point of the grid, not one interval later."""

    class Fails(PressureDetector):
        def assess(self, sample: Sample) -> Assessment:
            if 1000.3 < sample.monotonic < 1000.6:
                raise RuntimeError("not now")
            return super().assess(sample)

    warden = make((999,), 1000, interval=1.0, detector=Fails()).start()
    clock.advance(3.0)
    assert warden.flush()
    assert keeper.moments() == [1000.0, 1001.0, 1002.0, 1003.0]
    assert len(keeper.of(EventKind.TROUBLE)) == 2


def test_a_callback_that_hangs_is_named_and_the_others_go_on(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Sampling goes on; status names the one that hangs, and drops it when it answers again."""
    release, entered, behind = threading.Event(), threading.Event(), Keeper()

    def hangs(event: Event) -> None:
        entered.set()
        release.wait(2 * SOON)

    warden = make(patience=3.0)
    warden.subscribe(hangs)
    warden.subscribe(behind)
    name = f"{__name__}.{hangs.__qualname__}"
    warden.start()
    assert entered.wait(SOON)
    clock.advance(3.0)
    assert warden.flush()  # else the clock would run ahead of the slow ones, and they would be taken to hang
    clock.advance(7.0)
    assert warden.flush()
    assert behind.messages(EventKind.TROUBLE) == [f"{name} hangs and was set aside"]
    assert behind.moments() == keeper.moments() == [1000.0 + n for n in range(11)]
    assert behind.kinds()[0] is EventKind.START
    assert warden.status()["stuck_receivers"] == [name]
    release.set()
    assert behind.wait_for(lambda: len(behind.of(EventKind.TROUBLE)) == 2)
    assert behind.messages(EventKind.TROUBLE)[1] == f"{name} answers again"
    assert warden.status()["stuck_receivers"] == []


def test_an_action_that_hangs_is_not_run_a_second_time(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Each run would hold one more thread: the outcome says so instead, until it has come back."""
    release, entered = threading.Event(), threading.Event()

    def hangs() -> None:
        entered.set()
        assert release.wait(2 * SOON)

    action = Doing(hangs)
    warden = make((960,), 1000, rules=[HIGH_RULE], actions=[action], patience=3.0).start()
    assert entered.wait(SOON)
    clock.advance(3.0)
    assert warden.flush()
    clock.advance(22.0)
    assert warden.flush()
    assert len(action.runs) == 1
    assert keeper.messages(EventKind.TROUBLE) == ["action act hangs and was set aside"]
    assert keeper.messages(EventKind.OUTCOME) == ["action act still hangs"] * 2
    assert [event.value.done for event in keeper.of(EventKind.OUTCOME)] == [False, False]
    assert len(our_threads()) == 3
    release.set()
    assert keeper.wait_for(lambda: len(keeper.of(EventKind.TROUBLE)) == 2)
    assert keeper.wait_for(lambda: "done" in keeper.messages(EventKind.OUTCOME))
    clock.advance(10.0)
    assert warden.flush()
    assert len(action.runs) == 2


# --- its end -------------------------------------------------------------------------------------------


@pytest.mark.contract("S2-23", "W2-2")
def test_stopping_leaves_no_thread_and_reports_it_last(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """In the midst of an interval of a day the thread is woken; readers and recorders are closed."""
    reader = ScriptedReader([0], VAST)
    warden = make([reader], interval=86400.0).start()
    clock.advance(1.0)
    assert warden.running
    warden.stop()
    assert our_threads() == []
    assert not warden.running
    assert reader.reads == 1
    assert reader.closed
    assert keeper.closed == 1
    assert keeper.kinds() == [EventKind.START, EventKind.SAMPLE, EventKind.LEVEL, EventKind.STOP]
    warden.stop()
    assert len(keeper.of(EventKind.STOP)) == keeper.closed == 1


def test_stopping_what_never_ran_does_nothing(make: Make, keeper: Keeper) -> None:
    """No event, and nothing closed that was not opened."""
    make().stop()
    assert keeper.events == []
    assert keeper.closed == 0


@pytest.mark.contract("S2-23", "W2-2")
def test_a_restart_runs_one_loop_only(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """After ten restarts there is one sample a second, on a grid that begins with the last start."""
    reader = ScriptedReader([0], VAST)
    warden = make([reader], interval=1.0)
    for _ in range(10):
        warden.start()
        clock.advance(0.25)
        warden.stop()
    keeper.events.clear()
    warden.start()
    reads = reader.reads
    clock.advance(5.0)
    assert warden.flush()
    assert len(our_threads()) == 2
    assert reader.reads - reads == 5
    assert keeper.moments() == [1002.5 + n for n in range(6)]
    assert len(keeper.of(EventKind.START)) == 1


def test_a_callback_may_stop_the_warden(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """It does not wait for itself; the receivers behind it get the rest, STOP last, and no thread is left."""
    behind = Keeper()
    returned = threading.Event()

    def stops(event: Event) -> None:
        if event.kind is EventKind.SAMPLE and event.monotonic >= 1002.0:
            warden.stop()
            returned.set()

    warden = make()
    warden.subscribe(stops)
    warden.subscribe(behind)
    warden.start()
    clock.advance(2.0)
    assert returned.wait(SOON)
    assert no_thread_is_left()
    assert not warden.running
    assert keeper.moments() == behind.moments() == [1000.0, 1001.0, 1002.0]
    assert keeper.kinds()[-1] is behind.kinds()[-1] is EventKind.STOP
    assert keeper.closed == 1


def test_a_callback_may_restart_the_warden(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Stop and start inside one call: two threads, one loop, and every event in order."""
    restarted = threading.Event()

    def restarts(event: Event) -> None:
        if event.kind is EventKind.SAMPLE and event.monotonic == 1001.0 and not restarted.is_set():
            restarted.set()
            warden.stop()
            warden.start()

    warden, behind = make(), Keeper()
    warden.subscribe(restarts)
    warden.subscribe(behind)
    warden.start()
    clock.advance(1.0)
    assert restarted.wait(SOON)
    assert keeper.wait_for(lambda: len(keeper.moments()) == 3)
    clock.advance(2.0)
    assert warden.flush()
    assert len(our_threads()) == 2
    kinds = [kind for kind in keeper.kinds() if kind is not EventKind.LEVEL]
    sample = EventKind.SAMPLE
    assert kinds == [EventKind.START, sample, sample, EventKind.STOP, EventKind.START, sample, sample, sample]
    assert behind.events == keeper.events


def test_a_reader_may_stop_the_warden(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """From inside a sample: nothing waits for itself, and the sample is delivered to no receiver after STOP."""

    class Reader(ScriptedReader):
        def read(self) -> Mapping[str, Any]:
            if self.reads == 2:
                warden.stop()
            return super().read()

    reader = Reader([0], VAST)
    warden = make([reader]).start()
    clock.advance(5.0)
    assert no_thread_is_left()
    assert (reader.reads, reader.closed) == (3, True)
    assert keeper.moments() == [1000.0, 1001.0]
    assert keeper.kinds()[-1] is EventKind.STOP


@pytest.mark.contract("W2-1")
def test_many_threads_may_start_and_stop_at_once(make: Make, keeper: Keeper) -> None:
    """In whatever order: runs do not overlap, each has START first and STOP last."""
    warden = make(interval=1.0)
    problems: list[BaseException] = []
    begin = threading.Barrier(4)

    def hammer() -> None:
        begin.wait(SOON)
        try:
            for _ in range(25):
                warden.start()
                warden.stop()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * SOON)
    warden.stop()
    assert problems == []
    assert our_threads() == []
    marks = [kind for kind in keeper.kinds() if kind in (EventKind.START, EventKind.STOP)]
    assert marks == [EventKind.START, EventKind.STOP] * (len(marks) // 2)
    assert len(marks) >= 50


@pytest.mark.parametrize("which", ["reader", "recorder"])
def test_what_cannot_be_closed_stops_nothing(
    make: Make, keeper: Keeper, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """It is named in the log; the others are closed and the warden can start again."""

    def boom() -> None:
        raise OSError("boom")

    first, second = ScriptedReader([0], VAST), ScriptedReader([{}])
    warden = make([first, second])
    monkeypatch.setattr(first if which == "reader" else keeper, "close", boom)
    warden.start()
    with caplog.at_level(logging.WARNING, "memwarden"):
        warden.stop()
    assert second.closed
    assert len(caplog.messages) == 1
    assert "could not be closed: OSError('boom')" in caplog.messages[0]
    warden.start()
    assert warden.running


def test_a_machine_without_a_thread_to_spare_raises_the_reason(
    make: Make, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`start()` raises what Python raised; the warden is stopped and can be started later."""
    warden = make()
    original = threading.Thread.start

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "memwarden-sampler":
            raise RuntimeError("can't start new thread")
        original(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            warden.start()
    assert not warden.running
    assert no_thread_is_left()
    warden.start()
    assert warden.flush()
    assert EventKind.SAMPLE in keeper.kinds()


# --- subscribers, events of one's own, status ----------------------------------------------------------


def test_a_subscription_ends_when_it_is_reported_to(make: Make, clock: FakeClock) -> None:
    """Between, a subscriber gets every event; the same one can be subscribed again."""
    warden, mine = make().start(), Keeper()
    warden.flush()
    end = warden.subscribe(mine)
    clock.advance(2.0)
    warden.flush()
    end()
    clock.advance(2.0)
    warden.flush()
    assert mine.moments() == [1001.0, 1002.0]
    warden.subscribe(mine)
    clock.advance(1.0)
    warden.flush()
    assert mine.moments() == [1001.0, 1002.0, 1005.0]


def test_a_callback_may_end_its_own_subscription(make: Make, clock: FakeClock) -> None:
    """A single shot: nothing waits for itself."""
    warden, got = make(), []

    def once(event: Event) -> None:
        got.append(event)
        end()

    end = warden.subscribe(once)
    warden.start()
    clock.advance(3.0)
    warden.flush()
    assert len(got) == 1


@pytest.mark.parametrize("running", [True, False])
def test_an_event_of_ones_own_reaches_everybody(make: Make, keeper: Keeper, running: bool) -> None:
    """In the midst of the others, and where the warden is stopped at once."""
    mine = Event(kind=EventKind.EXIT, wall=1.0, monotonic=2.0, message="over")
    warden = make()
    if running:
        warden.start()
    warden.publish(mine)
    assert warden.flush()
    assert keeper.events[-1] == mine


def test_a_stopped_warden_looks_and_acts_when_asked(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """For those with a loop of their own: same judgement, same rules, no thread, and nothing left for later."""
    action = Doing()
    warden = make((0, 960, 960, 0), 1000, rules=[HIGH_RULE], actions=[action])
    readings = []
    for _ in range(3):
        readings.append(warden.sample())
        clock.advance(10.0)
    assert [each.assessment.level for each in readings] == [
        PressureLevel.LOW,
        PressureLevel.CRITICAL,
        PressureLevel.CRITICAL,
    ]
    assert warden.last == readings[-1]
    assert len(action.runs) == 2
    assert action.threads == {threading.current_thread().name}
    assert keeper.of(EventKind.SAMPLE) == []
    assert keeper.messages(EventKind.LEVEL) == ["LOW", "CRITICAL, was LOW"]
    keeper.events.clear()
    warden.start()
    warden.flush()
    assert keeper.kinds()[:2] == [EventKind.START, EventKind.SAMPLE]
    with pytest.raises(RuntimeError, match="a running one has"):
        warden.sample()


def test_status_is_one_dict_that_json_can_hold(make: Make, clock: FakeClock) -> None:
    """Before, while and after it runs; sizes and times say their unit."""
    warden = make((DENIED, 960), 1000, interval="2s", rules=[HIGH_RULE], actions=[Doing()], asked=Limit(10, "asked"))
    before = warden.status()
    assert before == json.loads(json.dumps(before, allow_nan=False))
    assert (before["schema"], before["running"], before["reading"], before["started"]) == (1, False, None, None)
    warden.start()
    clock.advance(2.0)
    status = json.loads(json.dumps(warden.status(), allow_nan=False))
    assert (status["running"], status["interval_seconds"], status["started"]) == (True, 2.0, iso(1_700_000_000.0))
    assert status["rules"] == ["when the level is at least HIGH, unless acted in the last 10 s, then act"]
    assert status["reading"]["sample"]["system"]["total_bytes"] == 1000
    assert status["reading"]["assessment"]["level"] == "critical"
    warden.stop()
    assert warden.status()["running"] is False
    assert warden.status()["reading"] == status["reading"]


@pytest.mark.contract("S2-8", "S2-14")
def test_status_has_the_figures_of_a_counting_recorder(clock: FakeClock) -> None:
    """Up to the newest sample, though samples are delayed; of the first that counts; without one there are none."""
    counted = Statistics(window=2)
    shares = (0.1, 0.96, 0.96, 0.5)

    class ByTheClock(ScriptedReader):
        """However often it is looked at."""

        def read(self) -> Mapping[str, Any]:
            self.reads = int(clock.monotonic() - 1000)
            return super().read()

    reader = ByTheClock([int(VAST * share) for share in shares], VAST)
    warden = Warden(
        [reader], clock=clock, recorders=[Keeper(), counted, Statistics()], rules=[HIGH_RULE], actions=[Doing()]
    )
    assert warden.status()["statistics"]["readings"] == 0
    with warden:
        for seconds in range(1, 4):
            clock.advance(1.0)
            figures = warden.status()["statistics"]
            shown = figures["readings"], round(figures["current_ratio"], 6)
            assert shown == (seconds + 1, shares[seconds])
    status = json.loads(json.dumps(warden.status(), allow_nan=False))["statistics"]
    assert status == counted.as_dict()
    assert (status["average_ratio"], status["peak_ratio"]) == (pytest.approx(0.73), pytest.approx(0.96))
    assert status["alerts"] == 1
    assert status["peak_time"] == iso(1_700_000_001.0)
    assert Warden([reader], clock=clock).status()["statistics"] is None


def test_status_does_not_wait_for_a_receiver_that_hangs(clock: FakeClock) -> None:
    """Half a second at most, then it reports what is counted; inside a receiver it does not wait at all."""
    hold, counted, reported = threading.Event(), Statistics(), []
    warden = Warden([ScriptedReader([100])], clock=clock, recorders=[counted])
    end = warden.subscribe(lambda event: reported.append(warden.status()["statistics"]["readings"]))
    with warden:
        assert warden.flush()
        assert reported
        end()
        warden.subscribe(lambda event: hold.wait(SOON))
        clock.advance(1.0)
        begun = time.monotonic()
        assert warden.status()["statistics"]["readings"] >= 1
        assert time.monotonic() - begun < 3
        hold.set()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"rules": "level >= HIGH"}, "no Rule"),
        ({"rules": ["level >= HIGH"]}, "no Rule"),
        ({"rules": preset("container")}, "a preset has .rules"),
        ({"actions": [print]}, "is no action"),
        ({"recorders": ["memory.jsonl"]}, "is no recorder"),
        ({"asked": "2GiB"}, "is no Limit"),
    ],
)
def test_what_is_none_of_ours_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    """When it is given, and not by an AttributeError on a thread later on."""
    with pytest.raises(SettingsError) as caught:
        Warden(**given)
    assert named in str(caught.value)


def test_a_rule_on_stalls_has_them_read() -> None:
    """Of one's own machine: most watches can do without, so they are read where a rule asks for them."""
    stalls = Rule(name="stalls", when="psi.full > 10%", then="notify")
    for warden in (Warden(rules=[stalls]), plain := Warden()):
        if warden is plain:
            assert warden.sample().sample.psi is None
            warden.use_rules([stalls])
        found = warden.sample().sample
        assert found.psi is not None or any(gap.what == "psi" for gap in found.gaps)
        warden.close()


def test_cards_are_read_once_a_rule_asks_for_one() -> None:
    """Of our own process as of any: by a rule from the beginning, and by one that comes later."""
    pytest.importorskip("pynvml")
    cards = Rule(name="cards", when="gpu.used > 88%", then="notify")
    for warden in (Warden(), Warden(rules=[cards])):
        try:
            warden.use_rules([cards])
            warden.use_rules([cards, Rule(name="more", when="gpu.used > 95%", then="notify")])
            found = warden.sample().sample
        finally:
            warden.close()
        assert len(found.gpus) + sum(gap.what == "gpu" for gap in found.gaps) >= 1
        assert sum(gap.what == "gpu" for gap in found.gaps) <= 1


# --- leaks --------------------------------------------------------------------------------------------


class Leaks:
    """A process of 100 MiB that takes 4 more at each sample after the eightieth, on a machine of 1000 MiB."""

    name = "leaks"

    def __init__(self) -> None:
        self.count = 0

    def read(self) -> Mapping[str, Any]:
        self.count += 1
        rss = (100 + 4 * max(0, self.count - 80)) * MIB
        key = ProcessKey(10, 1)
        return {
            "process": ProcessMemory(key, "app", rss),
            "system": SystemMemory(1000 * MIB, 1000 * MIB - rss, 0, 0, 0, 0),
        }

    def close(self) -> None: ...


@pytest.mark.contract("S2-16", "V-15", "S2-61")
def test_a_leak_is_reported_when_its_verdict_is_entered(make: Make, clock: FakeClock, keeper: Keeper) -> None:
    """Suspected and then confirmed, each once, long before the memory is gone; a rule follows, and status has all."""
    acts = Doing()
    rule = Rule(name="leak", when="leak >= confirmed", then="act", rest=float("inf"))
    warden = make([Leaks()], interval=60.0, actions=[acts], rules=[rule], shortest=60.0).start()
    for _ in range(210):
        clock.advance(60.0)
    assert warden.flush()
    reported = keeper.of(EventKind.LEAK)
    assert [event.value.stage.value for event in reported] == ["suspected", "confirmed"]
    assert reported[0].message.startswith("SUSPECTED: app[10]: the rolling minimum rose ")
    assert "; full in " in reported[1].message
    assert [decision.reason[:36] for decision in acts.runs] == ["leak CONFIRMED: app[10]: the rolling"]
    status = warden.status()["reading"]["assessment"]
    assert status["leak"]["stage"] == "confirmed"
    assert status["trend"]["word"] == "increasing"
    assert status["forecast"]["what"] == "app[10]"
    assert 0 < status["forecast"]["low_seconds"] < status["forecast"]["high_seconds"]


def test_a_forked_child_judges_leaks_anew(make: Make, clock: FakeClock) -> None:
    """The parent's thread may have been in the middle of it."""
    warden = make([Leaks()], interval=60.0, shortest=60.0).start()
    for _ in range(150):
        clock.advance(60.0)
    before = warden.last
    assert before is not None
    assert before.assessment.leak is not None
    assert before.assessment.leak.stage.value == "suspected"
    warden.stop()
    warden.after_fork()
    found = warden.sample().assessment
    assert found.leak is not None
    assert found.leak.stage.value == "none"
