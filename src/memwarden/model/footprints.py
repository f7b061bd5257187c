"""Predictions of tasks' peak memory."""

from __future__ import annotations

from typing import Literal, NamedTuple

#: The end of a task. ``killed_at``: it ended before its peak was certain (killed, failed, cancelled), so that its
#: memory is only a lower bound.
TaskOutcome = Literal["finished", "killed_at"]


class TaskKey(NamedTuple):
    """Key of the tasks that are learned about together."""

    #: The function's qualified name, or a name that the user gives.
    name: str
    #: Changes with the function's code; empty where that is not known.
    version: str = ""


class Prediction(NamedTuple):
    """Memory that a task should reserve, and the reason."""

    #: Bytes to reserve.
    reserve: int
    #: Median peak of such tasks, bytes.
    median: int
    #: Bytes above nearly every known peak, for a task that was killed once.
    most: int
    #: Share of known tasks within ``reserve``; None where none is known.
    quantile: float | None
    #: Number of finished tasks that it is based on.
    n: int
    #: Median run time, seconds; 0 where none finished.
    seconds: float
    #: ``none`` (a guess), ``low``, ``fair`` or ``good``.
    confidence: str
    #: Reason for people.
    why: str


class PastTask(NamedTuple):
    """A task that has ended: its size (NaN where unknown), peak in bytes, and seconds."""

    size: float
    peak: float
    seconds: float
    killed: bool
