"""What happened to a batch: how it went over time, and what it cost to keep it within its budget."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from memwarden.model.serialize import iso

#: Moments that are kept; with more, every second one goes.
_MOST = 2048
#: As often as that at first, seconds.
_EVERY = 0.02


class BatchPoint(NamedTuple):
    """How it stood: seconds since the first task began, tasks, and bytes."""

    seconds: float
    running: int
    paused: int
    waiting: int
    #: Promised to the tasks that run, and really used by them.
    reserved: int
    used: int
    budget: int


class TaskIncident(NamedTuple):
    """A task that was ended, or ended itself, and what became of it."""

    seconds: float
    number: int
    name: str
    kind: str
    #: Bytes that it was seen with, and had been given.
    seen: int
    reserved: int
    why: str
    #: Whether it was put back.
    again: bool


class BatchReport(NamedTuple):
    """A batch as a value. Times are seconds, sizes bytes."""

    began: float
    makespan: float
    budget: int
    #: ``"cgroup1"``, ``"cgroup2"`` or ``"polling"``: what held the workers beside looking.
    backstop: str
    workers: int
    submitted: int
    finished: int
    failed: int
    cancelled: int
    pauses: int
    kills: int
    kernel_kills: int
    requeues: int
    retired: int
    #: Together: how long tasks ran, and how long they stood still.
    run_seconds: float
    paused_seconds: float
    peak_used: int
    peak_reserved: int
    most_running: int
    #: Mean tasks at once, and the mean share of what was reserved that was used.
    concurrency: float
    used_share: float
    moments: tuple[BatchPoint, ...]
    setbacks: tuple[TaskIncident, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        told = self._asdict()
        for name in ("budget", "peak_used", "peak_reserved"):
            told[f"{name}_bytes"] = told.pop(name)
        told["makespan_seconds"] = round(told.pop("makespan"), 6)
        told["began"] = iso(self.began)
        told["moments"] = {
            "seconds": [round(each.seconds, 4) for each in self.moments],
            "running": [each.running for each in self.moments],
            "paused": [each.paused for each in self.moments],
            "waiting": [each.waiting for each in self.moments],
            "reserved_bytes": [each.reserved for each in self.moments],
            "used_bytes": [each.used for each in self.moments],
            "budget_bytes": [each.budget for each in self.moments],
        }
        told["setbacks"] = [
            {
                "seconds": round(each.seconds, 4),
                "task": each.number,
                "name": each.name,
                "kind": each.kind,
                "seen_bytes": each.seen,
                "reserved_bytes": each.reserved,
                "why": each.why,
                "again": each.again,
            }
            for each in self.setbacks
        ]
        return {"schema": 1, "type": "batch", **told}


class BatchStats:
    """Writes down a batch as it goes."""

    def __init__(self) -> None:
        self.submitted = self.finished = self.failed = self.cancelled = 0
        self.pauses = self.kills = self.requeues = self.retired = 0
        self.run_seconds = self.paused_seconds = 0.0
        self.peak_used = self.peak_reserved = self.most_running = 0
        self._began = 0.0
        self._first: float | None = None
        self._last = 0.0
        self._moments: list[BatchPoint] = []
        #: The last one, kept or not.
        self._now: BatchPoint | None = None
        self._setbacks: list[TaskIncident] = []
        self._every = _EVERY
        self._sums = [0.0, 0.0, 0.0, 0.0]  # seconds; and of running, used, reserved, times seconds

    def begin(self, now: float) -> None:
        """A task begins (the first one counts)."""
        if self._first is None:
            self._first = self._last = now
            self._began = time.time()

    def note(self, now: float, running: int, paused: int, waiting: int, reserved: int, used: int, budget: int) -> None:
        """How it stands now."""
        if self._first is None:
            return
        passed, self._last = now - self._last, now
        for at, value in enumerate((1.0, running, used, reserved)):
            self._sums[at] += passed * value
        self.paused_seconds += passed * paused
        self.peak_used = max(self.peak_used, used)
        self.peak_reserved = max(self.peak_reserved, reserved)
        self.most_running = max(self.most_running, running)
        self._now = BatchPoint(now - self._first, running, paused, waiting, reserved, used, budget)
        if not self._moments or self._now.seconds - self._moments[-1].seconds >= self._every:
            self._moments.append(self._now)
            if len(self._moments) > _MOST:
                del self._moments[1::2]
                self._every *= 2

    def setback(
        self, now: float, number: int, name: str, kind: str, seen: int, reserved: int, why: str, *, again: bool
    ) -> None:
        """A task was ended before it had finished."""
        self.requeues += again
        if len(self._setbacks) < _MOST:
            self._setbacks.append(
                TaskIncident(now - (self._first or now), number, name, kind, seen, reserved, why, again)
            )

    def report(self, budget: int, backstop: str, workers: int, kernel_kills: int) -> BatchReport:
        """What is known until now."""
        seconds, running, used, reserved = self._sums
        moments = tuple(self._moments)
        if self._now is not None and (not moments or moments[-1].seconds < self._now.seconds):
            moments += (self._now,)
        return BatchReport(
            self._began,
            0.0 if self._first is None else self._last - self._first,
            budget,
            backstop,
            workers,
            self.submitted,
            self.finished,
            self.failed,
            self.cancelled,
            self.pauses,
            self.kills,
            kernel_kills,
            self.requeues,
            self.retired,
            round(self.run_seconds, 6),
            round(self.paused_seconds, 6),
            self.peak_used,
            self.peak_reserved,
            self.most_running,
            round(running / seconds, 4) if seconds else 0.0,
            round(used / reserved, 4) if reserved else 0.0,
            moments,
            tuple(self._setbacks),
        )
