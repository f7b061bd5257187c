"""Rules: conditions, durations, rests, bands, clearing, escalation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from memwarden.assess.pressure import PressureDetector, bare_level
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.facts import (
    CgroupMemory,
    DirectoryUsage,
    GpuMemory,
    ProcessKey,
    ProcessMemory,
    PsiLine,
    PsiStats,
    SystemMemory,
    TreeMemory,
)
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment, Forecast, LeakStage, LeakVerdict, PressureLevel, Trend
from memwarden.policy.metrics import METRICS
from memwarden.policy.presets import EMERGENCY, PRESETS, interval_for, preset
from memwarden.policy.rules import ANSWER_SECONDS, Policy, Rule

LOW, MODERATE, HIGH, CRITICAL = PressureLevel
LIMIT = Limit(1000, "cgroup /app")
KEY = ProcessKey(1, 1)
FLAT = Trend("stable", 30, 0.8, 0.0)
NO_LEAK = LeakVerdict(LeakStage.NONE, "calm", None, None, None, None)


def verdict(level: PressureLevel = LOW, used: int | None = 850) -> Assessment:
    """A verdict of this level."""
    binding = None if used is None else Constraint(LIMIT, used)
    return Assessment(level, level, binding, LIMIT, None if used is None else 1000 - used, 0.0)


def fired(policy: Policy, levels: Sequence[tuple[float, PressureLevel]]) -> list[float]:
    """The moments at which something was decided."""
    return [
        decision.monotonic
        for now, level in levels
        for decision in policy.decide(Sample(1e9 + now, now), verdict(level)).decisions
        if not decision.undo
    ]


def rule(**changes: Any) -> Rule:
    """A rule that fires at HIGH and then rests for a minute."""
    return Rule(**({"name": "r", "when": "level >= HIGH", "then": "notify"} | changes))


def used(policy: Policy, now: float, share: float) -> tuple[list[Decision], list[str]]:
    """Decisions and cleared rules of a sample that finds this share of the binding limit used."""
    decided = policy.decide(Sample(1e9 + now, now), verdict(used=round(share * 1000)))
    return decided.decisions, [clearing.rule for clearing in decided.cleared]


def test_a_reason_shows_a_share_once_and_whose_limit_it_is() -> None:
    """A person reads it in an alert."""
    decisions, _ = used(Policy([rule(when="used > 80%")]), 0.0, 0.85)
    assert decisions[0].reason == "used 850 B (85.0% of 1000 B), above 80%; limit: cgroup /app"


@pytest.mark.parametrize(
    ("level", "fires"), [(LOW, False), (MODERATE, False), (HIGH, True), (CRITICAL, True)], ids=lambda value: str(value)
)
def test_a_rule_fires_at_its_level_and_above(level: PressureLevel, fires: bool) -> None:
    """At least HIGH is HIGH and CRITICAL."""
    assert bool(fired(Policy([rule()]), [(0.0, level)])) is fires


def test_a_decision_shows_rule_action_reason_and_time() -> None:
    """In words that hold the figures, with both clocks of the sample."""
    (decision,) = Policy([rule(name="mine", severity="critical")]).decide(Sample(7.5, 3.25), verdict(HIGH)).decisions
    assert (decision.rule, decision.action, decision.wall, decision.monotonic) == ("mine", "notify", 7.5, 3.25)
    assert decision.reason == "level HIGH: 85.0% of cgroup /app (1000 B)"
    assert (decision.severity, decision.repeat, decision.undo, decision.dry_run) == ("critical", 0, False, False)


def test_a_sample_that_read_nothing_decides_nothing() -> None:
    """Neither does a rule start, nor does one that holds end."""
    policy = Policy([rule(rest=0.0)])
    assert policy.decide(Sample(0.0, 0.0), verdict(HIGH, used=None)) == ([], [])
    assert policy.decide(Sample(0.0, 1.0), verdict(HIGH)).decisions
    assert policy.decide(Sample(0.0, 2.0), verdict(LOW, used=None)) == ([], [])
    assert policy.decide(Sample(0.0, 3.0), verdict(LOW)).cleared


def test_a_rule_waits_until_its_level_lasts() -> None:
    """Ten seconds from the first one, counted anew after each break."""
    steps = [(0.0, HIGH), (9.9, CRITICAL), (10.0, HIGH)]
    assert fired(Policy([rule(sustain=10.0)]), steps) == [10.0]
    broken = [(0.0, HIGH), (5.0, MODERATE), (6.0, HIGH), (15.9, HIGH), (16.0, HIGH)]
    assert fired(Policy([rule(sustain="10s")]), broken) == [16.0]


@pytest.mark.contract("S2-12")
def test_a_rule_rests_after_acting() -> None:
    """For a minute where it does not show otherwise, to the second; a break does not shorten it."""
    steps = [(0.0, HIGH), (1.0, HIGH), (30.0, LOW), (31.0, HIGH), (59.9, HIGH), (60.0, HIGH), (61.0, HIGH)]
    assert fired(Policy([rule()]), steps) == [0.0, 60.0]


def test_without_a_rest_it_fires_at_each_sample() -> None:
    """Zero means none."""
    assert fired(Policy([rule(rest=0)]), [(0.0, HIGH), (0.1, HIGH)]) == [0.0, 0.1]


def test_each_repetition_is_numbered_within_its_episode() -> None:
    """So that an alert can distinguish the first from the others."""
    policy = Policy([rule(rest=1.0)])
    numbers = []
    for now, level in [(0.0, HIGH), (1.0, HIGH), (2.0, HIGH), (3.0, LOW), (4.0, HIGH)]:
        numbers += [each.repeat for each in policy.decide(Sample(0.0, now), verdict(level)).decisions]
    assert numbers == [0, 1, 2, 0]


def test_rules_do_not_disturb_each_other() -> None:
    """Each remembers for itself, also where two have the same name; the order is that of the rules."""
    rules = [rule(), rule(sustain=5.0, then="collect"), rule(name="other", when="level >= CRITICAL")]
    policy = Policy(rules)
    first = policy.decide(Sample(0.0, 0.0), verdict(HIGH)).decisions
    later = policy.decide(Sample(0.0, 5.0), verdict(CRITICAL)).decisions
    assert [(each.rule, each.action) for each in first] == [("r", "notify")]
    assert [(each.rule, each.action) for each in later] == [("r", "collect"), ("other", "notify")]


@pytest.mark.contract("W2-8")
def test_the_wall_clock_does_not_matter() -> None:
    """The clock is set back an hour: durations and rests are on the other clock, and the alert still clears."""
    policy = Policy([rule(sustain=10.0)])
    assert policy.decide(Sample(9000.0, 0.0), verdict(HIGH)).decisions == []
    assert len(policy.decide(Sample(5400.0, 10.0), verdict(HIGH)).decisions) == 1
    assert policy.decide(Sample(99000.0, 30.0), verdict(HIGH)).decisions == []
    assert [each.seconds for each in policy.decide(Sample(5401.0, 50.0), verdict(LOW)).cleared] == [40.0]


def test_no_rules_decide_nothing() -> None:
    """The default."""
    assert Policy().decide(Sample(0.0, 0.0), verdict(CRITICAL)) == ([], [])


# --- conditions ---------------------------------------------------------------------------------------

FULL = Sample(
    0.0,
    0.0,
    0.0,
    SystemMemory(8000, 2000, 1000, 0, 400, 100),
    ProcessMemory(KEY, "p", 300, swap=50),
    TreeMemory(KEY, (KEY,), ("p",), (600,), (0,)),
    (CgroupMemory("/app", 2, 900, 1000, 100),),
    gpus=(GpuMemory(0, "a", "", 100, 10, 90), GpuMemory(1, "b", "", 100, 90, 10)),
    psi=PsiStats("machine", PsiLine(0.25, 0, 0, 0), PsiLine(0.125, 0, 0, 0)),
    directories=(DirectoryUsage("/tmp", 500, 7, 3600.0, 100, 1000, 1.0),),
)


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("level >= LOW", True),
        ("level > LOW", False),
        ("used > 84%", True),
        ("used > 85%", False),
        ("used >= 85%", True),
        ("used > 849B", True),
        ("available < 151B", True),
        ("available < 15%", False),
        ("available <= 15%", True),
        ("outside.available < 201B", True),
        ("outside.available < 200B", False),
        ("machine.available < 2001B", True),
        ("machine.used >= 75%", True),
        ("machine.swap > 74%", True),
        ("process.rss > 29%", True),
        ("process.swap >= 50B", True),
        ("tree.rss > 60%", False),
        ("tree.rss >= 60%", True),
        ("container.used >= 80%", True),
        ("psi.some > 20%", True),
        ("psi.some > 0.25", False),
        ("psi.full >= 12.5%", True),
        ("gpu.used >= 90%", True),
        ("directory.used > 40%", True),
        ("directory.files > 6", True),
        ("directory.files > 7", False),
        ("directory.oldest >= 1h", True),
        ("directory.free <= 10%", True),
        ("growth > 1B", False),
    ],
)
def test_a_condition_reads_its_figure(when: str, holds: bool) -> None:
    """Sizes, shares of the right whole, counts, ages and levels; strict where it is written strict."""
    policy = Policy([rule(when=when)])
    assert bool(policy.decide(FULL, verdict(LOW)).decisions) is holds


def test_a_rule_may_ask_for_the_level_of_stalls() -> None:
    """It is distinguished from the level itself, in its words, too."""
    stalled = rule(when="stalls >= HIGH")
    assert str(stalled) == "when stalls is at least HIGH, unless acted in the last 60 s, then notify"
    [decision] = Policy([stalled]).decide(FULL, verdict(LOW)._replace(stalls=CRITICAL)).decisions
    assert decision.reason == "stalls CRITICAL"
    assert not Policy([stalled]).decide(FULL, verdict(CRITICAL)._replace(stalls=MODERATE)).decisions


def test_every_measure_can_be_asked_for() -> None:
    """A row of the table that no sample fills would be a promise without anything behind."""
    for metric in METRICS.values():
        assert metric.read(FULL, verdict(LOW)._replace(stalls=LOW, trend=FLAT, leak=NO_LEAK)) is not None, metric.name
        assert metric.sentence


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("level", "used", "available")])
def test_a_missing_fact_is_no_figure(name: str) -> None:
    """None, not zero: nothing fires on it."""
    assert METRICS[name].read(Sample(0.0, 0.0), verdict(LOW)) is None


@pytest.mark.parametrize(
    ("when", "named"),
    [
        ("", "not understood"),
        ("used", "not understood"),
        ("used > ", "not understood"),
        ("usde > 80%", "did you mean used"),
        ("xyzzy > 80%", "known: level"),
        ("used over 5s > 80%", "only growth"),
        ("growth over 5q > 80%", "duration"),
        ("level >= 80%", "LOW, MODERATE, HIGH, CRITICAL"),
        ("level >= SEVERE", "LOW, MODERATE, HIGH, CRITICAL"),
        ("used > lots", "size 'lots'"),
        ("used > 80", "write 80%, 80MiB or 80B"),
        ("psi.full > 10", "write 10%"),
        ("directory.files > -1", "not negative"),
        ("directory.files > 80%", "not negative"),
        ("directory.oldest > soon", "duration"),
        (None, "not understood"),
        (5, "not understood"),
    ],
)
def test_a_bad_condition_names_rule_and_culprit(when: Any, named: str) -> None:
    """One typed error that shows which rule, what, and what would do."""
    with pytest.raises(SettingsError, match="rule 'r'") as caught:
        rule(when=when)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": ""}, "needs a name"),
        ({"then": ()}, "has no action"),
        ({"then": [1]}, "then: 1"),
        ({"then": 7}, "then: 7"),
        ({"sustain": -1}, "sustain"),
        ({"sustain": True}, "sustain"),
        ({"rest": "often"}, "rest"),
        ({"step": float("inf")}, "step"),
        ({"band": "3%"}, "band"),
        ({"when": "used > 80%", "band": "3MiB"}, "band '3MiB'"),
        ({"when": "used > 80B", "band": "3%"}, "band '3%'"),
        ({"severity": "bad"}, "info, warning, critical"),
        ({"dry_run": "yes"}, "dry_run"),
    ],
)
def test_a_bad_rule_is_refused(changes: dict[str, Any], named: str) -> None:
    """When it is made, not when it should have fired."""
    with pytest.raises(SettingsError) as caught:
        rule(**changes)
    assert named in str(caught.value)


# --- growth -------------------------------------------------------------------------------------------


def grown(policy: Policy, now: float, size: int) -> bool:
    """Whether a sample that finds the process of this size fires."""
    sample = Sample(0.0, now, process=ProcessMemory(KEY, "p", size))
    return bool(policy.decide(sample, verdict(LOW)).decisions)


@pytest.mark.contract("S3-49")
def test_growth_is_counted_from_the_first_sample() -> None:
    """Warning above 100 MB, critical above 500: the worker's rules, however slowly it comes."""
    rules = [each for each in preset("worker").rules if each.when.startswith("growth")]
    policy = Policy(rules)
    names = []
    for now, size in [(0, 50), (1000, 150), (2000, 151), (90_000, 551)]:
        decided = policy.decide(Sample(0.0, now, process=ProcessMemory(KEY, "p", size * MIB)), verdict(LOW))
        names.append([each.rule for each in decided.decisions])
    assert names == [[], [], ["growth warning"], ["growth warning", "growth critical"]]


def test_growth_over_a_time_forgets_what_was_before() -> None:
    """Ten minutes: slow growth stays below, the same amount at once does not."""
    policy = Policy([rule(when="growth over 10min > 100B", rest=0)])
    assert not any(grown(policy, 10.0 * index, 1000 + index) for index in range(1000))  # 1 in 10 s: 60 in 10 minutes
    assert grown(policy, 10_000.0, 2200)


def test_growth_over_a_time_remembers_little() -> None:
    """However often it samples."""
    policy = Policy([rule(when="growth over 10min > 100B")])
    for index in range(20_000):
        grown(policy, index * 0.01, 1000)
    assert len(policy._states[0]._grown) <= 130


# --- clearing -----------------------------------------------------------------------------------------


@pytest.mark.contract("W2-8")
def test_a_rule_clears_when_the_figure_is_back_by_the_band() -> None:
    """Three points under the edge where nothing else is reported; once, and only after it had fired."""
    policy = Policy([rule(when="used > 80%", rest=0)])
    assert used(policy, 0, 0.79) == ([], [])
    assert len(used(policy, 1, 0.81)[0]) == 1
    assert used(policy, 2, 0.78) == ([], [])
    assert used(policy, 3, 0.77) == ([], ["r"])
    assert used(policy, 4, 0.50) == ([], [])


def test_a_figure_that_swings_about_the_edge_stays_one_episode() -> None:
    """It neither clears nor starts its time anew."""
    policy = Policy([rule(when="used > 80%", sustain=10)])
    for index in range(10):
        assert used(policy, index, 0.81 if index % 2 else 0.79) == ([], [])
    assert len(used(policy, 11, 0.81)[0]) == 1
    assert used(policy, 12, 0.79) == ([], [])


def test_a_band_and_a_settling_time_of_ones_own() -> None:
    """Below 500 by 100, for five seconds without a break."""
    policy = Policy([rule(when="available < 500B", band="100B", settle="5s")])
    assert len(used(policy, 0, 0.501)[0]) == 1
    assert used(policy, 1, 0.401) == ([], [])
    assert used(policy, 2, 0.400) == ([], [])
    assert used(policy, 6, 0.450) == ([], [])
    assert used(policy, 7, 0.300) == ([], [])
    assert used(policy, 11.9, 0.300) == ([], [])
    assert used(policy, 12, 0.300) == ([], ["r"])


def test_what_can_be_taken_back_is() -> None:
    """The last first, each once, and only what was done."""
    policy = Policy([rule(then=("gate", "log", "pause"))], reversible=("pause", "gate", "other"))
    policy.decide(Sample(0.0, 0.0), verdict(HIGH))
    decided = policy.decide(Sample(0.0, 1.0), verdict(LOW))
    assert [(each.action, each.undo) for each in decided.decisions] == [("pause", True), ("gate", True)]
    assert [each.rule for each in decided.cleared] == ["r"]


def test_nothing_is_held_for_longer_than_the_rule_shows() -> None:
    """A pause that does not help is taken back after its time, though the rule still holds."""
    policy = Policy(
        [rule(then=("report", "pause"), hold=30, rest=1000)], reversible=("report", "pause"), brief=("pause",)
    )
    policy.decide(Sample(0.0, 0.0), verdict(HIGH))
    assert policy.decide(Sample(0.0, 29.9), verdict(HIGH)).decisions == []
    undone = policy.decide(Sample(0.0, 30.0), verdict(HIGH)).decisions
    assert [(each.action, each.undo) for each in undone] == [("pause", True)]
    assert [each.action for each in policy.decide(Sample(0.0, 31.0), verdict(LOW)).decisions] == ["report"]


# --- escalation ---------------------------------------------------------------------------------------


def answered(policy: Policy, decisions: list[Decision]) -> list[str]:
    """The actions, each of which has now had its outcome."""
    for decision in decisions:
        policy.on_outcome(Outcome(decision=decision, done=True, message=""))
    return [decision.action for decision in decisions]


def test_steps_follow_one_by_one_and_the_last_repeats() -> None:
    """Each after the outcome of the one before and the time of a step; over again from the first in a new episode."""
    policy = Policy([rule(then="notify", escalate=("collect", "pause", "end"), step=5, rest=1000)])
    seen = {}
    for now in range(31):
        if names := answered(policy, policy.decide(Sample(0.0, now), verdict(HIGH)).decisions):
            seen[now] = names
    assert seen == {0: ["notify"], 6: ["collect"], 12: ["pause"], 18: ["end"], 24: ["end"], 30: ["end"]}
    policy.decide(Sample(0.0, 31.0), verdict(LOW))
    later = [policy.decide(Sample(0.0, now), verdict(HIGH)).decisions for now in (1000.0, 1000.1)]
    assert [answered(policy, each) for each in later] == [["notify"], []]


@pytest.mark.contract("V-11")
def test_each_step_is_measured_again() -> None:
    """One that helped is the last: nothing firmer follows, and what was done is taken back."""
    policy = Policy([rule(then=(), escalate=EMERGENCY, step=1)], reversible=("stop-admitting", "pause"))
    done = []
    for now in range(20):
        level = HIGH if "trim" not in done else LOW
        for decision in policy.decide(Sample(0.0, now), verdict(level)).decisions:
            done.append("undo " * decision.undo + decision.action)
            policy.on_outcome(Outcome(decision=decision, done=True, message=""))
    assert done == ["stop-admitting", "collect", "trim", "undo stop-admitting"]


def test_a_step_waits_for_the_outcome_of_the_one_before() -> None:
    """A slow one is waited for, a lost one not for ever."""
    policy = Policy([rule(escalate=("collect",), step=1, rest=1e6)])
    (first,) = policy.decide(Sample(0.0, 0.0), verdict(HIGH)).decisions
    assert policy.decide(Sample(0.0, 30.0), verdict(HIGH)).decisions == []
    policy.on_outcome(Outcome(decision=first, done=False, message="failed"))
    assert policy.decide(Sample(0.0, 31.0), verdict(HIGH)).decisions == []
    assert answered(policy, policy.decide(Sample(0.0, 32.0), verdict(HIGH)).decisions) == ["collect"]
    policy.decide(Sample(0.0, 33.0), verdict(HIGH))
    (lost,) = policy.decide(Sample(0.0, 34.0), verdict(HIGH)).decisions
    assert policy.decide(Sample(0.0, 33.9 + ANSWER_SECONDS), verdict(HIGH)).decisions == []
    policy.decide(Sample(0.0, 34.0 + ANSWER_SECONDS), verdict(HIGH))
    assert [each.action for each in policy.decide(Sample(0.0, 35.0 + ANSWER_SECONDS), verdict(HIGH)).decisions]
    assert lost.action == "collect"


def test_a_dry_run_shows_so_in_each_decision() -> None:
    """Of one rule, or of all."""
    one = Policy([rule(dry_run=True), rule(name="other")]).decide(Sample(0.0, 0.0), verdict(HIGH)).decisions
    assert [each.dry_run for each in one] == [True, False]
    both = Policy([rule(), rule(name="other")], dry_run=True).decide(Sample(0.0, 0.0), verdict(HIGH)).decisions
    assert [each.dry_run for each in both] == [True, True]


# --- replacing ----------------------------------------------------------------------------------------


def test_a_rule_that_stays_keeps_its_memory() -> None:
    """The rest goes on; a rule that changed starts afresh; the episode of one that is gone ends, and is taken back."""
    stays, goes = rule(name="stays"), rule(name="goes", then="pause")
    policy = Policy([stays, goes], reversible=("pause",))
    policy.decide(Sample(0.0, 0.0), verdict(HIGH))
    decided = policy.replace(Policy([rule(name="new"), stays]), Sample(0.0, 5.0))
    assert [(each.action, each.undo) for each in decided.decisions] == [("pause", True)]
    assert [(each.rule, each.reason) for each in decided.cleared] == [("goes", "the rule was replaced")]
    after = policy.decide(Sample(0.0, 6.0), verdict(HIGH)).decisions
    assert [each.rule for each in after] == ["new"]


def test_a_rule_that_comes_may_take_back_what_no_rule_before_could() -> None:
    """A pause that a new rule began ends, though the rules before it named none."""
    policy = Policy([rule(name="old")])
    new = rule(name="new", then="pause")
    policy.replace(Policy([new], reversible=("pause",), brief=("pause",)), Sample(0.0, 0.0))
    assert [each.action for each in policy.decide(Sample(0.0, 1.0), verdict(HIGH)).decisions] == ["pause"]
    assert [each.undo for each in policy.decide(Sample(0.0, 2.0), verdict(LOW)).decisions] == [True]


# --- words, files and presets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (rule(), "when the level is at least HIGH, unless acted in the last 60 s, then notify"),
        (
            rule(when="process.rss > 80%", sustain=30, then=("collect", "notify")),
            "when process.rss is above 80% for 30 s, unless acted in the last 60 s, then collect, notify",
        ),
        (
            rule(when="growth over 10min > 1GiB", rest=0, then="notify", escalate=("pause", "terminate"), dry_run=True),
            "when growth over 600 s is above 1GiB, then notify; while it stays so, every 5 s the next of: "
            "pause, terminate (dry run)",
        ),
        (rule(when="available <= 5%", rest=0), "when available is at most 5%, then notify"),
    ],
)
def test_a_rule_can_be_read_aloud(made: Rule, text: str) -> None:
    """One sentence that shows all of it, and nothing that does not hold."""
    assert str(made) == text


@pytest.mark.parametrize(
    "made",
    [
        rule(),
        rule(when="used > 80%", band="5%", sustain=1.5, settle=2, rest=0, then=("a", "b")),
        rule(escalate=("a",), step=1, hold=9, severity="info", dry_run=True),
        *(each for one in PRESETS.values() for each in one.rules),
    ],
    ids=lambda made: made.name,
)
def test_a_rule_goes_to_a_file_and_back(made: Rule) -> None:
    """Equal to what it was, and without what is default."""
    plain = made.to_dict()
    assert Rule.from_dict(plain) == made
    assert "severity" not in plain or plain["severity"] != "warning"


def test_a_rule_in_a_file_with_a_word_too_many_is_refused() -> None:
    """A misspelt key would else be a rule that quietly means something else."""
    with pytest.raises(SettingsError, match=r"rule 'a': unknown key 'sustian'; known: for, name"):
        Rule.from_dict({"name": "a", "when": "used > 1B", "then": "notify", "sustian": 3})
    with pytest.raises(SettingsError, match="'when' is missing"):
        Rule.from_dict({"name": "a", "then": "notify"})
    assert Rule.from_dict({"name": "a", "when": "used > 1B", "then": "notify", "for": "2s"}).sustain == 2.0


@pytest.mark.contract("S2-44", "S2-45", "S2-46", "S2-55")
@pytest.mark.parametrize(
    ("name", "interval", "percent"),
    [("aggressive", 60, 75), ("relaxed", 900, 85), ("high-threshold", 300, 95), ("server", 600, 85)],
)
def test_the_seeds_settings_are_presets(name: str, interval: float, percent: int) -> None:
    """Their pace, and an alert strictly above their percentage."""
    found = preset(name)
    assert found.interval == interval
    policy = Policy(found.rules)
    assert used(policy, 0, percent / 100) == ([], [])
    assert [each.action for each in used(policy, 1, percent / 100 + 0.001)[0]] == ["notify"]


@pytest.mark.contract("S3-48", "S3-50")
def test_a_worker_is_warned_twice() -> None:
    """Usage above 80 and 90 %; less than 500 and 200 MB left."""
    policy = Policy([each for each in preset("worker").rules if "growth" not in each.when])
    big = Limit(10_000 * MIB, "machine")

    def reported(now: float, share: float, left: int) -> list[tuple[str, str]]:
        binding = Constraint(big, round(share * big.bytes))
        found = Assessment(LOW, LOW, binding, big, left * MIB, 0.0)
        return [(each.rule, each.severity) for each in policy.decide(Sample(0.0, now), found).decisions]

    assert reported(0, 0.80, 500) == []
    assert reported(1, 0.81, 500) == [("usage warning", "warning")]
    assert reported(2, 0.901, 499) == [("usage critical", "critical"), ("available warning", "warning")]
    assert reported(3, 0.901, 199) == [("available critical", "critical")]


def test_a_preset_that_is_not_there_is_named() -> None:
    """With those that are."""
    with pytest.raises(SettingsError, match=r"preset 'big': not known; choose one of desktop, container"):
        preset("big")


@pytest.mark.contract("S2-56")
@pytest.mark.parametrize(
    ("duration", "interval"), [(10, 60), (3599, 60), (3600, 300), (86400, 300), (86401, 600), (1e6, 600)]
)
def test_longer_runs_are_looked_at_less_often(duration: float, interval: float) -> None:
    """Each minute below an hour, each five up to a day, each ten beyond."""
    assert interval_for(duration) == interval


# --- what the seeds' thresholds became ----------------------------------------------------------------


def card(now: float, share: float) -> Sample:
    """A 24 GB card of which this share is used, in a machine that is half empty."""
    total = 24 * 10**9
    used = round(total * share)
    system = SystemMemory(10**9, 10**9 // 2, 0, 0, 0, 0)
    return Sample(1e9 + now, now, system=system, gpus=(GpuMemory(0, "RTX 3090", "GPU-0", total, used, total - used),))


def reported(history: Sequence[float], every: float = 300.0) -> list[int]:
    """Return the samples at which the preset for GPUs alerts in such a series; negative: where it clears."""
    policy, found = Policy(preset("gpu").rules, reversible=()), []
    detector = PressureDetector()
    for index, share in enumerate(history):
        sample = card(index * every, share)
        decided = policy.decide(sample, detector.assess(sample))
        found += [index for _ in decided.decisions] + [-index for _ in decided.cleared]
    return found


@pytest.mark.contract("X-21", "S2-54")
def test_the_preset_for_cards_is_quiet_where_loaded_models_rest() -> None:
    """Two days between 18 and 20 of 24 GB: the seed's 80 % is passed again and again, and no alert is sent."""
    chance = random.Random(1)
    resting = [chance.uniform(18, 20) / 24 for _ in range(2 * 288)]
    assert sum(share > 0.80 for share in resting) > 100
    assert reported(resting) == []
    assert preset("gpu").interval == 300.0
    assert "19.2 GB" in preset("gpu").sentence


@pytest.mark.contract("X-21")
def test_the_preset_for_cards_shows_once_and_clears_with_a_band() -> None:
    """A card that swings about the threshold is reported each half hour at most, and is clear three points under it."""
    swinging = [0.80, *[0.885, 0.875] * 12, 0.849]
    assert reported(swinging) == [1, 7, 13, 19, -25]


@pytest.mark.contract("X-8")
@pytest.mark.parametrize(("warning", "critical"), [(70, 80), (80, 90), (75, 90), (80, 95)])
def test_every_threshold_of_the_seeds_can_be_set(warning: int, critical: int) -> None:
    """One policy, two rules: each shows just above its own threshold, and not at it."""
    policy = Policy(
        [
            rule(name="warning", when=f"used > {warning}%", rest=0),
            rule(name="critical", when=f"used > {critical}%", rest=0, severity="critical"),
        ]
    )
    shares = [warning - 1, warning, warning + 0.1, critical, critical + 0.1]
    found = [[each.rule for each in used(policy, now, share / 100)[0]] for now, share in enumerate(shares)]
    assert found == [[], [], ["warning"], ["warning"], ["warning", "critical"]]


@pytest.mark.contract("X-8")
def test_the_levels_are_the_base_and_hold_warning_and_critical() -> None:
    """80 and 90 %, which other seeds call warning and critical, are HIGH and CRITICAL."""
    assert [bare_level(share) for share in (0.69, 0.7, 0.8, 0.81, 0.9, 0.91)] == [
        LOW, MODERATE, HIGH, HIGH, HIGH, CRITICAL,
    ]  # fmt: skip
    assert {each.when for each in preset("worker").rules} >= {"used > 80%", "used > 90%"}


# --- leaks --------------------------------------------------------------------------------------------


def _judged(policy: Policy, now: float, stage: LeakStage, low: float | None = None, word: str = "stable") -> list[str]:
    """What a sample with this verdict decides and clears, as words."""
    forecast = None if low is None else Forecast(low, 2 * low, 4 * low, 0.8, "app[10]")
    leak = LeakVerdict(stage, "the rolling minimum rose", None, None, None, forecast, "app[10]" if stage.rank else None)
    found = verdict(LOW)._replace(trend=Trend(word, 30, 0.8, 0.0), leak=leak, forecast=forecast)
    decided = policy.decide(Sample(1e9 + now, now), found)
    return [*(each.reason for each in decided.decisions), *(f"cleared: {each.reason}" for each in decided.cleared)]


def test_a_rule_follows_a_leak_verdict() -> None:
    """It fires with the reason of the verdict, and clears when that is taken back; one not judged yet shows nothing."""
    policy = Policy([rule(when="leak >= confirmed", rest=float("inf"))])
    assert policy.decide(Sample(1e9, 0.0), verdict(LOW)) == ([], [])
    assert _judged(policy, 1.0, LeakStage.SUSPECTED) == []
    assert _judged(policy, 2.0, LeakStage.CONFIRMED) == ["leak CONFIRMED: app[10]: the rolling minimum rose"]
    assert _judged(policy, 3.0, LeakStage.CONFIRMED) == []
    assert _judged(policy, 4.0, LeakStage.NONE) == ["cleared: leak NONE: the rolling minimum rose"]
    early = Policy([rule(when="leak >= suspected")])
    assert _judged(early, 1.0, LeakStage.SUSPECTED) == ["leak SUSPECTED: app[10]: the rolling minimum rose"]
    assert str(rule(when="leak >= suspected", rest=0)) == "when leak is at least SUSPECTED, then notify"


def test_a_rule_follows_the_time_left() -> None:
    """By the lower end of its range; where nothing rises any more it clears."""
    policy = Policy([rule(when="time_left < 10min", rest=float("inf"))])
    assert _judged(policy, 1.0, LeakStage.NONE) == []
    assert _judged(policy, 2.0, LeakStage.NONE, 601.0) == []
    assert _judged(policy, 3.0, LeakStage.NONE, 599.5) == ["time_left 599.5 s, below 10min: app[10]"]
    assert _judged(policy, 4.0, LeakStage.NONE, 610.0) == []  # within the band
    assert _judged(policy, 5.0, LeakStage.NONE) == ["cleared: time_left without end"]


def test_a_rule_follows_the_trend() -> None:
    """Increasing is the worst of the three words."""
    policy = Policy([rule(when="trend >= increasing")])
    assert _judged(policy, 1.0, LeakStage.NONE, word="decreasing") == []
    assert _judged(policy, 2.0, LeakStage.NONE) == []
    assert _judged(policy, 3.0, LeakStage.NONE, word="increasing") == ["trend INCREASING"]


@pytest.mark.parametrize(
    ("when", "hint"),
    [
        ("leak >= maybe", "stage 'maybe': not known; choose one of NONE, SUSPECTED, CONFIRMED"),
        ("leak > 80%", "choose one of NONE, SUSPECTED, CONFIRMED"),
        ("trend > up", "choose one of DECREASING, STABLE, INCREASING"),
        ("time_left < soon", "soon"),
        ("time_left over 5min < 10min", "only growth takes a time"),
    ],
)
def test_what_is_no_verdict_is_named(when: str, hint: str) -> None:
    """With what could have been written."""
    with pytest.raises(SettingsError, match=hint):
        rule(when=when)
