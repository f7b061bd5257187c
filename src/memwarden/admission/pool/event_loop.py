"""One loop over file descriptors with a callback each."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import Protocol

__all__ = ["EVENT_READ", "EVENT_WRITE", "EventLoop", "HasFileno"]

Callback = Callable[[int], object]


class HasFileno(Protocol):
    """Anything with a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...


class EventLoop:
    """Callbacks of descriptors, each called with the events that are ready.

    On ``poll``: ``epoll`` would be one more descriptor and shared with forked children.
    """

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()

    def register(self, file: int | HasFileno, callback: Callback, events: int = EVENT_READ) -> None:
        """Call ``callback(events)`` when one of ``events`` is ready."""
        self._selector.register(file, events, callback)

    def modify(self, file: int | HasFileno, events: int) -> None:
        """Change the events of a registered descriptor."""
        self._selector.modify(file, events, self._selector.get_key(file).data)

    def unregister(self, file: int | HasFileno) -> None:
        """Remove a descriptor; nothing for one that is not registered."""
        if file in self._selector.get_map():
            self._selector.unregister(file)

    def run_once(self, timeout: float | None) -> bool:
        """Wait for events for at most ``timeout`` seconds and call the callbacks; False without events."""
        ready = self._selector.select(timeout)
        registered = self._selector.get_map()
        for key, events in ready:
            # An earlier callback may have closed this descriptor, and another file may have got its number.
            current = registered.get(key.fd)
            if current is not None and current.data is key.data:
                key.data(events)
        return bool(ready)

    def close(self) -> None:
        """Forget all callbacks, which refer to their owners."""
        self._selector.close()
