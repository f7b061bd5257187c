"""Report of a batch: samples over time, and the pauses, kills and retries that kept it within the budget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from memwarden.model.serialize import iso

if TYPE_CHECKING:
    from memwarden.admission.pool.task import WorkItem

#: Points and incidents that are kept; with more points, every second one is dropped.
_MOST = 2048
#: Seconds between points at first.
_INTERVAL = 0.02
_COUNTERS = (
    "submitted", "finished", "failed", "cancelled", "pauses", "kills", "requeues", "retired", "peak_used",
    "peak_reserved", "most_running",
)  # fmt: skip


class BatchPoint(NamedTuple):
    """One sample: seconds since the first task started, numbers of tasks, and bytes."""

    seconds: float
    running: int
    paused: int
    pending: int
    #: Reserved for the running tasks, and used by them.
    reserved: int
    used: int
    budget: int


class TaskIncident(NamedTuple):
    """A failed or killed attempt of a task."""

    seconds: float
    number: int
    name: str
    kind: str
    #: Bytes that the attempt used at its peak, and that were reserved for it.
    peak: int
    reserved: int
    reason: str
    #: The task was requeued.
    retried: bool


class BatchReport(NamedTuple):
    """A batch as a value. Times are seconds, sizes bytes."""

    started: float
    makespan: float
    budget: int
    #: ``"cgroup1"``, ``"cgroup2"`` or ``"polling"``: what enforces the budget beside the sampling.
    enforcement: str
    workers: int
    submitted: int
    finished: int
    failed: int
    cancelled: int
    pauses: int
    kills: int
    kernel_kills: int
    requeues: int
    #: Workers that were replaced or no longer needed.
    retired: int
    #: Sum over all tasks.
    run_seconds: float
    paused_seconds: float
    peak_used: int
    peak_reserved: int
    most_running: int
    #: Mean number of running tasks, and mean share of the reserved bytes that was used.
    concurrency: float
    used_share: float
    points: tuple[BatchPoint, ...]
    incidents: tuple[TaskIncident, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-safe values; names of sizes end in ``_bytes``."""
        fields = self._asdict()
        for name in ("budget", "peak_used", "peak_reserved"):
            fields[f"{name}_bytes"] = fields.pop(name)
        fields["makespan_seconds"] = round(fields.pop("makespan"), 6)
        fields["started"] = iso(self.started)
        sizes = {"reserved": "reserved_bytes", "used": "used_bytes", "budget": "budget_bytes", "peak": "peak_bytes"}
        fields["points"] = {
            sizes.get(name, name): [round(getattr(point, name), 4) for point in self.points]
            for name in BatchPoint._fields
        }
        fields["incidents"] = [
            {sizes.get(name, name): value for name, value in incident._asdict().items()}
            | {"seconds": round(incident.seconds, 4)}
            for incident in self.incidents
        ]
        return {"schema": 1, "type": "batch", **fields}


class BatchStats:
    """Counters, points and incidents of a batch while it runs."""

    def __init__(self) -> None:
        self.submitted = self.finished = self.failed = self.cancelled = 0
        self.pauses = self.kills = self.requeues = self.retired = 0
        self.run_seconds = self.paused_seconds = 0.0
        self.peak_used = self.peak_reserved = self.most_running = 0
        self._started = 0.0
        self._first: float | None = None
        self._last = 0.0
        self._points: list[BatchPoint] = []
        #: The latest point, kept or not.
        self._latest: BatchPoint | None = None
        self._incidents: list[TaskIncident] = []
        self._interval = _INTERVAL
        #: Seconds; and running tasks, used and reserved bytes, multiplied by seconds.
        self._sums = [0.0, 0.0, 0.0, 0.0]

    def start(self, now: float) -> None:
        """Record the start of a task; the first one starts the batch."""
        if self._first is None:
            self._first = self._last = now
            self._started = time.time()

    def record_point(
        self, now: float, running: int, paused: int, pending: int, reserved: int, used: int, budget: int
    ) -> None:
        """Record one sample."""
        if self._first is None:
            return
        passed, self._last = now - self._last, now
        for at, value in enumerate((1.0, running, used, reserved)):
            self._sums[at] += passed * value
        self.paused_seconds += passed * paused
        self.peak_used = max(self.peak_used, used)
        self.peak_reserved = max(self.peak_reserved, reserved)
        self.most_running = max(self.most_running, running)
        self._latest = BatchPoint(now - self._first, running, paused, pending, reserved, used, budget)
        if not self._points or self._latest.seconds - self._points[-1].seconds >= self._interval:
            self._points.append(self._latest)
            if len(self._points) > _MOST:
                del self._points[1::2]
                self._interval *= 2

    def record_incident(
        self, now: float, item: WorkItem, peak: int, reserved: int, reason: str, *, retried: bool
    ) -> None:
        """Record an attempt that failed or was killed."""
        self.requeues += retried
        if len(self._incidents) < _MOST:
            seconds = now - (self._first or now)
            self._incidents.append(
                TaskIncident(seconds, item.number, item.name, item.kind.name, peak, reserved, reason, retried)
            )

    def report(self, budget: int, enforcement: str, workers: int, kernel_kills: int) -> BatchReport:
        """Return the report until now."""
        seconds, running, used, reserved = self._sums
        points = tuple(self._points)
        if self._latest is not None and (not points or points[-1].seconds < self._latest.seconds):
            points += (self._latest,)
        return BatchReport(
            started=self._started,
            makespan=0.0 if self._first is None else self._last - self._first,
            budget=budget,
            enforcement=enforcement,
            workers=workers,
            kernel_kills=kernel_kills,
            run_seconds=round(self.run_seconds, 6),
            paused_seconds=round(self.paused_seconds, 6),
            concurrency=round(running / seconds, 4) if seconds else 0.0,
            used_share=round(used / reserved, 4) if reserved else 0.0,
            points=points,
            incidents=tuple(self._incidents),
            **{name: getattr(self, name) for name in _COUNTERS},
        )
