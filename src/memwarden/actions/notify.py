"""Telling somebody: the program's log."""

from __future__ import annotations

from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.log import extra_of, logger


class Notify:
    """Logs the decision's reason as a warning, and at the end of an episode that it is over.

    What the log record carries of the decision stands in :mod:`memwarden.model.log`.
    """

    name = "notify"
    harms = False

    def run(self, decision: Decision) -> Outcome:
        still = f" (still, told {decision.repeat + 1} times)" if decision.repeat else ""
        logger().warning("%s: %s%s", decision.rule, decision.reason, still, extra=_extra(decision))
        return Outcome(decision=decision, done=True, message="logged")

    def undo(self, decision: Decision) -> Outcome:
        """Logs that the rule holds no more."""
        logger().info("%s: over: %s", decision.rule, decision.reason, extra=_extra(decision))
        return Outcome(decision=decision, done=True, message="logged that it is over")


def _extra(decision: Decision) -> dict[str, object]:
    """Of the event that told of the decision."""
    return extra_of(Event(EventKind.DECISION, decision.wall, decision.monotonic, decision.reason, decision))
