"""Tasks of an executor: the call and its future, and its memory from submission to end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from memwarden.model.footprints import Prediction, TaskKey

#: A task grows when its peak rises by more than 1 % and 64 KiB.
GROWTH, _LEAST_GROWTH = 0.01, 65536
#: Seconds between samples of which a rate can be told: a page in 30 µs is no gigabyte per second.
LEAST_INTERVAL = 0.001


class WorkItem:
    """A submitted call, its future, its memory needs and its attempts."""

    __slots__ = (
        "args", "attempts", "blocked_since", "exclusive", "fn", "future", "kind", "kwargs", "name", "number", "peak",
        "predicted_at", "prediction", "program_failed", "requested", "reserve", "running", "sent_at", "size",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        kind: TaskKey,
        size: float | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        requested: int = 0,
        name: str = "",
    ) -> None:
        self.number, self.kind, self.size = number, kind, size
        self.fn, self.args, self.kwargs = fn, args, kwargs or {}
        self.future: Future[Any] = Future()
        #: The future is set to running and can no longer be cancelled.
        self.running = False
        self.name = name or f"task {number}"
        #: Bytes that the caller asked for; 0: the prediction decides.
        self.requested = requested
        self.attempts = 0
        #: Time since when the item is the first of the queue and cannot start.
        self.blocked_since: float | None = None
        #: One attempt failed in a program that it started, perhaps for want of memory.
        self.program_failed = False
        self.sent_at = 0.0
        #: Largest peak of the attempts that were killed, bytes.
        self.peak = 0
        #: The task needs the whole budget and runs without others.
        self.exclusive = False
        self.reserve = requested
        self.prediction: Prediction | None = None
        self.predicted_at = 0.0

    @property
    def label(self) -> str:
        """Name and kind, for messages."""
        return f"{self.name} ({self.kind.name})"


class RunningTask:
    """A started task: its lease (the bytes reserved for it), its use and its growth."""

    __slots__ = ("grew_at", "item", "lease", "paused", "peak", "rate", "sampled_at", "started", "used")

    def __init__(self, item: WorkItem, lease: int, now: float) -> None:
        self.item, self.lease = item, lease
        self.used = self.peak = 0
        #: Growth in bytes per second between the last two samples.
        self.rate = 0.0
        self.paused = False
        self.restart(now)

    def restart(self, now: float) -> None:
        """Count the time from now."""
        self.started = self.grew_at = self.sampled_at = now

    @property
    def held(self) -> int:
        """Bytes that are not available to others."""
        return max(self.lease, self.used)

    def update(self, used: int, now: float) -> None:
        """Record a sample of ``used`` bytes."""
        passed = now - self.sampled_at
        if passed >= LEAST_INTERVAL:
            self.rate = max(0.0, (used - self.used) / passed)
            self.sampled_at = now
        if used > self.peak * (1 + GROWTH) + _LEAST_GROWTH:
            self.grew_at = now
        self.used = used
        self.peak = max(self.peak, used)
