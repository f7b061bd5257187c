"""Records for the program's log: under one name, ``memwarden``, and in one shape.

A log record about an event carries it as a dict that JSON can hold in ``extra["memwarden"]``. Every record has
that key and flat ones for filters and formats, None where there is nothing: ``memwarden_kind``, ``memwarden_level``
(the pressure level), ``memwarden_rule``. None of them can collide with an attribute of :class:`logging.LogRecord`.

``logging`` costs 7 ms and half a MiB to import, so that waits until there is something to log; most programs
have it by then.
"""

from __future__ import annotations

import sys
from typing import Any

from memwarden.model.events import Event

_DEBUG = 10  # logging.DEBUG


def error(message: str, *arguments: object) -> None:
    """Log a failure that a user has to correct."""
    logger().error(message, *arguments, extra=extra_of(None))


def warn(message: str, *arguments: object, event: Event | None = None) -> None:
    """Log a warning, about ``event`` where one is given."""
    logger().warning(message, *arguments, extra=extra_of(event))


def debug(message: str, *arguments: object, event: Event | None = None) -> None:
    """Log a detail, where the program has imported ``logging``."""
    if "logging" in sys.modules and (log := logger()).isEnabledFor(_DEBUG):
        log.debug(message, *arguments, extra=extra_of(event))


def logger() -> Any:
    """Return the logger. Where the program has configured none, nothing is printed."""
    import logging

    found = logging.getLogger("memwarden")
    if not any(isinstance(handler, logging.NullHandler) for handler in found.handlers):
        found.addHandler(logging.NullHandler())
    return found


def extra_of(event: Event | None) -> dict[str, Any]:
    """Return the keys of a log record about an event, or about none."""
    if event is None:
        return dict.fromkeys(("memwarden", "memwarden_kind", "memwarden_level", "memwarden_rule"))
    from memwarden.model.decisions import Clearing, Decision, Outcome
    from memwarden.model.serialize import to_dict
    from memwarden.model.verdicts import Assessment, Reading

    value = event.value
    if isinstance(value, Reading):
        value = value.assessment
    decision = value.decision if isinstance(value, Outcome) else value
    return {
        "memwarden": to_dict(event),
        "memwarden_kind": event.kind.value,
        "memwarden_level": value.level.value if isinstance(value, Assessment) else None,
        "memwarden_rule": decision.rule if isinstance(decision, Decision | Clearing) else None,
    }
