"""Recorder that writes events to Python's logging; :mod:`memwarden.model.log` has the fields of a log record."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.model.log import extra_of, logger
from memwarden.model.verdicts import Reading

#: Log level for each kind of event, by default INFO; None: not logged.
LEVELS: Mapping[EventKind, int | None] = {
    EventKind.SAMPLE: logging.DEBUG,
    EventKind.GAP: logging.DEBUG,
    EventKind.GAP_CLOSED: logging.DEBUG,
    EventKind.TROUBLE: logging.WARNING,
    EventKind.OVERFLOW: logging.WARNING,
}


class LogRecorder:
    """Logs events to the logger ``memwarden``, where a warden by itself logs only trouble and changes.

    ``levels`` overrides :data:`LEVELS` for some kinds of event; None: not logged at all. Raises
    :class:`RecordError` for an event that cannot be written.
    """

    #: See :class:`memwarden.protocols.Recorder`.
    logs = True

    def __init__(self, levels: Mapping[EventKind, int | None] | None = None) -> None:
        self._levels = {**LEVELS, **(levels or {})}
        self._log = logger()

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
            self._log.log(level, "%s", event.message or _message(event), extra=extra)

    def close(self) -> None:
        """Do nothing: handlers belong to the program."""


def _message(event: Event) -> str:
    """Return a message for an event that has none."""
    if not isinstance(event.value, Reading):
        return event.kind.value
    assessment = event.value.assessment
    binding = assessment.binding
    if binding is None or not binding.limit.bytes:
        return f"{event.kind.value}: {assessment.level.name}"
    return f"{event.kind.value}: {assessment.level.name}, {binding.ratio:.1%} of {binding.limit.source}"
