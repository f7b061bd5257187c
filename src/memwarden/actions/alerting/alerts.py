"""Telling people over the services that they use (Slack, e-mail, Telegram, PagerDuty …), through Apprise.

The address of a service holds its password, so no part of one is ever shown: a target is called by its place
and its kind, ``alerts 2 (mailto)``. Needs the extra ``alerts``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from memwarden.actions.alerting.outbox import (
    FIRST,
    LONGEST,
    MOST,
    PATIENCE,
    RESOLVED,
    Message,
    Outbox,
    Undelivered,
    close_all,
    take_all,
)  # fmt: skip
from memwarden.actions.alerting.webhook import is_test, one_line, text_of
from memwarden.errors import ExtraMissing, SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.units import parse_duration

#: Who may write down an address, or a part of it, while something is sent.
_TALKATIVE = ("apprise", "urllib3.connectionpool")
#: Apprise's words for how bad it is, by ours.
_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}


class Alerts:
    """Tells each state change (firing, resolved) to every one of ``urls``, addresses as Apprise understands them.

    Each address has a queue of its own that keeps order and tries until the service takes it, as a
    :class:`~memwarden.actions.alerting.webhook.Webhook` does. Raises :class:`SettingsError` for an address that Apprise
    does not understand, and :class:`ExtraMissing` where it is not installed.
    """

    #: It tells, and changes nothing: also in a dry run.
    harms = False

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        retry: float | str = FIRST,
        longest: float | str = LONGEST,
        patience: float | str = PATIENCE,
        reminders: bool = False,
        most: int = MOST,
        name: str = "alerts",
    ) -> None:
        try:
            import apprise
        except ImportError:
            raise ExtraMissing("alerts", "alerts") from None
        self.name = name
        given: list[object] = [urls] if isinstance(urls, str) else list(urls)
        if not given:
            raise SettingsError("alerts urls: none was given; write one like mailto://user:password@example.org")
        self._patience = parse_duration(patience)
        asset = apprise.AppriseAsset(app_id="memwarden", app_desc="memwarden")
        self.outboxes: list[Outbox] = []
        for place, url in enumerate(given, 1):
            with _overheard(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # it loads its services now, and some are old
                service = apprise.Apprise.instantiate(url, asset=asset) if isinstance(url, str) else None
            if not isinstance(url, str) or service is None:
                raise SettingsError(
                    f"alerts urls: Apprise does not understand number {place}; write one like "
                    "mailto://user:password@example.org, as its list of services says"
                )
            kind = url.partition(":")[0].lower()
            self.outboxes.append(
                Outbox(
                    f"{name} {place} ({kind})",
                    "memwarden-alerts",
                    text_of,
                    _sender(service, url),
                    reminders=reminders,
                    first=parse_duration(retry),
                    longest=parse_duration(longest),
                    patience=self._patience,
                    most=most,
                )
            )

    def __repr__(self) -> str:
        return f"Alerts({', '.join(outbox.label for outbox in self.outboxes)})"

    def run(self, decision: Decision) -> Outcome:
        """Queue that a rule fires."""
        return take_all(self.outboxes, decision)

    def undo(self, decision: Decision) -> Outcome:
        """Queue that it is resolved, where it was told that it fires."""
        return self.run(decision)

    def close(self) -> None:
        """Deliver what waits within ``patience``; what is left is named in the log."""
        close_all(self.outboxes, self._patience)


def _sender(service: Any, url: str) -> Callable[[Message, float | None], None]:
    def send(letter: Message, seconds: float | None) -> None:
        title = f"memwarden: {letter.rule} {letter.state}"
        # The service itself, not Apprise.notify: that one has threads and deadlines of its own, and may send after
        # it has said that it did not. A service's own time-outs are 4 s to connect and 4 s to answer.
        with _overheard() as heard:
            taken = service.notify(
                title=one_line(title), body=letter.payload, notify_type=_type(letter), body_format="text"
            )
        if not taken:
            raise Undelivered(_without(url, heard[-1]) if heard else "the service did not take it")

    return send


def _type(letter: Message) -> str:
    if is_test(letter.decision):
        return "info"
    if letter.state == RESOLVED:
        return "success"
    return _TYPES.get(letter.decision.severity, "warning")


class _Overhears(logging.Filter):
    """Hears what is logged on this thread, and keeps it from going further."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING:
            self.heard.append(record.getMessage())
        return False


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """What Apprise has to complain of; none of it reaches the program's log, where it would tell the address."""
    ear = _Overhears()
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in loggers:
        logger.addFilter(ear)
    try:
        yield ear.heard
    finally:
        for logger in loggers:
            logger.removeFilter(ear)


def _without(url: str, text: str) -> str:
    """The text with no part of an address but its scheme."""
    from urllib.parse import unquote

    _, _, rest = url.partition(":")
    parts = {part for part in re.split(r"[/:@?&=+#,;]+", rest) if len(part) > 2}
    parts |= {unquote(part) for part in parts}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "…")
    return " ".join(text.split())
