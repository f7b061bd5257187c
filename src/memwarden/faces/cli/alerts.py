"""``memwarden alerts test``: does an alert really arrive?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from memwarden.actions.outbox import Outbox
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision

#: How long a target may take: longer than one try, shorter than a person's patience.
SECONDS = 15.0


def send_test(webhooks: Sequence[str], services: Sequence[str], secret_file: str | None, *, as_json: bool) -> int:
    """Send one alert, marked as a test, to each target; returns 0 when all of them took it, else 1.

    Raises :class:`SettingsError` where there is no target, or one that cannot be understood.
    """
    if not webhooks and not services:
        raise SettingsError(
            "alerts test: no target; give --webhook URL or --alerts URL, or set MEMWARDEN_WEBHOOK or MEMWARDEN_ALERTS"
        )
    outboxes = _targets(webhooks, services, secret_file)
    until = time.monotonic() + SECONDS
    decision = Decision(
        rule="test",
        action="alerts",
        reason="somebody tries whether alerts arrive; nothing is wrong",
        wall=time.time(),
        monotonic=time.monotonic(),
        details={"test": True},
    )
    for outbox in outboxes:
        outbox.take(decision)
    results = [_result(outbox, until) for outbox in outboxes]
    for outbox in outboxes:
        outbox.close(time.monotonic())
    if as_json:
        print(json.dumps({"schema": 1, "targets": results}))
    else:
        for each in results:
            word = "delivered" if each["delivered"] else "not delivered"
            print(f"{word:<13}  {each['target']}  {each['why']}".rstrip())
    return 0 if all(each["delivered"] for each in results) else 1


def _targets(webhooks: Sequence[str], services: Sequence[str], secret_file: str | None) -> list[Outbox]:
    outboxes = []
    if webhooks:
        from memwarden.actions.webhook import Webhook

        secret = _secret(secret_file)
        outboxes += [Webhook(url, secret=secret).outbox for url in webhooks]
    if services:
        from memwarden.actions.alerts import Alerts

        outboxes += Alerts(services).outboxes
    return outboxes


def _secret(path: str | None) -> str | None:
    """From the file, else from the environment: a flag would show it to everybody who lists processes."""
    if path is None:
        return os.environ.get("MEMWARDEN_WEBHOOK_SECRET") or None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--webhook-secret-file: {path}: {getattr(error, 'strerror', None) or error}") from None


def _result(outbox: Outbox, until: float) -> dict[str, Any]:
    delivered = outbox.settle(max(0.0, until - time.monotonic()))
    why = "" if delivered else outbox.trouble or f"no answer within {SECONDS:g} s"
    return {"target": outbox.label, "delivered": delivered, "why": why}
