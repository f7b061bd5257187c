"""Draw docs/is-it-a-leak.svg: a leak under garbage, its floor, the verdicts, and the time left.

.venv/bin/python scripts/leak_plot.py
"""

from __future__ import annotations

import random
from pathlib import Path

from memwarden.admission.batch import figure as plot
from memwarden.assess.leak import LeakDetector

READINGS, STEP, LIMIT = 1000, 30.0, 1000.0
SEEN_UP_TO = 800


def series() -> list[float]:
    """Return sizes in MiB: 150, from reading 250 on a leak, under garbage of up to 110 MiB."""
    rng = random.Random(4)
    return [150 + max(0, i - 250) * 0.98 + 110 * (i % 37) / 37 + rng.gauss(0, 3) for i in range(READINGS)]


def main() -> None:
    values = series()
    found, marks, stage, left = LeakDetector(), [], 0, None
    for i, value in enumerate(values[:SEEN_UP_TO]):
        now, left = found.update(i * STEP, value, LIMIT)
        if now != stage:
            marks.append((i, value, ("", "suspected", "confirmed")[now]))
            stage = now
    assert left is not None
    width = 80
    hour = 3600 / STEP
    floor = [(i / hour, min(values[i : i + width])) for i in range(0, SEEN_UP_TO - width, 8)]
    low, mid, high = ((SEEN_UP_TO + each / STEP) / hour for each in left)
    at, size = floor[-1]
    figure, (axes,) = plot.draw_axes()
    axes.plot([i / hour for i in range(SEEN_UP_TO)], values[:SEEN_UP_TO], color="#99bbbb", linewidth=1, label="memory")
    axes.plot(*zip(*floor, strict=True), color=plot.BLUE, linewidth=2.2, label="floor")
    axes.axhline(LIMIT, color=plot.INK, linestyle="--", linewidth=1.4, label="limit")
    axes.fill([at, low, high], [size, LIMIT, LIMIT], color="#f4c9a8", label="time left (range)", linewidth=0)
    axes.plot([at, mid], [size, LIMIT], color=plot.RED, linestyle=":", label="time left (estimate)")
    for i, value, word in marks:
        axes.plot([i / hour], [value], "o", color=plot.RED)
        line = {"arrowstyle": "-", "color": plot.RED}
        axes.annotate(word, (i / hour, value), (30, -42), textcoords="offset points", color=plot.RED, arrowprops=line)
    axes.set_xlim(0, high)
    axes.set_ylim(0, 1100)
    axes.set_xlabel("Time (h)")
    axes.set_ylabel("Memory (MiB)")
    axes.set_title("A leak under garbage", loc="left", fontsize=13, pad=24)
    plot.legend(axes, 5)
    target = Path(__file__).parents[1] / "docs" / "is-it-a-leak.svg"
    target.write_bytes(plot.render_figure(figure, "svg"))
    print(target, found.reason)


if __name__ == "__main__":
    main()
