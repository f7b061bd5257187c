"""``memwarden alerts test``: send a test alert."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from memwarden.actions.alerting.outbox import Outbox, close_all
from memwarden.errors import SettingsError
from memwarden.faces.cli.configured_actions import actions_of
from memwarden.model.decisions import Decision
from memwarden.settings import resolve

#: Seconds that a target may take: longer than one attempt.
SECONDS = 15.0


def send_test(flags: Mapping[str, Any], *, as_json: bool) -> int:
    """Send one alert, marked as a test, to each target of the settings; return 0 if all accepted it, else 1.

    Raises :class:`SettingsError` if there is no target, or an invalid one.
    """
    outboxes = [outbox for action in actions_of(resolve(flags, os.environ)) for outbox in action.outboxes]
    if not outboxes:
        raise SettingsError(
            "alerts test: no target is set; give --webhook URL or --alerts URL, set MEMWARDEN_WEBHOOK or "
            "MEMWARDEN_ALERTS, or write webhook or alerts in a settings file"
        )
    until = time.monotonic() + SECONDS
    decision = Decision(
        rule="test",
        action="alerts",
        reason="a test of the alerts; nothing is wrong",
        wall=time.time(),
        monotonic=time.monotonic(),
        details={"test": True},
    )
    for outbox in outboxes:
        outbox.enqueue(decision)
    results = [_result(outbox, until) for outbox in outboxes]
    close_all(outboxes, 0.0)
    if as_json:
        print(json.dumps({"schema": 1, "targets": results}))
    else:
        for each in results:
            word = "delivered" if each["delivered"] else "not delivered"
            print(f"{word:<13}  {each['target']}  {each['why']}".rstrip())
    return 0 if all(each["delivered"] for each in results) else 1


def _result(outbox: Outbox, until: float) -> dict[str, Any]:
    delivered = outbox.settle(max(0.0, until - time.monotonic()))
    why = "" if delivered else outbox.trouble or f"no answer within {SECONDS:g} s"
    return {"target": outbox.label, "delivered": delivered, "why": why}
