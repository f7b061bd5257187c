"""The action that writes to the program's log."""

from __future__ import annotations

from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.log import extra_of, logger


class Notify:
    """Logs the decision's reason as a warning, and the end of an episode.

    :mod:`memwarden.model.log` describes the fields of the log record.
    """

    name = "notify"
    harms = False

    def run(self, decision: Decision) -> Outcome:
        still = f" (still, logged {decision.repeat + 1} times)" if decision.repeat else ""
        logger().warning("%s: %s%s", decision.rule, decision.reason, still, extra=_extra(decision))
        return Outcome(decision=decision, done=True, message="logged")

    def undo(self, decision: Decision) -> Outcome:
        """Log that the condition is over."""
        logger().info("%s: over: %s", decision.rule, decision.reason, extra=_extra(decision))
        return Outcome(decision=decision, done=True, message="logged that it is over")


def _extra(decision: Decision) -> dict[str, object]:
    """Return the log record's extra fields for the decision."""
    return extra_of(Event(EventKind.DECISION, decision.wall, decision.monotonic, decision.reason, decision))
