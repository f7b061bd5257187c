"""Events to Python's logging, as structured as the handler wants them.

A log record carries the event as a dict that JSON can hold in ``extra["memwarden"]``, and beside it flat keys for
filters and formats, None where there is nothing: ``memwarden_kind``, ``memwarden_level`` (the pressure level),
``memwarden_rule``. None of them can collide with an attribute of :class:`logging.LogRecord`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from memwarden.errors import RecordError
from memwarden.model.decisions import Clearing, Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.findings import Assessment, Reading
from memwarden.model.plain import to_plain

#: At which level a kind of event is logged; what is not named here is INFO.
LEVELS: Mapping[EventKind, int | None] = {
    EventKind.SAMPLE: logging.DEBUG,
    EventKind.GAP: logging.DEBUG,
    EventKind.GAP_CLOSED: logging.DEBUG,
    EventKind.TROUBLE: logging.WARNING,
    EventKind.OVERFLOW: logging.WARNING,
}


class LogRecorder:
    """Logs events to the logger ``memwarden``.

    ``levels`` says otherwise than :data:`LEVELS` for some kinds of event; None: not logged at all. An event whose
    level is not enabled costs next to nothing. Raises :class:`RecordError` for an event that cannot be written.
    """

    def __init__(self, levels: Mapping[EventKind, int | None] | None = None) -> None:
        self._levels = {**LEVELS, **(levels or {})}
        self._log = logging.getLogger("memwarden")

    def record(self, event: Event) -> None:
        """Log an event. Raises :class:`RecordError`."""
        level = self._levels.get(event.kind, logging.INFO)
        if level is not None and self._log.isEnabledFor(level):
            try:
                extra = extra_of(event)
            except Exception as error:  # the event's values are the caller's
                raise RecordError(
                    f"log: this {event.kind.value} cannot be written: {error!r}", path=self._log.name
                ) from error
            self._log.log(level, "%s", event.message or _told(event), extra=extra)

    def close(self) -> None:
        """Nothing is held; handlers belong to the program."""


def extra_of(event: Event) -> dict[str, Any]:
    """What a log record carries of an event."""
    value = event.value
    if isinstance(value, Reading):
        value = value.assessment
    decision = value.decision if isinstance(value, Outcome) else value
    return {
        "memwarden": to_plain(event),
        "memwarden_kind": event.kind.value,
        "memwarden_level": value.level.value if isinstance(value, Assessment) else None,
        "memwarden_rule": decision.rule if isinstance(decision, Decision | Clearing) else None,
    }


def _told(event: Event) -> str:
    """A line for an event that brings none of its own."""
    if not isinstance(event.value, Reading):
        return event.kind.value
    assessment = event.value.assessment
    binding = assessment.binding
    if binding is None or not binding.limit.bytes:
        return f"{event.kind.value}: {assessment.level.name}"
    return f"{event.kind.value}: {assessment.level.name}, {binding.ratio:.1%} of {binding.limit.source}"
