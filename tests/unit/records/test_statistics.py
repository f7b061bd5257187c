"""Figures over the whole watch and over the newest readings."""

from __future__ import annotations

import json
import threading
import tracemalloc
from typing import Any

import pytest

from memwarden.errors import SettingsError
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.serialize import iso
from memwarden.model.verdicts import Assessment, PressureLevel, Reading
from memwarden.protocols import Recorder
from memwarden.records.statistics import Figures, Peak, Statistics
from support.values import CLEARING, DECISION, WALL

LIMIT = Limit(1000, "machine")


def sample(used: int | None, now: float = 0.0, level: PressureLevel = PressureLevel.LOW) -> Event:
    """A reading of so much of 1000 bytes; None: nothing could be read."""
    binding = None if used is None else Constraint(LIMIT, used)
    available = None if used is None else 1000 - used
    assessment = Assessment(level, level, binding, None if used is None else LIMIT, available, 0.0)
    return reported(EventKind.SAMPLE, Reading(Sample(WALL + now, now), assessment), now)


def reported(kind: EventKind, value: Any = None, now: float = 0.0) -> Event:
    """An event."""
    return Event(kind=kind, wall=WALL + now, monotonic=now, value=value)


def fed(*events: Event, window: int = 100) -> Statistics:
    """Statistics of these events."""
    made = Statistics(window)
    for event in events:
        made.record(event)
    return made


def test_it_is_a_recorder() -> None:
    """It records and closes, and the figures outlive that."""
    made = fed(sample(1))
    assert isinstance(made, Recorder)
    made.close()
    assert made.figures.readings == 1


@pytest.mark.contract("S2-8")
def test_average_is_of_the_window_and_peak_and_least_of_all() -> None:
    """The first peak stands with its time; a later one of the same height does not replace it."""
    made = fed(*(sample(used, float(now)) for now, used in enumerate([500, 900, 100, 300, 900])), window=2).figures
    assert (made.readings, made.current, made.used, made.available) == (5, 0.9, 900, 100)
    assert made.average == pytest.approx(0.6)
    assert made.least == 0.1
    assert made.peak == Peak(900, 0.9, WALL + 1.0)
    assert made.limit == LIMIT


@pytest.mark.contract("S2-8")
def test_the_window_holds_a_hundred_readings() -> None:
    """By default."""
    assert fed(*(sample(n) for n in range(1, 301))).figures.average == pytest.approx(0.2505)


def test_nothing_is_invented() -> None:
    """Before the first reading, and for one that could not be read; the mean is of those that could."""
    assert Statistics().figures == Figures()
    assert Statistics().as_dict() == {
        "schema": 1,
        "type": "statistics",
        "readings": 0,
        "window_readings": 100,
        "level_seconds": {"low": 0.0, "moderate": 0.0, "high": 0.0, "critical": 0.0},
        "alerts": 0,
        "repeats": 0,
    }
    made = fed(sample(200), sample(None)).figures
    assert (made.readings, made.current, made.used, made.available, made.average) == (2, None, None, None, 0.2)


def test_the_time_at_each_level_is_counted() -> None:
    """From reading to reading; what lies between stop and start was not watched."""
    low, high = PressureLevel.LOW, PressureLevel.HIGH
    made = fed(
        sample(1, 10.0, low), sample(1, 15.0, high), sample(1, 16.0, high), sample(1, 18.5, low),
        reported(EventKind.STOP), reported(EventKind.START), sample(1, 1000.0, low), sample(1, 1001.0, low),
        sample(1, 500.0, low),
    )  # fmt: skip
    assert made.as_dict()["level_seconds"] == {"low": 6.0, "moderate": 0.0, "high": 3.5, "critical": 0.0}


@pytest.mark.contract("S2-14")
def test_alerts_are_counted_once_an_episode() -> None:
    """Several actions and steps of one rule are one alert, repetitions are counted apart, undoing is none."""

    def decided(rule: str = "r", **changes: Any) -> Event:
        return reported(EventKind.DECISION, DECISION._replace(**{"rule": rule, "repeat": 0, "undo": False, **changes}))

    made = fed(
        decided(), decided(action="collect"), decided("other"), decided(repeat=1), decided(repeat=1, action="collect"),
        decided(repeat=2), decided(undo=True), reported(EventKind.CLEARED, CLEARING), decided(),
    )  # fmt: skip
    assert (made.figures.alerts, made.figures.repeats) == (3, 2)


def test_as_plain_shows_its_units() -> None:
    """Everything, as JSON holds it."""
    made = fed(sample(900, 1.0), sample(300, 2.0), window=7)
    plain = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    assert plain == {
        "schema": 1,
        "type": "statistics",
        "readings": 2,
        "window_readings": 7,
        "current_ratio": 0.3,
        "average_ratio": pytest.approx(0.6),
        "least_ratio": 0.3,
        "peak_ratio": 0.9,
        "peak_used_bytes": 900,
        "peak_time": iso(WALL + 1.0),
        "used_bytes": 300,
        "available_bytes": 700,
        "limit_bytes": 1000,
        "limit_source": "machine",
        "level_seconds": {"low": 1.0, "moderate": 0.0, "high": 0.0, "critical": 0.0},
        "alerts": 0,
        "repeats": 0,
    }


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_nothing_is_refused(window: int) -> None:
    """There is no mean of nothing."""
    with pytest.raises(SettingsError):
        Statistics(window)


def test_memory_stays_flat() -> None:
    """Over a hundred thousand samples."""
    made, events = Statistics(), [sample(n, float(n)) for n in range(100)]
    for event in events * 10:
        made.record(event)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for event in events * 1000:
            made.record(event)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert made.figures.readings == 101_000
    assert grown < 20_000


def test_figures_can_be_read_while_they_are_made() -> None:
    """On another thread: always of one moment, never torn."""
    made, stop, faults = Statistics(window=1), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            figures = made.figures
            if figures.current is not None and not figures.current == figures.average == (figures.used or 0) / 1000:
                faults.append(figures)
            made.as_dict()

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(20_000):
        made.record(sample(number % 1000))
    stop.set()
    thread.join()
    assert faults == []
