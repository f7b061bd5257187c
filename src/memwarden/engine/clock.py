"""Time from the system."""

from __future__ import annotations

import time


class SystemClock:
    """The wall clock, and a monotonic one that goes on through changes of the former."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
