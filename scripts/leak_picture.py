"""Draws docs/is-it-a-leak.svg: a leak under garbage, its floor, and what was said of it when.

PYTHONPATH=src python scripts/leak_picture.py
"""

from __future__ import annotations

import random
from pathlib import Path

from memwarden.assess.leak import detector

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 330, 56, 20, 20, 40
READINGS, STEP, LIMIT = 1000, 30.0, 1000.0
SEEN_UP_TO = 800


def series() -> list[float]:
    """Calm at 150 MiB, from reading 250 on a leak, under teeth of 110 MiB."""
    rng = random.Random(4)
    return [150 + max(0, i - 250) * 0.98 + 110 * (i % 37) / 37 + rng.gauss(0, 3) for i in range(READINGS)]


def x(reading: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * reading / READINGS


def y(mib: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * mib / 1100


def path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x(i):.1f} {y(v):.1f}" for i, v in points)


def main() -> None:
    values = series()
    found, marks, stage, left = detector(), [], 0, None
    for i, value in enumerate(values[:SEEN_UP_TO]):
        now, left = found.update(i * STEP, value, LIMIT)
        if now != stage:
            marks.append((i, value, ("", "suspected", "confirmed")[now]))
            stage = now
    assert left is not None
    width = 80
    floor = [(i, min(values[i : i + width])) for i in range(0, SEEN_UP_TO - width, 8)]
    low, mid, high = (SEEN_UP_TO + each / STEP for each in left)
    end = floor[-1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        "<title>A leak under garbage: readings, floor line, verdicts and the time left</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="{path([(end[0], end[1]), (low, LIMIT), (high, LIMIT)])}Z" fill="#f4c9a8"/>',
        f'<path d="{path([(0, LIMIT), (READINGS, LIMIT)])}" stroke="#b00" stroke-dasharray="6 4" fill="none"/>',
        f'<text x="{LEFT + 4}" y="{y(LIMIT) - 5:.0f}" fill="#b00">limit</text>',
        f'<path d="{path(list(enumerate(values[:SEEN_UP_TO])))}" stroke="#9bb" fill="none"/>',
        f'<path d="{path(floor)}" stroke="#036" stroke-width="2.5" fill="none"/>',
        f'<text x="{x(60):.0f}" y="{y(100):.0f}" fill="#036">floor: what it came down to</text>',
        f'<path d="{path([end, (mid, LIMIT)])}" stroke="#c60" stroke-dasharray="3 3" fill="none"/>',
        f'<text x="{x(770):.0f}" y="{y(560):.0f}" fill="#c60">time left: a range</text>',
    ]
    for i, value, word in marks:
        parts.append(f'<circle cx="{x(i):.1f}" cy="{y(value):.1f}" r="5" fill="#c00"/>')
        parts.append(f'<text x="{x(i) - 8:.1f}" y="{y(value) - 10:.1f}" text-anchor="end" fill="#c00">{word}</text>')
    axis = f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"
    parts.append(f'<path d="{axis}" stroke="#444" fill="none"/>')
    parts += [f'<text x="{LEFT - 8}" y="{y(mib) + 4:.0f}" text-anchor="end">{mib}</text>' for mib in (0, 500, 1000)]
    hours = [(reading, reading * STEP / 3600) for reading in range(0, READINGS, 240)]
    parts += [f'<text x="{x(i):.0f}" y="{HEIGHT - 18}" text-anchor="middle">{h:.0f} h</text>' for i, h in hours]
    parts.append('<text x="8" y="14">MiB</text></svg>')
    target = Path(__file__).parents[1] / "docs" / "is-it-a-leak.svg"
    target.write_text("\n".join(parts) + "\n")
    print(target, found.reason)


if __name__ == "__main__":
    main()
