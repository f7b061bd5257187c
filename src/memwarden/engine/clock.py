"""Time from the system."""

from __future__ import annotations

import time

from memwarden.protocols import Waitable


class SystemClock:
    """The wall clock, and a monotonic one that goes on through changes of the former."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def wait(event: Waitable, timeout: float) -> bool:
        """Wait for the event, ``timeout`` seconds at most."""
        return event.wait(timeout)
