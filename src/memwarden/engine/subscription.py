"""Subscriptions, and the messages that the dispatcher delivers to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from memwarden.model import log
from memwarden.model.events import Event, EventKind

Receiver = Callable[[Event], None]


class Subscription:
    """One receiver, and the state of its delivery."""

    def __init__(
        self,
        receiver: Receiver,
        label: str,
        close: Callable[[], None] | None = None,
        max_delay: float = 0.0,
        every_sample: bool = False,
        every: float | None = None,
    ) -> None:
        self.receiver, self.label, self.close, self.max_delay = receiver, label, close, max_delay
        self.every_sample, self.every = every_sample, every
        #: When it was made, and when its next sample is due, on the monotonic clock.
        self.since = self.due = -math.inf
        self.failing = False
        self.failing_on_trouble = False
        self.hanging = False
        self.removed = False


class Message:
    """An event for all subscriptions (or for ``receivers``, which still lack it), or a call."""

    __slots__ = ("between", "call", "event", "is_sample", "label", "receivers")

    def __init__(
        self,
        event: Event | None = None,
        call: Callable[[], None] | None = None,
        label: str = "",
        receivers: Sequence[Subscription] | None = None,
        between: bool = False,
    ) -> None:
        self.event, self.call, self.label, self.receivers = event, call, label, receivers
        #: Whether it is a sample between two of the asked interval.
        self.between = between
        self.is_sample = event is not None and event.kind is EventKind.SAMPLE


def label_of(receiver: Any) -> str:
    """Return a name for a callable, to report it when it raises or hangs."""
    name = getattr(receiver, "__qualname__", None) or type(receiver).__qualname__
    module = getattr(receiver, "__module__", None)
    return f"{module}.{name}" if module else str(name)


def close_quietly(part: Any) -> None:
    """Close a reader, recorder or action; what that raises is logged, so that the next can be closed."""
    try:
        part.close()
    except Exception as error:  # noqa: BLE001 - parts of users may raise anything
        log.warn("%s could not be closed: %r", label_of(part), error)


def write_log(event: Event) -> None:
    """Write an event to the program's log; a receiver where no recorder does so."""
    if event.kind in (EventKind.TROUBLE, EventKind.OVERFLOW):
        log.warn("%s", event.message, event=event)
    elif event.kind in (EventKind.GAP, EventKind.LEVEL, EventKind.LEAK, EventKind.GAP_CLOSED):
        log.debug("%s", event.message, event=event)
