"""What a watch remembers since it began: where everything started, its highest, its course, and what happened."""

from __future__ import annotations

from collections import deque

from memwarden.assess.pressure import constraints
from memwarden.faces import render
from memwarden.model.decisions import Clearing, Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import ProcessKey, ProcessMemory
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, Reading
from memwarden.readers.command_lines import CommandLines

#: What a chart shows, in seconds: the first of these that holds all that was seen, and then the last. At least so
#: many readings; and the points kept for it at most.
CHART_SECONDS, CHART_READINGS, _POINTS = (60.0, 120.0, 300.0), 60, 1200
#: Events that are remembered, and processes whose first size is.
_EVENTS, _PROCESSES = 64, 4096
#: What is watched, in a chart.
WATCHED = "watched"


class WatchState:
    """The course of a watch."""

    def __init__(self, interval: float, commands: CommandLines | None = None) -> None:
        self.interval = interval
        self._spans = [max(seconds, interval * CHART_READINGS) for seconds in CHART_SECONDS]
        self.reading: Reading | None = None
        self.began = 0.0
        self.first_used: int | None = None
        #: The highest that the watched held when it was looked at.
        self.peak = 0
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self._commands = CommandLines() if commands is None else commands
        self._first: dict[ProcessKey, int] = {}
        self._series: dict[str, deque[tuple[float, int]]] = {}

    def take(self, reading: Reading) -> None:
        """Take in a reading."""
        sample = reading.sample
        if self.reading is None:
            self.began = sample.monotonic
        self.reading = reading
        used = sample.used
        if used is not None:
            if self.first_used is None:
                self.first_used = used
            self.peak = max(self.peak, used)
            self._point(WATCHED, sample.monotonic, used)
        for constraint in constraints(sample):
            self._point(constraint.limit.source, sample.monotonic, constraint.used)
        for row in processes(sample):
            self._first.setdefault(row.key, row.rss)
        if len(self._first) > _PROCESSES:
            present = {row.key for row in processes(sample)}
            self._first = {key: size for key, size in self._first.items() if key in present}

    def _point(self, name: str, when: float, used: int) -> None:
        points = self._series.setdefault(name, deque(maxlen=_POINTS))
        points.append((when, used))
        while points[0][0] < when - self._spans[-1]:
            points.popleft()

    def points(self, name: str) -> list[tuple[float, int]]:
        """What a chart of it shows."""
        return list(self._series.get(name, ()))

    @property
    def seconds(self) -> float:
        """How long it goes on, from the first reading to the newest."""
        return 0.0 if self.reading is None else self.reading.sample.monotonic - self.began

    @property
    def shown(self) -> float:
        """How many seconds a chart shows now."""
        return next((span for span in self._spans if self.seconds < span), self._spans[-1])

    @property
    def growth(self) -> int | None:
        """What the watched grew by since the beginning."""
        used = None if self.reading is None else self.reading.sample.used
        return None if used is None or self.first_used is None else used - self.first_used

    def command_of(self, key: ProcessKey) -> str:
        """What a process was started with."""
        return self._commands.of(key)

    def growth_of(self, process: ProcessMemory) -> int:
        """What a process grew by since it was first seen."""
        return process.rss - self._first.get(process.key, process.rss)


def processes(sample: Sample) -> list[ProcessMemory]:
    """The processes that a sample tells of, largest first: of the watched trees, else of the machine."""
    if sample.tree is not None:
        return sample.tree.rows()
    return [] if sample.top is None else sample.top.rows()


def shares(sample: Sample) -> dict[ProcessKey, tuple[int, float]]:
    """PSS and its age, of each process that was measured."""
    told = sample.shares
    if told is None or len(told.pss) != len(told.keys):
        return {}
    return {key: (pss, age) for key, pss, age in zip(told.keys, told.pss, told.ages, strict=True)}


def told(event: Event) -> tuple[str, str] | None:
    """An event for a person: its word and its sentence; None for one that says nothing new to somebody who looks on."""
    value, kind = event.value, event.kind
    sentence = event.message
    if kind in (EventKind.SAMPLE, EventKind.START, EventKind.STOP):
        return None
    if kind is EventKind.LEVEL and isinstance(value, Assessment) and value.binding is not None:
        sentence = f"{sentence}: {value.binding.ratio:.0%} of {value.binding.limit.source}"
    elif isinstance(value, Decision):
        what = f"take back {value.action}" if value.undo else value.action
        again = f", time {value.repeat + 1}" if value.repeat else ""
        sentence = f"{value.rule}: {value.reason} -> {what}{' (dry run)' if value.dry_run else ''}{again}"
    elif isinstance(value, Outcome):
        if value.done and value.decision.action == "notify":
            return None  # the decision was the telling
        sentence = f"{value.decision.rule}: {value.decision.action}: {value.message}"
    elif isinstance(value, Clearing):
        sentence = f"{value.rule} after {render.seconds(value.seconds)}: {value.reason}"
    return kind.value.replace("_", " "), render.printable(sentence)
