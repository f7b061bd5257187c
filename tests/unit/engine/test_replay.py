"""A record judged again: by other rules, with samples that are missing, and what a warden writes so that it can be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from memwarden.engine.replay import Replay, ReplayedEvent
from memwarden.engine.warden import Warden
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import SystemMemory
from memwarden.model.sample import Sample
from memwarden.model.verdicts import PressureLevel, Reading
from memwarden.policy.rules import Rule
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import VAST, Keeper

WALL = 1_700_000_000.0
RULE = Rule(name="r", when="used > 80%", then="notify", rest=10)


def reading(now: float, used: int) -> Event:
    """A sample of a machine of which so many thousandths are used."""
    sample = Sample(WALL + now, now, system=SystemMemory(1000, 1000 - used, 0, 0, 0, 0))
    return Event(EventKind.SAMPLE, WALL + now, now, "", Reading(sample, None))  # type: ignore[arg-type]  # judged anew


def start(rules: Iterable[Rule] = (), **details: Any) -> Event:
    """The beginning of a watch."""
    plain = [rule.to_dict() for rule in rules]
    return Event(EventKind.START, WALL, 0.0, "", None, {"rules": plain, **details})


def decision(now: float, **changes: Any) -> Event:
    """A decision as it was recorded."""
    made = Decision(**({"rule": "r", "action": "notify", "reason": "", "wall": WALL, "monotonic": now} | changes))
    return Event(EventKind.DECISION, WALL + now, now, "", made)


def decided(reported: Iterable[ReplayedEvent]) -> list[tuple[float, str, bool, bool]]:
    """Moment and action of each decision, whether it was made then, and whether it is made now."""
    return [
        (each.event.monotonic, each.event.value.action, each.live, each.replayed)
        for each in reported
        if each.event.kind is EventKind.DECISION
    ]


def test_what_was_done_stands_beside_what_would_be_done() -> None:
    """The same decision once, one of then only, and one of now only."""
    events = [start([RULE]), reading(1, 850), decision(1), reading(5, 850), decision(5), reading(11, 850)]
    assert decided(Replay().run(events)) == [
        (1, "notify", True, True),
        (5, "notify", True, False),
        (11, "notify", False, True),
    ]


def test_other_rules_take_the_place_of_those_in_the_record() -> None:
    """Those that were put in force later, too."""
    later = Event(EventKind.RULES, WALL, 5.0, "", None, {"rules": [RULE.to_dict()]})
    events = [start([RULE]), reading(1, 850), decision(1), later, reading(6, 950), decision(6, repeat=1)]
    new = Rule(name="new", when="used > 90%", then="collect")
    assert decided(Replay([new]).run(events)) == [
        (1, "notify", True, False),
        (6, "collect", False, True),
        (6, "notify", True, False),
    ]


def test_rules_of_then_are_followed_until_they_are_replaced() -> None:
    """As the record says, at the sample where they were."""
    later = Event(EventKind.RULES, WALL, 5.0, "", None, {"rules": []})
    events = [start([RULE]), reading(1, 850), later, reading(20, 850)]
    reported = list(Replay().run(events))
    assert decided(reported) == [(1, "notify", False, True)]
    assert [each.event.kind for each in reported][-1] is EventKind.CLEARED


def test_a_new_start_begins_anew_and_one_that_goes_on_does_not() -> None:
    """The rest of a rule lasts over a stop of the same warden only."""
    events = [start([RULE]), reading(1, 850), start([RULE]), reading(2, 850)]
    assert [moment for moment, *_ in decided(Replay().run(events))] == [1, 2]
    events[2] = start([RULE], goes_on=True)
    assert [moment for moment, *_ in decided(Replay().run(events))] == [1]


def test_a_record_that_begins_in_the_middle() -> None:
    """Its rules count, though what went before is not known."""
    assert decided(Replay().run([start([RULE], goes_on=True), reading(1, 850)])) == [(1, "notify", False, True)]


def test_a_start_that_is_no_watch_changes_nothing() -> None:
    """Others send such events, too: a command that is run, a member of a service."""
    other = Event(EventKind.START, WALL, 2.0, "running python", None, {"command": ["python"]})
    events = [start([RULE]), reading(1, 850), other, reading(2, 850)]
    assert [moment for moment, *_ in decided(Replay().run(events))] == [1]


def test_steps_continue_where_no_action_answered_then() -> None:
    """What was not decided then has no outcome in the record: it is taken to have answered at once."""
    new = Rule(name="new", when="used > 90%", escalate=["collect", "trim"], step=2)
    reported = Replay([new]).run([start(), *[reading(now, 950) for now in range(1, 8)]])
    assert [(moment, action) for moment, action, *_ in decided(reported)] == [(1, "collect"), (4, "trim"), (7, "trim")]


def test_a_step_that_never_answered_is_waited_for() -> None:
    """As it was then: an action that hung is no reason for the next."""
    rule = Rule(name="r", when="used > 90%", escalate=["collect", "trim"], step=2)
    first = decision(1, action="collect")
    events = [start([rule]), reading(1, 950), first, *[reading(now, 950) for now in range(2, 8)]]
    assert [(moment, action) for moment, action, *_ in decided(Replay().run(events))] == [(1, "collect")]
    outcome = Outcome(decision=first.value, done=True, message="")
    events.insert(5, Event(EventKind.OUTCOME, WALL, 3.5, "", outcome))
    reported = decided(Replay().run([*events, reading(8, 950)]))
    assert [(moment, action) for moment, action, *_ in reported] == [(1, "collect"), (6, "trim")]


@pytest.mark.parametrize(
    ("details", "undone"),
    [
        pytest.param({}, True, id="the record does not know the action"),
        pytest.param({"reversible": ["pause"]}, True, id="it could be taken back then"),
        pytest.param({"reversible": []}, True, id="nothing was said of it"),
        pytest.param({"rules": [RULE.to_dict() | {"then": ["pause"]}]}, False, id="it could not be taken back then"),
    ],
)
def test_whether_an_action_can_be_taken_back_is_as_it_was_then(details: dict[str, Any], undone: bool) -> None:
    """Where the record knows it, else as it ships."""
    new = Rule(name="new", when="used > 80%", then="pause")
    begin = start()._replace(details={"rules": [], **details})
    reported = list(Replay([new], reversible=["pause"]).run([begin, reading(1, 850), reading(2, 100)]))
    undos = [each.event.value.undo for each in reported if each.event.kind is EventKind.DECISION]
    assert undos == [False, True] if undone else [False]


def test_a_decision_at_a_sample_that_is_not_recorded_is_counted() -> None:
    """So that the difference is not taken for one of the rules."""
    replay = Replay()
    level = Event(EventKind.LEVEL, WALL, 1.5, "HIGH", None)
    list(replay.run([start(), reading(1, 100), level, reading(2, 850), Event(EventKind.OVERFLOW, WALL, 2.5)]))
    assert (replay.samples, replay.unseen, replay.dropped) == (2, 1, True)


def test_a_rule_of_a_newer_memwarden_is_reported() -> None:
    """With the way out."""
    begin = Event(EventKind.START, WALL, 0.0, "", None, {"rules": [{"name": "r", "when": "moon > 80%"}]})
    with pytest.raises(SettingsError, match=r"a rule of the record: .*moon.*--rules FILE"):
        list(Replay().run([begin]))


# --- what a warden writes -----------------------------------------------------------------------------


def test_a_record_holds_the_rules_that_were_in_force() -> None:
    """At the start and when they are replaced, in the words of a settings file; an endless rest, too."""
    keeper, clock = Keeper(), FakeClock()
    rule = Rule(name="r", when="used > 80%", then=["notify", "pause"], rest=float("inf"))
    warden = Warden([ScriptedReader([100], VAST)], clock=clock, rules=[rule], recorders=[keeper])
    warden.start()
    warden.use_rules([RULE])
    clock.advance(2)
    warden.stop()
    warden.start()
    warden.stop()
    first, again = (event.details or {} for event in keeper.of(EventKind.START))
    assert first["rules"] == [{"name": "r", "when": "used > 80%", "then": ["notify", "pause"], "rest": "inf"}]
    assert ("pause" in first["reversible"], first["brief"], first["dry_run"]) == (True, ["pause"], False)
    assert (first["interval_seconds"], first["goes_on"], again["goes_on"]) == (1.0, False, True)
    [replaced] = keeper.of(EventKind.RULES)
    assert replaced.details is not None
    assert replaced.details["rules"] == [RULE.to_dict()]
    assert again["rules"] == [RULE.to_dict()]


def test_every_sample_goes_to_those_that_ask_for_it() -> None:
    """Others get the samples alone, at the asked interval."""
    every, asked, subscribed = Keeper(), Keeper(), Keeper()
    every.every_sample = True  # type: ignore[attr-defined]
    clock = FakeClock()
    script = [VAST // 100 * 20, *[VAST // 100 * 82] * 100]
    warden = Warden([ScriptedReader(script, VAST)], clock=clock, interval=10, shortest=1, recorders=[every, asked])
    warden.subscribe(subscribed)
    warden.start()
    clock.advance(30)
    warden.stop()
    assert asked.moments() == subscribed.moments() == [1000.0, 1010.0, 1020.0, 1030.0]
    assert set(asked.moments()) < set(every.moments())
    [_, entered] = every.of(EventKind.LEVEL)
    assert entered.value.level is PressureLevel.HIGH
    assert entered.monotonic in every.moments()
    assert entered.monotonic not in asked.moments()
