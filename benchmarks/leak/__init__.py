"""How good the leak verdict is: ``python -m benchmarks leak``.

Generated series of families that leak and that only look like it (:mod:`benchmarks.leak.families`), scored strictly
(:mod:`benchmarks.leak.scoring`), and recordings of real processes; the same series for each detector. Intervals are
95 %, by bootstrap over series.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.leak.baselines import BASELINES
from benchmarks.leak.families import APART, DEVELOPMENT, EVALUATION, WATCHED, Series, series
from benchmarks.leak.recorded import recordings
from benchmarks.leak.scoring import Table, score
from memwarden.assess.leak import LeakDetector

COUNT, COUNT_APART = 20, 15
FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures" / "leak"
#: What is promised of evaluation seeds: a figure's name, and whether it must be at least or at most that.
SUSPECTED = {"f1": (0.93, True), "delay": (0.25, False), "false_1000h": (5.0, False)}
CONFIRMED = {"precision": (0.99, True), "recall": (0.90, True), "delay": (0.55, False), "false_1000h": (0.5, False)}
INSIDE = {"f1": (0.98, True), "delay": (0.25, False)}
ERRORS = {"error 25%": (0.14, False), "error 50%": (0.07, False), "error 75%": (0.10, False)}
RANGES = {
    **{f"held {at}": (0.75, True) for at in ("25%", "50%", "75%")},
    **{f"width {at}": (0.60, False) for at in ("25%", "50%", "75%")},
}
MOST_HELD = 0.90
MICROSECONDS, KILOBYTES = 4.0, 20.0


def _row(name: str, table: Table, names: Sequence[str], intervals: bool = False) -> None:
    figures = table.figures()
    cells = []
    for each in names:
        cell = f"{figures[each]:.3f}"
        if intervals:
            low, high = table.interval(each)
            cell += f" ({low:.3f}..{high:.3f})"
        cells.append(f"{cell:>22}" if intervals else f"{cell:>11}")
    print(f"{name:28}", *cells)


def _missed(name: str, table: Table, promised: dict[str, tuple[float, bool]]) -> list[str]:
    figures = table.figures()
    return [
        f"{name}: {each} is {figures[each]:.3f}, promised {'at least' if least else 'at most'} {value}"
        for each, (value, least) in promised.items()
        if not (figures[each] >= value if least else figures[each] <= value)
    ]


def _cost(all_series: list[Series]) -> tuple[float, float]:
    """Microseconds of CPU a reading, the least of five rounds, and kilobytes of the largest detector."""
    best, largest = float("inf"), 0
    for _ in range(5):
        begin, count = time.thread_time(), 0
        for each in all_series:
            found = LeakDetector()
            update = found.update
            for t, value, limit in zip(each.times, each.values, each.limits, strict=True):
                update(t, value, limit)
            count += len(each.times)
            largest = max(largest, size_of(found))
        best = min(best, (time.thread_time() - begin) / count)
    return best * 1e6, largest / 1000


def size_of(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of an object with what it alone refers to."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type):
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, list | tuple):
        size += sum(size_of(each, seen) for each in value)
    for cls in type(value).__mro__:
        for name in getattr(cls, "__slots__", ()):
            if hasattr(value, name):
                size += size_of(getattr(value, name), seen)
    return size


def main(seed: int = EVALUATION, baselines: bool = True) -> bool:
    """Prints the tables; returns whether what is promised was kept."""
    head = ("f1", "precision", "recall", "false_1000h", "delay")
    watched, apart = list(series(WATCHED, seed, COUNT)), list(series(APART, seed, COUNT_APART))
    hours = sum(each.hours for each in watched)
    print(f"{len(watched)} series of {len(WATCHED)} families, {hours:.0f} h, seeds from {seed} on; 95 % intervals\n")
    print(f"{'':28}", *(f"{each:>22}" for each in head))
    first, second = score(LeakDetector, watched)
    inside = score(LeakDetector, watched, inside=True)[1]
    _row("suspected", first, head, intervals=True)
    _row("confirmed", second, head, intervals=True)
    _row("confirmed, seen from inside", inside, head, intervals=True)
    print(f"\n{'':28}", *(f"{each:>11}" for each in head))
    if baselines:
        for name, make in BASELINES.items():
            _row(name, score(make, watched)[0], head)
    for name, others in (("shapes set apart", apart), ("own recordings", list(recordings(FIXTURES)))):
        made = score(LeakDetector, others)
        _row(f"{name}: suspected", made[0], head)
        _row(f"{name}: confirmed", made[1], head)
        if name == "own recordings":
            recorded = made
    print(f"\n{'time left':28}", *(f"{each:>11}" for each in (*ERRORS, *RANGES)))
    _row("memwarden", first, (*ERRORS, *RANGES))
    if baselines:
        for name, make in BASELINES.items():
            if make is not BASELINES["the seed's rule, +10 %"]:
                _row(name, score(make, watched)[0], tuple(ERRORS))
    figures = first.figures()
    shares = (f"{figures[f'told {at}']:.2f}" for at in ("25%", "50%", "75%"))
    print("forecasts at 25/50/75 %:", *shares, "of the leaks")
    micro, kilo = _cost(watched[:: COUNT // 2])
    print(f"\n{micro:.1f} us of CPU a reading, at most {kilo:.1f} kB a series")
    _families(first, second)
    missed = _missed("suspected", first, SUSPECTED) + _missed("confirmed", second, CONFIRMED)
    missed += _missed("from inside", inside, INSIDE) + _missed("time left", first, {**ERRORS, **RANGES})
    missed += [f"{k} is {figures[k]:.2f}, too sure of itself" for k in RANGES if "held" in k and figures[k] > MOST_HELD]
    missed += _missed("recordings", recorded[1], {"f1": (0.90, True)})
    if any(row.false and not row.leak for row in recorded[1].rows):
        missed.append("a healthy recording was confirmed")
    if micro > MICROSECONDS or kilo > KILOBYTES:
        missed.append(f"cost: {micro:.1f} us, {kilo:.1f} kB")
    for each in missed:
        print("NOT KEPT:", each)
    return not missed


def development() -> bool:
    """The same on the seeds that settings were chosen by, without the others."""
    return main(DEVELOPMENT, baselines=False)


def _families(first: Table, second: Table) -> None:
    print(f"\n{'family':18}{'false alarms in series':>26}{'found':>16}{'delay':>16}   (suspected / confirmed)")
    later = second.by_family()
    for name, rows in first.by_family().items():
        both = (rows, later[name])
        false = " / ".join(f"{sum(row.false > 0 for row in each)}" for each in both) + f" of {len(rows)}"
        found = delay = ""
        if rows[0].leak:
            found = " / ".join(str(sum(row.delay is not None for row in each)) for each in both)
            delay = " / ".join(f"{_median([row.delay for row in each if row.delay is not None]):.2f}" for each in both)
        print(f"{name:18}{false:>26}{found:>16}{delay:>16}")


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else float("nan")
