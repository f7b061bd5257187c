"""Round values for the axis of a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator


def round_steps(low: float, high: float, base: int = 10) -> Iterator[float]:
    """Round values between the two, four to eight of them: 1, 2 or 5 times a power of ten; with base 1024 (bytes) 1, 2,
    5, 10… times one of 1024."""
    rough = (high - low) / 6
    unit = float(base) ** math.floor(math.log(rough, base)) if rough > 0 else 1.0
    rounds = (1, 2, 5, 10) if base == 10 else (1, 2, 5, 10, 20, 50, 100, 200, 500, 1024)
    step = next((unit * each for each in rounds if unit * each >= rough), unit * base)
    at = math.ceil(low / step)
    while at * step <= high:
        yield at * step
        at += 1
