"""Rules: a level, a duration, a rest."""

from collections.abc import Sequence

import pytest

from memwarden.model.findings import Assessment, PressureLevel
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.policy.rules import Policy, Rule

LOW, MODERATE, HIGH, CRITICAL = PressureLevel
LIMIT = Limit(1000, "cgroup /app")


def verdict(level: PressureLevel, used: int | None = 850) -> Assessment:
    """A verdict of this level."""
    binding = None if used is None else Constraint(LIMIT, used)
    return Assessment(level, level, binding, LIMIT, 150, 0.0)


def fired(policy: Policy, levels: Sequence[tuple[float, PressureLevel]]) -> list[float]:
    """The moments at which something was decided."""
    return [
        decision.monotonic
        for now, level in levels
        for decision in policy.decide(Sample(1e9 + now, now), verdict(level))
    ]


def rule(**changes: object) -> Rule:
    """A rule that fires at HIGH and then rests for a minute."""
    return Rule(**({"name": "r", "level": HIGH, "action": "notify"} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("level", "fires"), [(LOW, False), (MODERATE, False), (HIGH, True), (CRITICAL, True)], ids=lambda value: str(value)
)
def test_a_rule_fires_at_its_level_and_above(level: PressureLevel, fires: bool) -> None:
    """At least HIGH is HIGH and CRITICAL."""
    assert bool(fired(Policy([rule()]), [(0.0, level)])) is fires


def test_a_decision_says_who_what_why_and_when() -> None:
    """In words that hold the figures, with both clocks of the sample."""
    (decision,) = Policy([rule(name="mine")]).decide(Sample(7.5, 3.25), verdict(HIGH))
    assert (decision.rule, decision.action, decision.wall, decision.monotonic) == ("mine", "notify", 7.5, 3.25)
    assert decision.reason == "level HIGH: 85.0% of cgroup /app (1000 bytes)"
    assert (decision.target, decision.details) == (None, {})


def test_a_reason_without_figures_invents_none() -> None:
    """The level stayed while nothing could be read."""
    (decision,) = Policy([rule()]).decide(Sample(0.0, 0.0), verdict(HIGH, used=None))
    assert decision.reason == "level HIGH"


def test_a_rule_waits_until_its_level_lasts() -> None:
    """Ten seconds from the first one, counted anew after each break."""
    steps = [(0.0, HIGH), (9.9, CRITICAL), (10.0, HIGH)]
    assert fired(Policy([rule(sustain=10.0)]), steps) == [10.0]
    broken = [(0.0, HIGH), (5.0, MODERATE), (6.0, HIGH), (15.9, HIGH), (16.0, HIGH)]
    assert fired(Policy([rule(sustain=10.0)]), broken) == [16.0]


def test_a_rule_rests_after_acting() -> None:
    """For a minute, to the second; a break does not shorten it."""
    steps = [(0.0, HIGH), (1.0, HIGH), (30.0, LOW), (31.0, HIGH), (59.9, HIGH), (60.0, HIGH), (61.0, HIGH)]
    assert fired(Policy([rule()]), steps) == [0.0, 60.0]


def test_without_a_rest_it_fires_at_each_look() -> None:
    """Zero means none."""
    assert fired(Policy([rule(rest=0.0)]), [(0.0, HIGH), (0.1, HIGH)]) == [0.0, 0.1]


def test_rules_do_not_disturb_each_other() -> None:
    """Each remembers for itself, also where two have the same name; the order is that of the rules."""
    policy = Policy([rule(), rule(sustain=5.0, action="collect"), rule(name="other", level=CRITICAL)])
    first = policy.decide(Sample(0.0, 0.0), verdict(HIGH))
    later = policy.decide(Sample(0.0, 5.0), verdict(CRITICAL))
    assert [(each.rule, each.action) for each in first] == [("r", "notify")]
    assert [(each.rule, each.action) for each in later] == [("r", "collect"), ("other", "notify")]


def test_the_wall_clock_does_not_matter() -> None:
    """Somebody sets it back an hour: durations are on the other clock."""
    policy = Policy([rule(sustain=10.0)])
    assert policy.decide(Sample(9000.0, 0.0), verdict(HIGH)) == []
    assert len(policy.decide(Sample(5400.0, 10.0), verdict(HIGH))) == 1


def test_no_rules_decide_nothing() -> None:
    """The default."""
    assert Policy().decide(Sample(0.0, 0.0), verdict(CRITICAL)) == []


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (rule(), "when the level is at least HIGH, unless acted in the last 60 s, then notify"),
        (
            rule(level=CRITICAL, sustain=2.5, rest=600.0, action="collect"),
            "when the level is at least CRITICAL for 2.5 s, unless acted in the last 600 s, then collect",
        ),
        (rule(rest=0.0), "when the level is at least HIGH, then notify"),
    ],
)
def test_a_rule_can_be_read_aloud(made: Rule, text: str) -> None:
    """One sentence that says all of it, and nothing that does not hold."""
    assert str(made) == text
