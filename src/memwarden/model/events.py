"""Events, for recorders and subscribers."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple


class EventKind(Enum):
    """Kind of an event."""

    START = "start"
    STOP = "stop"
    SAMPLE = "sample"
    LEVEL = "level"
    #: A leak verdict was entered or left.
    LEAK = "leak"
    DECISION = "decision"
    OUTCOME = "outcome"
    #: A rule that had fired holds no more.
    CLEARED = "cleared"
    #: The rules were replaced while watching.
    RULES = "rules"
    GAP = "gap"
    GAP_CLOSED = "gap_closed"
    #: A recorder, action or callback raised, hangs, or works again; sampling goes on.
    TROUBLE = "trouble"
    #: The dispatcher fell behind and samples were dropped (never events).
    OVERFLOW = "overflow"
    #: A contained command, or a process that is watched, exited.
    EXIT = "exit"


class Event(NamedTuple):
    """One thing that happened. ``value`` is the value that it is about (a Sample, an Assessment, …), if any."""

    kind: EventKind
    wall: float
    monotonic: float
    message: str = ""
    value: Any = None
    details: dict[str, Any] | None = None
