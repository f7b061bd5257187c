"""How a quantity looks: decided once, for every screen."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from memwarden.model.text import printable as printable
from memwarden.model.units import seconds_text, size_text
from memwarden.model.verdicts import LeakStage, PressureLevel

#: A level's colour, in the words that terminals have.
COLOURS = {
    PressureLevel.LOW: "green",
    PressureLevel.MODERATE: "yellow",
    PressureLevel.HIGH: "bright_red",
    PressureLevel.CRITICAL: "red",
}
#: The colour of a leak verdict.
LEAK_COLOURS = {LeakStage.NONE: "green", LeakStage.SUSPECTED: "yellow", LeakStage.CONFIRMED: "red"}
#: A level's sign, fuller the nearer the limit is, so that it is told without colour, too.
GLYPHS = {
    PressureLevel.LOW: "░",
    PressureLevel.MODERATE: "▒",
    PressureLevel.HIGH: "▓",
    PressureLevel.CRITICAL: "█",
}
_ASCII_GLYPHS = dict(zip(PressureLevel, ".-=#", strict=True))
#: Bytes as text: the same in every message and on every screen.
size = size_text
#: A duration as text: ``12 ms``, ``3.2 s``, ``4 min 05 s``, ``2 h 03 min``.
seconds = seconds_text

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉█"
_ASCII = "  ..::##@"


def limit(count: int) -> str:
    """A limit as it would be written: whole numbers without a fraction."""
    text = size(count)
    number, unit = text.split(" ")
    return f"{float(number):g} {unit}"


def clock(wall: float) -> str:
    """A time of day."""
    return datetime.fromtimestamp(wall).astimezone().strftime("%H:%M:%S")


def glyph(level: PressureLevel, *, blocks: bool = True) -> str:
    """A level's sign."""
    return (GLYPHS if blocks else _ASCII_GLYPHS)[level]


def growth(count: int) -> str:
    """A change in bytes, with its sign; ``0 B`` where nothing changed."""
    return f"{'+' if count > 0 else '-' if count else ''}{size(abs(count))}"


def cells(text: str) -> int:
    """How many columns of a terminal a text takes: East Asian wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_cells(each) for each in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """The text in exactly so many columns: cut, or filled up with blanks."""
    if cells(text) > width:
        kept, used = [], 0
        for each in text:
            used += _cells(each)
            if used > width:
                break
            kept.append(each)
        text = "".join(kept)
    return text + " " * (width - cells(text))


def bar(share: float, width: int, *, blocks: bool = True) -> tuple[str, str]:
    """A share as a bar ``width`` wide: the filled and the empty part. Something is never nothing."""
    share = min(1.0, max(0.0, share))
    if not blocks:
        filled = min(width, round(share * width) or (share > 0))
        return "#" * filled, "-" * (width - filled)
    eighths = min(width * 8, round(share * width * 8) or (share > 0))
    filled, part = divmod(eighths, 8)
    text = "█" * filled + (_PARTS[part] if part else "")
    return text, "░" * (width - len(text))


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
    points: Sequence[tuple[float, int]],
    ceiling: int | None,
    *,
    width: int = 60,
    rows: int = 5,
    blocks: bool = True,
    span: float | None = None,
) -> list[str]:
    """Bytes over time as a small area chart; ``points`` are (seconds, bytes) in order, ``ceiling`` a line on top.

    Each column shows the largest value of its share of time, so that a short peak is never lost; a share
    without a point repeats the one before. With ``span`` the chart shows that many seconds up to the last point,
    and stands still but for what moves on: its columns are multiples of their width in time, and empty before the
    first point.
    """
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return []
    begin, end = points[0][0], points[-1][0]
    columns: list[int | None] = [None] * width
    for when, used in points:
        if span is None:
            at = min(width - 1, int((when - begin) / (end - begin) * width))
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
    told = seconds(end - begin) if span is None else f"last {seconds(span).removesuffix(' 00 s')}"
    lines.append(f"{'0':>10} {corner}{line * (width - len(told) - 1)} {told}")
    return lines
