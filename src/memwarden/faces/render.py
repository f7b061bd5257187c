"""Quantities as text, bars and charts, the same in all output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from memwarden.model.text import printable as printable
from memwarden.model.units import seconds_text, size_text
from memwarden.model.verdicts import LeakStage, PressureLevel

#: Terminal colour of each pressure level.
COLOURS = {
    PressureLevel.LOW: "green",
    PressureLevel.MODERATE: "yellow",
    PressureLevel.HIGH: "bright_red",
    PressureLevel.CRITICAL: "red",
}
#: Terminal colour of each leak verdict.
LEAK_COLOURS = {LeakStage.NONE: "green", LeakStage.SUSPECTED: "yellow", LeakStage.CONFIRMED: "red"}
#: Glyph of each pressure level, so that levels differ without colour, too.
GLYPHS = {
    PressureLevel.LOW: "░",
    PressureLevel.MODERATE: "▒",
    PressureLevel.HIGH: "▓",
    PressureLevel.CRITICAL: "█",
}
_ASCII_GLYPHS = dict(zip(PressureLevel, ".-=#", strict=True))
#: Bytes as text: ``512.0 MiB``.
size = size_text
#: A duration as text: ``12 ms``, ``3.2 s``, ``4 min 05 s``, ``2 h 03 min``.
seconds = seconds_text

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉█"
_ASCII = "  ..::##@"


def limit(count: int) -> str:
    """Return a limit as text, whole numbers without a fraction: ``512 MiB``."""
    text = size(count)
    number, unit = text.split(" ")
    return f"{float(number):g} {unit}"


def clock(wall: float) -> str:
    """Return the local time of day."""
    return datetime.fromtimestamp(wall).astimezone().strftime("%H:%M:%S")


def glyph(level: PressureLevel, *, blocks: bool = True) -> str:
    """Return the glyph of a pressure level."""
    return (GLYPHS if blocks else _ASCII_GLYPHS)[level]


def growth(count: int) -> str:
    """Return a change in bytes with its sign; ``0 B`` for no change."""
    return f"{'+' if count > 0 else '-' if count else ''}{size(abs(count))}"


def cells(text: str) -> int:
    """Return the width of a text on a terminal: East Asian wide characters take two columns, combining ones none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, width: int) -> str:
    """Return the text cut or padded to a width in columns."""
    if text.isascii():
        return text[:width].ljust(width)
    from rich.cells import set_cell_size

    return set_cell_size(text, width)


def bar(share: float, width: int, *, blocks: bool = True) -> tuple[str, str]:
    """Return a bar of a ratio: its filled and its empty part. A ratio above 0 fills at least one step."""
    share = min(1.0, max(0.0, share))
    if not blocks:
        filled = min(width, round(share * width) or (share > 0))
        return "#" * filled, "-" * (width - filled)
    eighths = min(width * 8, round(share * width * 8) or (share > 0))
    filled, part = divmod(eighths, 8)
    text = "█" * filled + (_PARTS[part] if part else "")
    return text, "░" * (width - len(text))


def can_draw(stream: TextIO) -> bool:
    """Return True where the stream can encode block characters (an ASCII log or an old console cannot)."""
    try:
        "▁█─".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def wants_colour(stream: TextIO) -> bool:
    """Return True for a terminal with colours, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def chart(
    points: Sequence[tuple[float, int]],
    ceiling: int | None,
    *,
    width: int = 60,
    rows: int = 5,
    blocks: bool = True,
    span: float | None = None,
) -> list[str]:
    """Return an area chart of ``points``, which are (seconds, bytes) in order; ``ceiling`` is on the scale.

    A column shows the largest value of its time, or repeats the column before. With ``span`` the chart shows that many
    seconds up to the last point, empty before the first one; columns are aligned to multiples of their width in time,
    so that the chart scrolls and does not flicker.
    """
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return []
    start, end = points[0][0], points[-1][0]
    columns: list[int | None] = [None] * width
    for when, used in points:
        if span is None:
            at = min(width - 1, int((when - start) / (end - start) * width))
        else:
            at = width - 1 - int(end * width // span) + int(when * width // span)
            if at < 0:
                continue
        columns[at] = max(used, columns[at] or 0)
    filled: list[int] = []
    for column in columns:
        filled.append(column if column is not None else filled[-1] if filled else -1)
    most = max(max(filled), ceiling or 0) or 1
    glyphs = _BLOCKS if blocks else _ASCII
    axis, corner, line = ("│", "└", "─") if blocks else ("|", "+", "-")
    lines = []
    for row in range(rows, 0, -1):
        label = size(most) if row == rows else ""
        cells = []
        for used in filled:
            eighths = round(used / most * rows * 8) - (row - 1) * 8
            cells.append(glyphs[max(0, min(8, eighths))])
        lines.append(f"{label:>10} {axis}{''.join(cells).rstrip()}")
    scale = seconds(end - start) if span is None else f"last {seconds(span).removesuffix(' 00 s')}"
    lines.append(f"{'0':>10} {corner}{line * (width - len(scale) - 1)} {scale}")
    return lines
