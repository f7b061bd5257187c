"""Points and lines as an SVG picture that stands by itself: no script, no font, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from memwarden.faces import render
from memwarden.model.scale import round_steps

WIDTH, HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 20, 70, 50
#: Told apart by people who do not see all colours (Okabe and Ito), and by shape and dashes.
_COLOURS = ("#0072b2", "#d55e00")


class Points(NamedTuple):
    """(x, bytes) pairs under one name; ``upwards`` ones are drawn as triangles: the truth is above."""

    name: str
    at: Sequence[tuple[float, float]]
    upwards: bool = False


class Line(NamedTuple):
    """(x, bytes) pairs in the order of x."""

    name: str
    at: Sequence[tuple[float, float]]
    dashed: bool = False


def scatter(title: str, subtitle: str, *, points: Sequence[Points], lines: Sequence[Line]) -> str:
    """The picture. There must be a point or a line."""
    everything = [pair for at in (*(each.at for each in points), *(line.at for line in lines)) for pair in at]
    low, high = min(x for x, _ in everything), max(x for x, _ in everything)
    if high <= low:
        low, high = low - 1, high + 1
    most = max(y for _, y in everything) * 1.05 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)
        return across, HEIGHT - _BOTTOM - y / most * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{_escaped(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="15" fill="#222222">{_escaped(title)}</text>',
        f'<text x="{_LEFT}" y="38" fill="#555555">{_escaped(subtitle)}</text>',
    ]
    for step in round_steps(0.0, most, 1024):
        _, y = place(low, step)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#dddddd"/>')
        label = render.limit(int(step)) if step else "0"
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{label}</text>')
    for step in round_steps(low, high, 10):
        x, _ = place(step, 0.0)
        words = f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle" fill="#555555">{step:g}</text>'
        parts.append(words)
    for at, each in enumerate(points):
        colour = _COLOURS[at % 2]
        for pair in each.at:
            x, y = place(*pair)
            if each.upwards:
                parts.append(f'<path d="M{x - 4:.1f} {y + 3:.1f}h8l-4 -7z" fill="{colour}"/>')
            else:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}" fill-opacity="0.5"/>')
    for line in lines:
        path = "L".join("{:.1f} {:.1f}".format(*place(*pair)) for pair in line.at)
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        parts.append(f'<path d="M{path}" fill="none" stroke="#222222" stroke-width="1.5"{dashes}/>')
    parts += _legend(points, lines)
    return "\n".join([*parts, "</svg>"])


def _legend(points: Sequence[Points], lines: Sequence[Line]) -> Iterator[str]:
    x, y = _LEFT, 54
    for at, each in enumerate(points):
        if each.at:
            mark = f'<path d="M{x} {y + 4}h8l-4 -7z"' if each.upwards else f'<circle cx="{x + 4}" cy="{y}" r="3"'
            yield f'{mark} fill="{_COLOURS[at % 2]}"/>'
            yield f'<text x="{x + 14}" y="{y + 4}" fill="#222222">{_escaped(each.name)}</text>'
            x += 30 + 7 * len(each.name)
    for line in lines:
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        yield f'<path d="M{x} {y}h24" stroke="#222222" stroke-width="1.5"{dashes}/>'
        yield f'<text x="{x + 30}" y="{y + 4}" fill="#222222">{_escaped(line.name)}</text>'
        x += 46 + 7 * len(line.name)


def _escaped(text: str) -> str:
    """As XML takes it: control characters are not allowed there, and a name may hold anything."""
    return escape("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text))
