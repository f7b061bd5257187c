"""Telling somebody: the program's log."""

from __future__ import annotations

import logging

from memwarden.model.decisions import Decision, Outcome

_log = logging.getLogger("memwarden")


class Notify:
    """Logs the decision's reason as a warning; the decision travels in ``extra["memwarden"]``."""

    name = "notify"

    def run(self, decision: Decision) -> Outcome:
        _log.warning("%s: %s", decision.rule, decision.reason, extra={"memwarden": decision})
        return Outcome(decision=decision, done=True, message="logged")
