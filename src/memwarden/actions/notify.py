"""Telling somebody: the program's log."""

from __future__ import annotations

import logging

from memwarden.model.decisions import Decision, Outcome

_log = logging.getLogger("memwarden")


class Notify:
    """Logs the decision's reason as a warning, and at the end of an episode that it is over.

    The decision travels in ``extra["memwarden"]``.
    """

    name = "notify"
    harms = False

    def run(self, decision: Decision) -> Outcome:
        still = f" (still, told {decision.repeat + 1} times)" if decision.repeat else ""
        _log.warning("%s: %s%s", decision.rule, decision.reason, still, extra={"memwarden": decision})
        return Outcome(decision=decision, done=True, message="logged")

    def undo(self, decision: Decision) -> Outcome:
        """Logs that the rule holds no more."""
        _log.info("%s: over: %s", decision.rule, decision.reason, extra={"memwarden": decision})
        return Outcome(decision=decision, done=True, message="logged that it is over")
