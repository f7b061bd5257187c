"""What a task will need, and which kind of task it is."""

from __future__ import annotations

from typing import Literal, NamedTuple

#: How a task came to its end. ``killed_at``: it was ended before its peak was certain (killed, failed, cancelled), so
#: that what was seen is only the least that it needs.
TaskOutcome = Literal["finished", "killed_at"]


class TaskKey(NamedTuple):
    """A kind of task: those that are learned about together."""

    #: The function's qualified name, or whatever the user calls it.
    name: str
    #: Changes with the function's code; empty where nothing is known of it.
    version: str = ""


class Prediction(NamedTuple):
    """What a task should be given, and what that is based on."""

    #: Bytes to reserve.
    reserve: int
    #: Bytes that half of such tasks stay below.
    median: int
    #: Bytes above nearly everything that was seen: what a task gets that was killed once.
    most: int
    #: The share of such tasks that stay within ``reserve``, as far as was seen; None where nothing was.
    quantile: float | None
    #: How many finished tasks of this kind it rests upon.
    n: int
    #: How long half of them took at most, seconds; 0 where none finished.
    seconds: float
    #: ``none`` (a guess), ``low``, ``fair`` or ``good``.
    confidence: str
    #: What it rests upon, in words.
    why: str


class PastTask(NamedTuple):
    """A task that has ended: its size (NaN where it was not known), bytes at its peak, and seconds."""

    size: float
    peak: float
    seconds: float
    killed: bool
