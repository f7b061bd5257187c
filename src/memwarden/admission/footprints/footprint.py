"""Peak memory of one kind of task, learned from earlier tasks.

A footprint keeps the newest ``KEPT`` peaks with their input sizes, the curve through them, and the ratios of single
tasks to it; :mod:`memwarden.admission.footprints.regression` makes a reservation of these.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from statistics import median
from typing import Any, NamedTuple

from memwarden.admission.footprints.regression import LEAST_POINTS, Costs, Curve, cheapest, fit
from memwarden.model.footprints import PastTask

#: Tasks that are kept of a kind: finished ones, and killed ones that no finished one explains.
KEPT, KEPT_KILLS = 256, 32
#: Factors on the chosen ratio: for pages and arenas, and (divided by n) for what few tasks do not show.
MARGIN, ALLOWANCE = 1.02, 0.5
#: The newest tasks are compared with all older ones: where their ranks are this many standard deviations off (by
#: chance once in 16000 comparisons) and their median by so much, the code or its data has changed.
DRIFT_WINDOW, DRIFT_DEVIATIONS, DRIFT_LEAST = 16, 4.0, 0.05


class Fit(NamedTuple):
    """Estimate for a kind of task."""

    curve: Curve
    #: Ratios to the curve: of the reservation, and of the reservation of a retry.
    ratio: float
    top: float
    #: Share of tasks within the reservation.
    quantile: float
    n: int
    seconds: float
    confidence: str
    why: str
    #: Bytes at the median size, and in the mean of all tasks.
    typical: float
    mean: float


class Footprint:
    """The newest tasks of one kind, in some 8 KiB."""

    def __init__(self) -> None:
        #: Of finished tasks, oldest first; an unknown size is NaN.
        self.sizes, self.peaks, self.seconds = array("d"), array("d"), array("d")
        #: Sizes of which one was killed and none has finished, with the bytes it was killed at. (Where some finished,
        #: as where all are of one size, it may have been an outlier.)
        self.open: dict[float | None, float] = {}
        self.finished = self.kills = self.drifts = 0
        self.fit: Fit | None = None
        #: The estimate of the code's earlier version, used until enough tasks, or one that contradicts it, are known.
        self.former: Fit | None = None
        self._due = 0

    def add(self, size: float, peak: float, seconds: float, *, killed: bool) -> None:
        """Add a task."""
        if killed:
            self.kills += 1
            if not (size in self.sizes if size == size else any(map(math.isnan, self.sizes))):
                bound = max(peak, self.open.pop(_given(size), 0.0))
                self.open[_given(size)] = bound  # now the last one
                if len(self.open) > KEPT_KILLS:
                    del self.open[next(iter(self.open))]
            self._due += 2
        else:
            self.finished += 1
            self.open.pop(_given(size), None)
            for column, value in ((self.sizes, size), (self.peaks, peak), (self.seconds, seconds)):
                column.append(value)
                if len(column) > KEPT:
                    del column[0]
            self._due += 1
            former, known = self.former, self.fit
            if former is not None:
                usual = former.curve.at(_given(size))
                if len(self.peaks) >= LEAST_POINTS or not usual / former.top <= peak <= usual * former.top:
                    self.former = None
            if known is not None and peak > known.curve.at(_given(size)) * known.ratio:
                self._due += 2

    def add_all(self, tasks: Iterable[PastTask]) -> None:
        """Add tasks, oldest first."""
        for size, peak, seconds, killed in tasks:
            self.add(size, max(1.0, peak), seconds, killed=killed)

    def learn(self, free: float, costs: Costs) -> None:
        """Renew the estimate if enough tasks are new. ``free`` is bytes (see ``cheapest``)."""
        if self._due >= max(1, len(self.peaks) // 16):
            self.learn_now(free, costs)

    def learn_now(self, free: float, costs: Costs) -> None:
        """Renew the estimate."""
        self._due = 0
        if self.former is not None:
            why = f"{len(self.peaks)} finished; as the earlier version: {self.former.why}"
            self.fit = self.former._replace(n=len(self.peaks), confidence="low", why=why)
            return
        if not self.peaks:
            self.fit = None
            return
        curve, ratios = self._curve()
        if keep := _changed(ratios):
            self.drifts += 1
            for column in (self.sizes, self.peaks, self.seconds):
                del column[:-keep]
            curve, ratios = self._curve()
        n, ratios = len(ratios), sorted(ratios)
        typical = curve.at(median(size for size in self.sizes if size == size) if curve.sized else None)
        seconds = median(self.seconds)
        ratio, quantile = cheapest(ratios, seconds=seconds, free=max(1.0, free / typical), costs=costs)
        allowance = MARGIN * (1 + ALLOWANCE / n)
        top = max(1.0, ratios[-1]) * 1.05
        self.fit = Fit(
            curve,
            ratio * allowance,
            max(ratio, top) * allowance,
            quantile,
            n,
            seconds,
            *_explanation(curve, n, quantile),
            typical,
            math.fsum(self.peaks) / n,
        )

    def describe(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        described: dict[str, Any] = {
            "finished": self.finished,
            "kills": self.kills,
            "drifts": self.drifts,
            "points": [
                {"size": _given(size), "peak_bytes": int(peak), "run_seconds": seconds}
                for size, peak, seconds in zip(self.sizes, self.peaks, self.seconds, strict=True)
            ],
            "killed": [{"size": size, "at_least_bytes": int(bound)} for size, bound in self.open.items()],
            "curve": None,
        }
        if self.fit is not None:
            curve = self.fit.curve
            sizes = [size for size in self.sizes if size == size] or [0.0]
            low, high = min(sizes), max(sizes)
            described["curve"] = {
                "shape": curve.shape,
                "sized": curve.sized,
                "median": [
                    {"size": size, "bytes": int(curve.at(size))}
                    for size in sorted({low + (high - low) * step / 32 for step in range(33)})
                ],
                "reserve_ratio": self.fit.ratio,
                "repeat_ratio": self.fit.top,
                "quantile": self.fit.quantile,
                "confidence": self.fit.confidence,
                "typical_bytes": int(self.fit.typical),
                "run_seconds": self.fit.seconds,
                "why": self.fit.why,
            }
        return described

    def _curve(self) -> tuple[Curve, list[float]]:
        curve = fit(self.sizes, self.peaks)
        return curve, [peak / curve.at(_given(size)) for size, peak in zip(self.sizes, self.peaks, strict=True)]


def _given(size: float) -> float | None:
    return size if size == size else None


def _changed(ratios: list[float]) -> int:
    """Return how many of the newest to keep if they differ from the older ones; 0 if they do not.

    Ranks (Mann and Whitney 1947) are insensitive to outliers.
    """
    new, older = ratios[-DRIFT_WINDOW:], sorted(ratios[:-DRIFT_WINDOW])
    m, n = len(new), len(older)
    if n >= DRIFT_WINDOW and abs(math.log(median(new) / median(older))) > DRIFT_LEAST:
        above = sum((bisect_left(older, ratio) + bisect_right(older, ratio)) / 2 for ratio in new)
        if abs(above - m * n / 2) > DRIFT_DEVIATIONS * math.sqrt(m * n * (m + n + 1) / 12):
            return DRIFT_WINDOW
    return 0


def _explanation(curve: Curve, n: int, quantile: float) -> tuple[str, str]:
    confidence = "low" if n < 8 else "fair" if n < 32 else "good"
    return confidence, f"{curve.shape}; {n} finished; {quantile:.0%} stay within the reservation, the cheapest"
