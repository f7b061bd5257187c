"""The text of quantities."""

from __future__ import annotations

import io

import pytest

from memwarden.faces import render
from memwarden.model.units import GIB, MIB, TIB


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (512 * MIB, "512.0 MiB"),
        (2 * GIB, "2.00 GiB"),
        (3 * TIB, "3.00 TiB"),
    ],
)
def test_sizes_are_in_the_largest_unit_that_leaves_one(count: int, text: str) -> None:
    """Powers of 1024, and named so."""
    assert render.size(count) == text


def test_a_limit_looks_as_it_is_written() -> None:
    """Whole numbers carry no fraction."""
    assert (render.limit(512 * MIB), render.limit(3 * GIB // 2)) == ("512 MiB", "1.5 GiB")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0.0004, "0 ms"), (0.012, "12 ms"), (3.21, "3.2 s"), (245, "4 min 05 s"), (7380, "2 h 03 min")],
)
def test_durations_have_the_unit_that_people_use(count: float, text: str) -> None:
    """From milliseconds to hours."""
    assert render.seconds(count) == text


def test_the_chart_keeps_a_short_peak() -> None:
    """One point in a thousand is the highest column, whatever is left out."""
    points = [(at / 100, 10 * MIB) for at in range(1000)]
    points[437] = (4.37, 100 * MIB)
    lines = render.chart(points, None, width=50, rows=4)
    assert lines[0].count("█") == 1
    assert lines[0].strip().startswith("100.0 MiB")
    assert lines[0].index("█") - lines[0].index("│") - 1 == 21
    assert lines[-1].endswith("10.0 s")


def test_the_chart_fits_where_only_ascii_does() -> None:
    """No character that a plain log could not hold."""
    lines = render.chart([(0.0, 1), (1.0, 50), (2.0, 100)], 200, blocks=False)
    assert "\n".join(lines).isascii()
    assert any("@" in line for line in lines)


@pytest.mark.parametrize("points", [[], [(0.0, 5)], [(1.0, 5), (1.0, 6)]])
def test_too_little_makes_no_chart(points: list[tuple[float, int]]) -> None:
    """Nothing is drawn from one moment."""
    assert render.chart(points, None) == []


def test_block_characters_only_where_the_stream_takes_them() -> None:
    """An ASCII log gets ASCII."""
    assert render.can_draw(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not render.can_draw(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert not render.can_draw(io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour needs a terminal and the absence of NO_COLOR."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert render.wants_colour(Tty())
    assert not render.wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not render.wants_colour(Tty())
