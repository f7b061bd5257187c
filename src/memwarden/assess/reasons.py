"""Text of sizes and durations in the reasons of verdicts."""

from __future__ import annotations

from memwarden.model.verdicts import Forecast

#: Reason of a verdict without evidence of a leak.
NO_RISE = "the rolling minimum has not risen by a relevant share of the headroom"


def size_text(mib: float) -> str:
    """Return MiB with the digits that matter: ``"2.1 GiB"``, ``"212 MiB"``, ``"3.4 MiB"``."""
    if abs(mib) >= 1024:
        return f"{mib / 1024:.1f} GiB"
    return f"{mib:.0f} MiB" if abs(mib) >= 10 else f"{mib:.1f} MiB"


def duration_text(seconds: float) -> str:
    """Return ``"12 s"``, ``"3.5 min"``, ``"2.1 h"``, ``"4.0 d"``."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def time_left_text(forecast: Forecast) -> str:
    """Return ``"full in 2.1 h to 3.0 h"``."""
    low, high = duration_text(forecast.low), duration_text(forecast.high)
    return f"full in {low}" if low == high else f"full in {low} to {high}"
