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
    #: How bad it is, for those who tell people: ``"info"``, ``"warning"`` or ``"critical"``.
    severity: str = "warning"
    target: ProcessKey | None = None
    #: Which time this is since the rule began to hold: 0 for the first, then each repetition after its rest.
    repeat: int = 0
    #: The rule holds no more: take back what was done (resume, open, tell that it is over).
    undo: bool = False
    #: Only say what would be done.
    dry_run: bool = False
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearing:
    """A rule that had fired holds no more."""

    rule: str
    reason: str
    wall: float
    monotonic: float
    #: How long it held.
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a decision. ``done`` is False when it was only rehearsed or could not be done."""

    decision: Decision
    done: bool
    message: str
    seconds: float = 0.0
