"""State of a watch since its start: first sizes, the peak, the points of the chart, recent events."""

from __future__ import annotations

from collections import deque

from memwarden.assess.pressure import constraints
from memwarden.faces import render
from memwarden.model.decisions import Clearing, Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import Gap, ProcessKey, ProcessMemory
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, Reading
from memwarden.readers.command_lines import CommandLines

#: Seconds in a chart: the first of these that covers the whole watch, else the last; at least so many readings. Maximum
#: points kept for it.
CHART_SECONDS, CHART_READINGS, _POINTS = (60.0, 120.0, 300.0), 60, 1200
#: Maximum events and first sizes of processes that are kept.
_EVENTS, _PROCESSES = 64, 4096
#: Name of the chart series of the target.
WATCHED = "watched"


class WatchState:
    """State of a watch, updated by :meth:`add`."""

    def __init__(self, interval: float, commands: CommandLines | None = None) -> None:
        self.interval = interval
        self._spans = [max(seconds, interval * CHART_READINGS) for seconds in CHART_SECONDS]
        self.reading: Reading | None = None
        self.started = 0.0
        self.first_used: int | None = None
        #: Highest resident size of the target in a reading.
        self.peak = 0
        self.events: deque[Event] = deque(maxlen=_EVENTS)
        self._commands = CommandLines() if commands is None else commands
        self._first: dict[ProcessKey, int] = {}
        self._series: dict[str, deque[tuple[float, int]]] = {}

    def add(self, reading: Reading) -> None:
        """Add a reading."""
        sample = reading.sample
        if self.reading is None:
            self.started = sample.monotonic
        self.reading = reading
        used = sample.used
        if used is not None:
            if self.first_used is None:
                self.first_used = used
            self.peak = max(self.peak, used)
            self._point(WATCHED, sample.monotonic, used)
        for constraint in constraints(sample):
            self._point(constraint.limit.source, sample.monotonic, constraint.used)
        rows = processes(sample)
        for row in rows:
            self._first.setdefault(row.key, row.rss)
        if len(self._first) > _PROCESSES:
            present = {row.key for row in rows}
            self._first = {key: size for key, size in self._first.items() if key in present}

    def _point(self, name: str, when: float, used: int) -> None:
        points = self._series.setdefault(name, deque(maxlen=_POINTS))
        points.append((when, used))
        while points[0][0] < when - self._spans[-1]:
            points.popleft()

    def points(self, name: str) -> list[tuple[float, int]]:
        """Return a series of the chart: (seconds, bytes)."""
        return list(self._series.get(name, ()))

    @property
    def seconds(self) -> float:
        """Time from the first reading to the newest."""
        return 0.0 if self.reading is None else self.reading.sample.monotonic - self.started

    @property
    def chart_seconds(self) -> float:
        """Time that a chart shows now."""
        return next((span for span in self._spans if self.seconds < span), self._spans[-1])

    @property
    def growth(self) -> int | None:
        """Growth of the target since the start."""
        used = None if self.reading is None else self.reading.sample.used
        return None if used is None or self.first_used is None else used - self.first_used

    def command_of(self, key: ProcessKey) -> str:
        """Return the command line of a process."""
        return self._commands.of(key)

    def growth_of(self, process: ProcessMemory) -> int:
        """Return the growth of a process since its first reading."""
        return process.rss - self._first.get(process.key, process.rss)


def processes(sample: Sample) -> list[ProcessMemory]:
    """Return the processes of a sample, largest first: of the watched trees, else of the machine."""
    if sample.tree is not None:
        return sample.tree.rows()
    return [] if sample.top is None else sample.top.rows()


def shares(sample: Sample) -> dict[ProcessKey, tuple[int, float]]:
    """Return PSS and its age by process, where measured."""
    facts = sample.shares
    if facts is None or len(facts.pss) != len(facts.keys):
        return {}
    return {key: (pss, age) for key, pss, age in zip(facts.keys, facts.pss, facts.ages, strict=True)}


def gap_text(gap: Gap) -> str:
    """Return a gap as text: what is missing, why, where."""
    detail = f": {gap.detail}" if gap.detail else ""
    return render.printable(f"{gap.what}, {gap.why} at {gap.where}{detail}")


def event_text(event: Event) -> tuple[str, str] | None:
    """Return the kind and the message of an event for a person; None for one that repeats what the view shows."""
    value, kind, message = event.value, event.kind, event.message
    if kind in (EventKind.SAMPLE, EventKind.START, EventKind.STOP):
        return None
    if kind is EventKind.LEVEL and isinstance(value, Assessment) and value.binding is not None:
        message = f"{message}: {value.binding.ratio:.0%} of {value.binding.limit.source}"
    elif isinstance(value, Decision):
        action = f"undo {value.action}" if value.undo else value.action
        again = f", time {value.repeat + 1}" if value.repeat else ""
        message = f"{value.rule}: {value.reason} -> {action}{' (dry run)' if value.dry_run else ''}{again}"
    elif isinstance(value, Outcome):
        if value.done and value.decision.action == "notify":
            return None  # the decision was shown already
        message = f"{value.decision.rule}: {value.decision.action}: {value.message}"
    elif isinstance(value, Clearing):
        message = f"{value.rule} after {render.seconds(value.seconds)}: {value.reason}"
    return kind.value.replace("_", " "), render.printable(message)
