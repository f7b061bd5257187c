"""Decisions as data, and their outcomes."""

from __future__ import annotations

from typing import Any, NamedTuple

from memwarden.model.facts import ProcessKey


class Decision(NamedTuple):
    """A rule fired: this action shall run, for this reason."""

    rule: str
    action: str
    reason: str
    wall: float
    monotonic: float
    #: For alerts: ``"info"``, ``"warning"`` or ``"critical"``.
    severity: str = "warning"
    target: ProcessKey | None = None
    #: Number of the decision since the rule holds: 0 for the first, then each repetition after its rest.
    repeat: int = 0
    #: The rule holds no more: undo what was done (resume, open, report that it is over).
    undo: bool = False
    #: Only report what would be done.
    dry_run: bool = False
    details: dict[str, Any] | None = None


class Clearing(NamedTuple):
    """A rule that had fired holds no more."""

    rule: str
    reason: str
    wall: float
    monotonic: float
    #: Seconds that it held.
    seconds: float


class Outcome(NamedTuple):
    """Outcome of a decision. ``done`` is False when it was only rehearsed or could not be done."""

    decision: Decision
    done: bool
    message: str
    seconds: float = 0.0
