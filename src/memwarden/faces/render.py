"""How a quantity looks: decided once, for every screen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from memwarden.model.findings import PressureLevel
from memwarden.model.units import size_text

#: A level's colour, in the words that terminals have.
COLOURS = {
    PressureLevel.LOW: "green",
    PressureLevel.MODERATE: "yellow",
    PressureLevel.HIGH: "bright_red",
    PressureLevel.CRITICAL: "red",
}
#: Bytes as text: the same in every message and on every screen.
size = size_text

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = "  ..::##@"


def limit(count: int) -> str:
    """A limit as it would be written: whole numbers without a fraction."""
    text = size(count)
    number, unit = text.split(" ")
    return f"{float(number):g} {unit}"


def seconds(count: float) -> str:
    """A duration: ``12 ms``, ``3.2 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if count < 0.9995:
        return f"{count * 1000:.0f} ms"
    if count < 60:
        return f"{count:.1f} s"
    whole = round(count)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def clock(wall: float) -> str:
    """A time of day."""
    return datetime.fromtimestamp(wall).astimezone().strftime("%H:%M:%S")


def can_draw(stream: TextIO) -> bool:
    """Whether the stream takes block characters (a log in ASCII or an old console does not)."""
    try:
        "▁█─".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def wants_colour(stream: TextIO) -> bool:
    """Colour goes to terminals that have it, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def chart(
    points: Sequence[tuple[float, int]], ceiling: int | None, *, width: int = 60, rows: int = 5, blocks: bool = True
) -> list[str]:
    """Bytes over time as a small area chart; ``points`` are (seconds, bytes) in order, ``ceiling`` a line on top.

    Each column shows the largest value of its share of time, so that a short peak is never lost; a share
    without a point repeats the one before.
    """
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return []
    begin, end = points[0][0], points[-1][0]
    columns: list[int | None] = [None] * width
    for when, used in points:
        at = min(width - 1, int((when - begin) / (end - begin) * width))
        columns[at] = max(used, columns[at] or 0)
    filled: list[int] = []
    for column in columns:
        filled.append(column if column is not None else filled[-1])
    most = max(max(filled), ceiling or 0) or 1
    glyphs = _BLOCKS if blocks else _ASCII
    bar, corner, line = ("│", "└", "─") if blocks else ("|", "+", "-")
    lines = []
    for row in range(rows, 0, -1):
        label = size(most) if row == rows else ""
        cells = []
        for used in filled:
            eighths = round(used / most * rows * 8) - (row - 1) * 8
            cells.append(glyphs[max(0, min(8, eighths))])
        lines.append(f"{label:>10} {bar}{''.join(cells).rstrip()}")
    span = seconds(end - begin)
    lines.append(f"{'0':>10} {corner}{line * (width - len(span) - 1)} {span}")
    return lines
