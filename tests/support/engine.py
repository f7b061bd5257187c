"""Shared parts of the engine's tests: a recorder that keeps events, and checks for threads that are left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from memwarden.model.events import Event, EventKind

#: A machine so large that no assumed rate could fill it: the pace is the asked interval.
VAST = 1 << 50

#: How long a test waits for another thread before it fails.
SOON = 10.0


class Keeper:
    """A recorder that keeps what it gets; ``broken`` may hold an error to raise instead."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.broken: BaseException | None = None
        self.closed = 0
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def record(self, event: Event) -> None:
        """Keep an event, or raise what is ``broken``."""
        self.threads.add(threading.current_thread().name)
        if self.broken is not None:
            raise self.broken
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    __call__ = record

    def close(self) -> None:
        """Counted in ``closed``."""
        self.closed += 1

    def kinds(self) -> list[EventKind]:
        """The kinds of all events, in order."""
        return [event.kind for event in self.events]

    def of(self, kind: EventKind) -> list[Event]:
        """The events of one kind, in order."""
        return [event for event in self.events if event.kind is kind]

    def messages(self, kind: EventKind) -> list[str]:
        """What the events of one kind say."""
        return [event.message for event in self.of(kind)]

    def moments(self) -> list[float]:
        """When samples were taken, on the monotonic clock."""
        return [event.monotonic for event in self.of(EventKind.SAMPLE)]

    def wait_for(self, wanted: Callable[[], bool]) -> bool:
        """Wait until something is true of what was kept."""
        with self._changed:
            return self._changed.wait_for(wanted, SOON)


def our_threads() -> list[threading.Thread]:
    """The threads of all wardens."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("memwarden-")]


def no_thread_is_left() -> bool:
    """Whether all threads of wardens have ended, or do so soon."""
    until = time.monotonic() + SOON
    for thread in our_threads():
        thread.join(max(0.0, until - time.monotonic()))
    return not our_threads()


def soon(wanted: Callable[[], bool]) -> bool:
    """Wait until a condition holds; False where it does not in time."""
    until = time.monotonic() + SOON
    while not wanted():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
