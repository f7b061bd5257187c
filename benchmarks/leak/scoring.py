"""How a detector is scored: strictly, online, by its first verdict.

Every rise of the verdict in a healthy series, or before a leak's onset, is a false alarm. An alarm that is already on
at the onset earns nothing. Delay is the share of the way from onset to exhaustion that had passed at the alarm.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.leak.families import Series
from memwarden.model.facts import CacheFill, ProgramMemory

SHARES = (0.25, 0.5, 0.75)
Eta = tuple[float, float, float] | None


class Scored(NamedTuple):
    """What came of one series, for one stage."""

    family: str
    leak: bool
    hours: float
    #: Share of the way at which it was found; None where it was not.
    delay: float | None
    false: int
    #: At each of ``SHARES``: (low, mid, high, truth), or None where nothing was forecast.
    etas: tuple[tuple[float, float, float, float] | None, ...] = ()
    #: Share of the readings of a healthy series at which a time was forecast.
    phantom: float = 0.0


def known(series: Series, i: int) -> ProgramMemory:
    """What is known inside at a reading, as the detector takes it."""
    assert series.caches is not None
    assert series.active is not None
    assert series.collections is not None
    caches = tuple(CacheFill(*each) for each in series.caches[i])
    return ProgramMemory(caches=caches, active=series.active[i], collections=series.collections[i])


def run(make: Callable[[], Any], series: Series, inside: bool = False) -> tuple[Scored, Scored]:
    """Feeds one series to a detector; scored for the first stage and for the second."""
    detector = make()
    clock, restarts = series.clock, set(series.restarts)
    stages: list[int] = []
    etas: list[Eta] = []
    for i, (t, value, limit) in enumerate(zip(series.times, series.values, series.limits, strict=True)):
        if i in restarts:
            detector.restarted(t)
        if inside:
            detector.evidence(known(series, i))
        stage, eta = detector.update(t, value, limit)
        stages.append(stage)
        etas.append(eta)
    made = []
    for least in (1, 2):
        delay, false, before = None, 0, False
        for t, stage in zip(clock, stages, strict=True):
            on = stage >= least
            if on and not before:
                if series.onset is None or t < series.onset:
                    false += 1
                elif delay is None and series.exhausted is not None:
                    delay = (t - series.onset) / (series.exhausted - series.onset)
            before = on
        forecast: list[tuple[float, float, float, float] | None] = []
        phantom = 0.0
        if series.onset is not None and series.exhausted is not None:
            for share in SHARES:
                at = series.onset + share * (series.exhausted - series.onset)
                i = next(i for i, t in enumerate(clock) if t >= at)
                eta = etas[i]
                forecast.append(None if eta is None else (*eta, series.exhausted - clock[i]))
        else:
            phantom = sum(eta is not None for eta in etas) / len(etas)
        made.append(Scored(series.family, series.leak, series.hours, delay, false, tuple(forecast), phantom))
    return made[0], made[1]


@dataclass
class Table:
    """The scores of many series, and what they come to."""

    rows: list[Scored] = field(default_factory=list)

    def figures(self, rows: Sequence[Scored] | None = None) -> dict[str, float]:
        rows = self.rows if rows is None else rows
        leaks = [row for row in rows if row.leak]
        found = [row.delay for row in leaks if row.delay is not None]
        wrong = sum(row.false > 0 for row in rows)
        precision = len(found) / (len(found) + wrong) if found else 0.0
        recall = len(found) / len(leaks) if leaks else 0.0
        made = {
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            "precision": precision,
            "recall": recall,
            "false_1000h": 1000 * sum(row.false for row in rows) / max(1e-9, sum(row.hours for row in rows)),
            "delay": statistics.median(found) if found else float("nan"),
        }
        healthy = [row for row in rows if not row.leak]
        made["phantom"] = statistics.fmean(row.phantom for row in healthy) if healthy else 0.0
        for k, share in enumerate(SHARES):
            etas = [row.etas[k] for row in leaks]
            known = [eta for eta in etas if eta is not None]
            name = f"{share:.0%}"
            errors = [abs(mid - truth) / max(truth, 1e-9) for _, mid, _, truth in known]
            made["error " + name] = statistics.median(errors) if errors else float("nan")
            made["told " + name] = len(known) / len(leaks) if leaks else 0.0
            held = [low <= truth <= high for low, _, high, truth in known]
            made["held " + name] = sum(held) / len(held) if held else float("nan")
            widths = [(high - low) / max(truth, 1e-9) for low, _, high, truth in known]
            made["width " + name] = statistics.median(widths) if widths else float("nan")
        return made

    def interval(self, name: str, rounds: int = 400) -> tuple[float, float]:
        """95 % of what a figure comes to when the series are drawn again (bootstrap, within leaks and healthy)."""
        rng = random.Random(5)
        leaks = [row for row in self.rows if row.leak]
        healthy = [row for row in self.rows if not row.leak]
        drawn = sorted(
            self.figures(rng.choices(leaks, k=len(leaks)) + rng.choices(healthy, k=len(healthy)))[name]
            for _ in range(rounds)
        )
        return drawn[round(0.025 * (rounds - 1))], drawn[round(0.975 * (rounds - 1))]

    def by_family(self) -> dict[str, list[Scored]]:
        made: dict[str, list[Scored]] = {}
        for row in self.rows:
            made.setdefault(row.family, []).append(row)
        return made


def score(make: Callable[[], Any], all_series: Iterable[Series], inside: bool = False) -> tuple[Table, Table]:
    """The tables of both stages."""
    suspected, confirmed = Table(), Table()
    for each in all_series:
        first, second = run(make, each, inside)
        suspected.rows.append(first)
        confirmed.rows.append(second)
    return suspected, confirmed
