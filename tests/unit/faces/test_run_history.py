"""History of a run."""

from __future__ import annotations

from memwarden.faces.cli.reports.run_history import RunHistory
from memwarden.model.events import Event, EventKind
from memwarden.model.exits import Evidence
from memwarden.model.limits import Limit
from memwarden.model.verdicts import Assessment, PressureLevel
from memwarden.testing import FakeClock, ScriptedReader

LIMIT = Limit(1000, "--limit")
AT_LIMIT = Evidence(monotonic=1003.0, used=1000, counted_by="cgroup")


def level(name: PressureLevel, monotonic: float) -> Event:
    assessment = Assessment(name, name, None, LIMIT, 0, monotonic)
    return Event(kind=EventKind.LEVEL, wall=0.0, monotonic=monotonic, value=assessment)


def test_the_limit_itself_is_the_last_level() -> None:
    """A tree that fills faster than it is looked at was CRITICAL all the same, when the ceiling stopped it."""
    history = RunHistory(ScriptedReader([{}]), FakeClock().monotonic)
    history.receive(level(PressureLevel.LOW, 1000.5))
    history.reached(AT_LIMIT, LIMIT)
    assert [(after, each.level) for after, each in history.levels] == [
        (0.5, PressureLevel.LOW),
        (3.0, PressureLevel.CRITICAL),
    ]
    assert history.points[-1] == (3.0, 1000)


def test_a_critical_level_is_reported_once() -> None:
    """The watch's own reading stands; only the chart gets the point."""
    history = RunHistory(ScriptedReader([{}]), FakeClock().monotonic)
    history.receive(level(PressureLevel.CRITICAL, 1002.0))
    history.reached(AT_LIMIT, LIMIT)
    assert len(history.levels) == 1
    assert history.points[-1] == (3.0, 1000)
