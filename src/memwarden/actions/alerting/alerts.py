"""Alerts over services such as Slack, e-mail, Telegram or PagerDuty, through Apprise. Needs the extra ``alerts``.

The address of a service contains its password, so no part of one is ever shown: a target is named by its number and
its kind, ``alerts 2 (mailto)``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from memwarden.actions.alerting.outbox import (
    FIRST,
    LONGEST,
    PATIENCE,
    RESOLVED,
    Message,
    Outbox,
    OutboxAction,
    Undelivered,
)
from memwarden.actions.alerting.payload import captured_logs, is_test, one_line, text_of
from memwarden.errors import ExtraMissing, SettingsError
from memwarden.model.units import parse_duration

#: Apprise's notification type for each severity.
_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}


class Alerts(OutboxAction):
    """Sends each state change (firing, resolved) to each of ``urls``, addresses as Apprise defines them.

    Each address has a queue of its own that keeps order and retries until the service accepts, as that of a
    :class:`~memwarden.actions.alerting.webhook.Webhook`. Raises :class:`SettingsError` for an address that Apprise
    does not know, and :class:`ExtraMissing` without Apprise.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        retry: float | str = FIRST,
        longest: float | str = LONGEST,
        patience: float | str = PATIENCE,
        name: str = "alerts",
    ) -> None:
        try:
            import apprise
        except ImportError:
            raise ExtraMissing("alerts", "alerts") from None
        given: list[object] = [urls] if isinstance(urls, str) else list(urls)
        if not given:
            raise SettingsError("alerts urls: none was given; write one like mailto://user:password@example.org")
        asset = apprise.AppriseAsset(app_id="memwarden", app_desc="memwarden")
        outboxes = []
        for place, url in enumerate(given, 1):
            with captured_logs(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # it loads its services now, and some are old
                service = apprise.Apprise.instantiate(url, asset=asset) if isinstance(url, str) else None
            if not isinstance(url, str) or service is None:
                raise SettingsError(
                    f"alerts urls: Apprise does not understand number {place}; write one like "
                    "mailto://user:password@example.org, as its list of services says"
                )
            outboxes.append(
                Outbox(
                    f"{name} {place} ({url.partition(':')[0].lower()})",
                    "memwarden-alerts",
                    text_of,
                    _sender(service, url),
                    first=parse_duration(retry),
                    longest=parse_duration(longest),
                )
            )
        super().__init__(name, outboxes, parse_duration(patience))


def _sender(service: Any, url: str) -> Callable[[Message, float | None], None]:
    def send(message: Message, seconds: float | None) -> None:
        title = f"memwarden: {message.rule} {message.state}"
        # The service itself, not Apprise.notify: that one has threads and deadlines of its own, and may send after it
        # has reported a failure. A service's own timeouts are 4 s to connect and 4 s to answer.
        with captured_logs() as logged:
            accepted = service.notify(
                title=one_line(title), body=message.payload, notify_type=_type(message), body_format="text"
            )
        if not accepted:
            raise Undelivered(_redacted(url, logged[-1]) if logged else "the service did not accept it")

    return send


def _type(message: Message) -> str:
    if is_test(message.decision):
        return "info"
    if message.state == RESOLVED:
        return "success"
    return _TYPES.get(message.decision.severity, "warning")


def _redacted(url: str, text: str) -> str:
    """Return the text without any part of an address but its scheme."""
    from urllib.parse import unquote

    _, _, rest = url.partition(":")
    parts = {part for part in re.split(r"[/:@?&=+#,;]+", rest) if len(part) > 2}
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "…")
    return " ".join(text.split())
