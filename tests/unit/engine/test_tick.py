"""One tick: sample, assess, decide, and report what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from memwarden.assess.pressure import PressureDetector
from memwarden.engine.tick import Tick
from memwarden.errors import ReadError
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import Gap, ProcessKey, ProcessMemory
from memwarden.model.limits import Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel
from memwarden.policy.rules import Policy, Rule
from memwarden.protocols import Detector, Reader
from memwarden.testing import FakeClock, ScriptedReader

DENIED = ReadError("meminfo", "/proc/meminfo", "denied", "Permission denied")


def tick_of(
    readers: Sequence[Reader],
    rules: Sequence[Rule] = (),
    clock: FakeClock | None = None,
    asked: Limit | None = None,
    detector: Detector | None = None,
) -> Tick:
    """A tick with the built-in judgement."""
    return Tick(readers, detector or PressureDetector(), Policy(rules), clock or FakeClock(), asked)


def events_of(tick: Tick, looks: int, kind: EventKind) -> list[list[str]]:
    """Return the messages of one kind for each of so many samples."""
    return [[event.message for event in tick(0.0)[1] if event.kind is kind] for _ in range(looks)]


def test_a_sample_carries_its_time_and_its_lateness() -> None:
    """Lateness is a field: it need not be guessed from the times."""
    clock = FakeClock(wall=50.0, monotonic=10.0)
    tick = tick_of([ScriptedReader([100])], clock=clock)
    (sample, _), _, _ = tick(10.0)
    assert (sample.wall, sample.monotonic, sample.late) == (50.0, 10.0, 0.0)
    clock.advance(2.5)
    assert tick(12.0)[0].sample.late == 0.5
    assert tick(13.0)[0].sample.late == 0.0


def test_what_several_readers_see_becomes_one_sample() -> None:
    """The asked limit travels with the facts, so that a record can be judged again from it alone."""
    process: Mapping[str, Any] = {"process": ProcessMemory(ProcessKey(7, 1), "job", 400)}
    asked = Limit(500, "asked")
    reading, _, _ = tick_of([ScriptedReader([100]), ScriptedReader([process])], asked=asked)(0.0)
    assert reading.sample.system is not None
    assert reading.sample.used == 400
    assert reading.sample.asked == asked
    assert reading.assessment.binding == (asked, 400)


def test_a_level_is_reported_when_it_changes() -> None:
    """The first one, then only changes, with what it was before."""
    reported = events_of(tick_of([ScriptedReader([100, 100, 960, 960])]), 4, EventKind.LEVEL)
    assert reported == [["LOW"], [], ["CRITICAL, was LOW"], []]


def test_a_level_event_carries_the_verdict() -> None:
    """A receiver of a level can report what is near which limit."""
    (event,) = (each for each in tick_of([ScriptedReader([960])])(0.0)[1] if each.kind is EventKind.LEVEL)
    assert isinstance(event.value, Assessment)
    assert event.value.level is PressureLevel.CRITICAL


@pytest.mark.contract("S2-58")
@pytest.mark.parametrize("why", ReadError.REASONS)
def test_a_failure_to_read_is_a_gap_of_a_named_kind(why: str) -> None:
    """What, where and why travel from the error into the sample and into an event."""
    tick = tick_of([ScriptedReader([ReadError("statm", "/proc/7/statm", why, "its words")])])
    reading, events, _ = tick(0.0)
    gap = Gap("statm", "/proc/7/statm", why, "its words")
    assert reading.sample.gaps == (gap,)
    assert [(e.kind, e.value) for e in events if e.kind is EventKind.GAP] == [(EventKind.GAP, gap)]
    assert f"statm cannot be read: {why} (/proc/7/statm)" in events[0].message


@pytest.mark.contract("S2-58")
@pytest.mark.parametrize("error", [RuntimeError("boom"), ZeroDivisionError(), MemoryError(), OSError(5, "I/O error")])
def test_a_reader_that_raises_anything_is_a_gap_and_the_others_are_read(error: Exception) -> None:
    """A fault of one reader names it and costs nothing but its own facts."""
    reading, events, _ = tick_of([ScriptedReader([error]), ScriptedReader([100])])(0.0)
    assert reading.sample.system is not None
    (gap,) = reading.sample.gaps
    assert gap == ("scripted", "ScriptedReader", "broken", repr(error))
    assert gap in [event.value for event in events]


def test_a_gap_is_reported_once_and_so_is_its_end() -> None:
    """However many samples it lasts; when it comes again it is reported again."""
    tick = tick_of([ScriptedReader([100, DENIED, DENIED, DENIED, 100, 100, DENIED])])
    reported: list[list[EventKind]] = []
    for _ in range(7):
        kinds = [event.kind for event in tick(0.0)[1]]
        reported.append([kind for kind in kinds if kind in (EventKind.GAP, EventKind.GAP_CLOSED)])
    assert reported == [[], [EventKind.GAP], [], [], [EventKind.GAP_CLOSED], [], [EventKind.GAP]]


def test_a_gap_for_another_reason_is_another_gap() -> None:
    """Denied and then gone: the first ends and the second begins."""
    gone = ReadError("meminfo", "/proc/meminfo", "gone")
    tick = tick_of([ScriptedReader([DENIED, gone])])
    tick(0.0)
    reported = [(e.kind, e.value.why) for e in tick(0.0)[1] if isinstance(e.value, Gap)]
    assert sorted(reported, key=str) == [(EventKind.GAP, "gone"), (EventKind.GAP_CLOSED, "denied")]


def test_words_that_change_are_no_new_gap() -> None:
    """A detail that counts something would otherwise be reported on every sample."""
    script = [ReadError("statm", "/proc/7", "malformed", f"line {n}") for n in range(5)]
    reported = events_of(tick_of([ScriptedReader(script)]), 5, EventKind.GAP)
    assert [len(each) for each in reported] == [1, 0, 0, 0, 0]


def test_where_nothing_can_be_read_the_level_stays() -> None:
    """Missing facts are no relief: CRITICAL stays, and no level is reported."""
    tick = tick_of([ScriptedReader([960, DENIED])])
    tick(0.0)
    reading, events, _ = tick(0.0)
    assert reading.assessment.level is PressureLevel.CRITICAL
    assert reading.assessment.available is None
    assert EventKind.LEVEL not in [event.kind for event in events]


@pytest.mark.contract("S1-3")
def test_pressure_leads_to_a_decision_as_data() -> None:
    """The decision names rule, action and reason, stands among the events, and nothing was done yet."""
    rule = Rule(name="full", when="level >= HIGH", then="notify")
    reading, events, decisions = tick_of([ScriptedReader([960])], [rule])(0.0)
    (decision,) = decisions
    assert (decision.rule, decision.action) == ("full", "notify")
    assert decision.reason == "level CRITICAL: 96.0% of machine (1000 B)"
    assert decision.monotonic == reading.sample.monotonic
    assert events[-1] == Event(
        kind=EventKind.DECISION,
        wall=decision.wall,
        monotonic=decision.monotonic,
        message=decision.reason,
        value=decision,
    )


def test_a_tick_that_could_not_judge_reports_its_gaps_on_the_next() -> None:
    """What was read while the detector was broken is not forgotten with it."""

    class Moody:
        broken = True

        def assess(self, sample: Sample) -> Assessment:
            if self.broken:
                raise RuntimeError("not now")
            return PressureDetector().assess(sample)

    detector = Moody()
    tick = tick_of([ScriptedReader([DENIED])], detector=detector)
    with pytest.raises(RuntimeError, match="not now"):
        tick(0.0)
    detector.broken = False
    assert [event.kind for event in tick(0.0)[1]] == [EventKind.GAP, EventKind.LEVEL]
