"""A record in a few figures."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from memwarden.assess.summary import Summarizer, Summary
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import ProcessKey, ProcessMemory
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, LeakStage, LeakVerdict, PressureLevel, Reading
from support.values import CLEARING, DECISION, WALL

LIMIT = Limit(10_000, "container")
LOW, HIGH = PressureLevel.LOW, PressureLevel.HIGH


def sample(
    own: int | None,
    now: float,
    level: PressureLevel = LOW,
    used: int = 5000,
    leak: LeakVerdict | None = None,
    limit: Limit = LIMIT,
) -> Event:
    """A reading: a process of so many bytes, of which ``used`` in all count against the limit."""
    process = None if own is None else ProcessMemory(ProcessKey(7, 70), "python3", own)
    assessment = Assessment(level, level, Constraint(limit, used), limit, 10_000 - used, 0.0, leak=leak)
    return reported(EventKind.SAMPLE, Reading(Sample(WALL + now, now, process=process), assessment), now)


def reported(kind: EventKind, value: Any = None, now: float = 0.0) -> Event:
    """An event."""
    return Event(kind=kind, wall=WALL + now, monotonic=now, value=value)


def digest(*writers: list[Event]) -> Summary:
    """The figures of what these wrote."""
    made = Summarizer()
    for events in writers:
        made.add(events)
    return made.summary()


def test_quantiles_are_of_what_is_watched() -> None:
    """Exact ones, of the watched process and not of all that counts against a limit; the limit to set follows."""
    made = digest([sample(own, now) for now, own in enumerate([10, 30, 20, 100, 40])])
    assert (made.samples, made.median, made.high, made.peak) == (5, 30, 100, 100)
    assert made.wanted == 125
    assert digest([sample(own, 0.0) for own in range(1, 101)]).high == 95


def test_where_no_process_is_watched_what_counts_against_the_limit_is_reported() -> None:
    """A machine has nothing of its own."""
    assert digest([sample(None, 0.0, used=700), sample(None, 1.0, used=900)]).peak == 900


def test_growth_is_between_the_ends() -> None:
    """By the hour, whatever single readings do; not of a watch too short to have one."""
    steady = [sample(1000 + 100 * now, now * 60.0) for now in range(61)]
    steady[30] = sample(90_000, 1800.0)
    assert digest(steady).growth == pytest.approx(6000)
    assert digest([sample(1000 + now, float(now)) for now in range(61)]).growth is None
    assert digest(steady[:9]).growth is None


def test_what_was_not_watched_does_not_count() -> None:
    """Neither between two runs nor between two writers; clocks of several writers may differ."""
    first = [sample(1, 0.0), sample(1, 10.0, HIGH), sample(1, 15.0), reported(EventKind.STOP, now=16.0)]
    again = [reported(EventKind.START, now=100.0), sample(1, 101.0, HIGH), sample(1, 102.0)]
    other = [sample(1, 3.0), sample(1, 4.0)]
    made = digest(first + again, other)
    assert made.seconds == 15 + 1 + 1
    assert made.level_seconds == (11.0, 0.0, 6.0, 0.0)
    assert (made.first, made.last) == (WALL, WALL + 102.0)


def test_the_gravest_verdict_stands_with_its_reason() -> None:
    """Though it was taken back later."""

    def verdict(stage: LeakStage, reason: str) -> LeakVerdict:
        return LeakVerdict(stage, reason, None, None, None, None)

    stages = [LeakStage.NONE, LeakStage.CONFIRMED, LeakStage.SUSPECTED, LeakStage.NONE]
    made = digest([sample(1, float(now), leak=verdict(each, each.value)) for now, each in enumerate(stages)])
    assert (made.leak, made.leak_reason) == ("confirmed", "confirmed")
    assert digest([sample(1, 0.0)]).leak == "none"


def test_alerts_are_counted_by_episode() -> None:
    """A rule that decides again before it is over is one; after it was over, another."""
    first = DECISION._replace(undo=False, repeat=0)
    again = first._replace(repeat=1)
    events = [reported(EventKind.DECISION, each) for each in (first, again, DECISION)]  # the last takes back
    assert digest(events).alerts == 1
    assert digest([*events, reported(EventKind.CLEARED, CLEARING._replace(rule=DECISION.rule)), events[0]]).alerts == 2


def test_the_least_limit_and_the_most_of_one() -> None:
    """The limit may change while it is watched."""
    less = Limit(6000, "group")
    made = digest([sample(1, 0.0), sample(1, 1.0, limit=less), sample(1, 2.0)])
    assert (made.limit, made.limit_source) == (6000, "group")
    assert made.ratio == pytest.approx(5000 / 6000)


def test_nothing_is_made_up() -> None:
    """With nothing in it JSON has only what is known."""
    made = digest([])
    assert (made.samples, made.peak, made.wanted, made.growth, made.ratio) == (0, None, None, None, None)
    assert made.first == math.inf
    plain = json.loads(json.dumps(made.as_dict()))
    assert set(plain) == {"samples", "watched_seconds", "level_seconds", "leak", "alerts"}
