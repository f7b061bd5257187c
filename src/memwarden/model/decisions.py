"""What shall be done, as data, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memwarden.model.facts import ProcessKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A rule fired: this action shall run, for this reason."""

    rule: str
    action: str
    reason: str
    wall: float
    monotonic: float
    target: ProcessKey | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a decision. ``done`` is False when it was only rehearsed or could not be done."""

    decision: Decision
    done: bool
    message: str
    seconds: float = 0.0
