"""What shall be done, as data, and what came of it."""

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
    #: How bad it is, for those who tell people: ``"info"``, ``"warning"`` or ``"critical"``.
    severity: str = "warning"
    target: ProcessKey | None = None
    #: Which time this is since the rule began to hold: 0 for the first, then each repetition after its rest.
    repeat: int = 0
    #: The rule holds no more: take back what was done (resume, open, tell that it is over).
    undo: bool = False
    #: Only say what would be done.
    dry_run: bool = False
    details: dict[str, Any] | None = None


class Clearing(NamedTuple):
    """A rule that had fired holds no more."""

    rule: str
    reason: str
    wall: float
    monotonic: float
    #: How long it held.
    seconds: float


class Outcome(NamedTuple):
    """What came of a decision. ``done`` is False when it was only rehearsed or could not be done."""

    decision: Decision
    done: bool
    message: str
    seconds: float = 0.0
