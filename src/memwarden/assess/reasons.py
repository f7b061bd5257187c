"""Sizes and times as the reasons of verdicts name them."""

from __future__ import annotations

from memwarden.model.verdicts import Forecast

#: The reason of a verdict that nothing is held against.
NO_RISE = "the floor has not risen by a share of the room worth telling"


def size_words(mib: float) -> str:
    """MiB with as many digits as matter: ``"2.1 GiB"``, ``"212 MiB"``, ``"3.4 MiB"``."""
    if abs(mib) >= 1024:
        return f"{mib / 1024:.1f} GiB"
    return f"{mib:.0f} MiB" if abs(mib) >= 10 else f"{mib:.1f} MiB"


def duration(seconds: float) -> str:
    """``"12 s"``, ``"3.5 min"``, ``"2.1 h"``, ``"4.0 d"``."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def left_words(forecast: Forecast) -> str:
    """``"full in 2.1 h to 3.0 h"``."""
    low, high = duration(forecast.low), duration(forecast.high)
    return f"full in {low}" if low == high else f"full in {low} to {high}"
