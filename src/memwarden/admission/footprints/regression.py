"""Peak against input size: robust curves through a few hundred points, and the reservation that costs least.

A curve gives the median peak for a size. Single tasks differ from it by a *ratio*, peak over curve; one of the observed
ratios is reserved. Pure functions of values.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

#: With fewer points, or fewer sizes, there is no curve.
LEAST_POINTS, LEAST_SIZES = 5, 3
#: A curve from few points is proportional to size, up to so many times the largest peak: sizes may be in any unit.
_MOST_GUESSED = 4.0
#: The worst fifth of the points does not count when the curve is chosen.
_JUDGED = 0.8
#: Closer than 1 % two curves are equally good, and the simpler one wins.
_LEAST_ERROR = 0.01


class Curve(NamedTuple):
    """Median bytes for a size."""

    #: Description for people.
    shape: str
    #: ``offset + slope * size``, never less than ``floor``
    offset: float
    slope: float = 0.0
    floor: float = 1.0
    #: and never more than this,
    most: float = math.inf
    #: Instead: lines between these (size, bytes).
    knots: tuple[tuple[float, float], ...] = ()
    #: The largest size among its points; 0 where no size is known.
    largest: float = 0.0

    @property
    def sized(self) -> bool:
        """Return whether the peak depends on the size."""
        return bool(self.slope or self.knots)

    def at(self, size: float | None) -> float:
        """Return the bytes at a size; without one, at the largest of the points."""
        if size is None:
            size = self.largest
        if not self.knots:
            return min(self.most, max(self.floor, self.offset + self.slope * size))
        knots = self.knots
        at = bisect_left(knots, (size,))
        if at == 0:
            return knots[0][1]
        if at == len(knots):  # beyond: as steep as from end to end
            (first, low), (last, high) = knots[0], knots[-1]
            return high + (high - low) / (last - first) * (size - last)
        (before, low), (after, high) = knots[at - 1], knots[at]
        return low + (high - low) * (size - before) / (after - before)


def fit(sizes: Sequence[float], peaks: Sequence[float]) -> Curve:
    """Return the curve that explains the peaks best, of equal ones the simpler; it needs at least one point.

    Slopes are medians over pairs of points (Theil 1950; incomplete: each point with those a third, a half and two
    thirds of the points further up, which costs n log n), offsets medians of the residuals. So three points in ten may
    be outliers. An unknown size is NaN.
    """
    known = [(size, peak) for size, peak in zip(sizes, peaks, strict=True) if size == size]
    largest = max((size for size, _ in known), default=0.0)
    if len(known) < LEAST_POINTS or len({size for size, _ in known}) < LEAST_SIZES:
        return _few(known, peaks, largest)
    known.sort()
    middle = median(peak for _, peak in known)
    floor = min(peak for _, peak in known) / 2  # a falling line needs a lower end
    candidates = [(1.0, Curve("the same for every size", middle, largest=largest))]
    line = _line([size for size, _ in known], [peak for _, peak in known])
    if line is not None:
        candidates.append((2.0, Curve("linear in size", line[1], line[0], floor, largest=largest)))
    knots = _knots(known)
    if len(knots) > 2:
        curve = Curve(f"rising with size, in {len(knots)} steps", 0.0, knots=knots, largest=largest)
        candidates.append((1.0 + len(knots) / 2, curve))
    # Akaike's charge for a parameter, where the errors have Laplace's distribution.
    scores = [(_error(curve, known) * math.exp(2 * parameters / len(known)), curve) for parameters, curve in candidates]
    return min(scores, key=lambda each: each[0])[1]


def _few(known: list[tuple[float, float]], peaks: Sequence[float], largest: float) -> Curve:
    """Return a curve from too few points: the largest peak, in proportion for larger inputs."""
    most = max(peaks)
    sizes = {size for size, _ in known}
    if len(known) < len(peaks) or largest <= 0 or (len(sizes) == 1 and len(known) >= LEAST_POINTS):
        return Curve("the same for every size", median(peaks), largest=largest)
    words = "in proportion to size, from few"
    return Curve(words, 0.0, most / largest, floor=most, most=most * _MOST_GUESSED, largest=largest)


def _line(xs: list[float], ys: list[float]) -> tuple[float, float] | None:
    count = len(xs)
    slopes = []
    for lag in {max(1, count // 3), max(1, count // 2), max(1, 2 * count // 3)}:
        for at in range(count - lag):
            wide = xs[at + lag] - xs[at]
            if wide > 0:
                slopes.append((ys[at + lag] - ys[at]) / wide)
    if len(slopes) < LEAST_SIZES:
        return None
    slope = median(slopes)
    return slope, median([y - slope * x for x, y in zip(xs, ys, strict=True)])


def _knots(known: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return medians of equal shares of the points, in the order of size and never decreasing."""
    bins = min(12, len(known) // 8)
    if bins < 3:
        return ()
    pooled: list[tuple[float, int]] = []  # decreasing neighbours are merged (pool adjacent violators)
    centres: list[float] = []
    for each in range(bins):
        part = known[len(known) * each // bins : len(known) * (each + 1) // bins]
        size = median(size for size, _ in part)
        if centres and size <= centres[-1]:
            continue
        centres.append(size)
        pooled.append((median(peak for _, peak in part), 1))
        while len(pooled) > 1 and pooled[-2][0] > pooled[-1][0]:
            (high, many), (low, more) = pooled[-2:]
            pooled[-2:] = [((high * many + low * more) / (many + more), many + more)]
    heights = [height for height, many in pooled for _ in range(many)]
    return tuple(zip(centres, heights, strict=True))


def _error(curve: Curve, known: list[tuple[float, float]]) -> float:
    """Return the mean distance from the curve, as a ratio, without the farthest fifth."""
    errors = sorted(abs(math.log(peak / curve.at(size))) for size, peak in known)
    judged = errors[: max(1, math.ceil(len(errors) * _JUDGED))]
    return max(_LEAST_ERROR, math.fsum(judged) / len(judged))


class Costs(NamedTuple):
    """Costs of a task that outgrows its reservation, as shares of its run time unless stated.

    The defaults fit an enforcement that lets it grow into free memory, else pauses it, and kills only at last.
    """

    #: Share of these tasks that are killed; 1 where a reservation is a limit.
    killed: float = 0.02
    #: Lost run time of a killed one; on average it is killed near its peak.
    lost: float = 0.7
    #: Pause of one that is not killed.
    waits: float = 0.5
    #: Seconds to requeue a task and to start a process for it.
    requeue: float = 0.1


def cheapest(
    ratios: Sequence[float], *, seconds: float, free: float = 1.0, costs: Costs | None = None
) -> tuple[float, float]:
    """Return the ratio to reserve, of ``ratios`` in order, and the share of tasks that stay within it.

    The cost of a task is the bytes that other tasks cannot use, times their duration
    (Tovar et al., TPDS 29(2), 2018: a first allocation that wastes least; Witt et al., HPCS 2019: train for the cost
    of being wrong, not for the error). In units of the curve and of the run time, for a reservation ``r``:

        the share within r                held(r)
        a share x above r, not killed     held(x) + waits * held(r)
        a share x above r, killed         lost * held(r) + held(top) * (1 + requeue / seconds)

    ``held(r)`` is ``max(r, free)``: where the slots run out before the memory, so much is free of cost.
    ``top`` is the largest ratio, which a retry reserves.
    """
    costs = costs or Costs()
    share, top = 1 / len(ratios), max(ratios[-1], free)
    again = top * (1 + costs.requeue / max(seconds, 0.001))
    above, held_above = 1.0, share * math.fsum(max(ratio, free) for ratio in ratios)
    best = (math.inf, top, 1.0)
    for ratio in ratios:
        held = max(ratio, free)
        above = max(0.0, above - share)
        held_above = max(0.0, held_above - share * held)
        cost = (1 - above) * held
        cost += (1 - costs.killed) * (held_above + above * costs.waits * held)
        cost += costs.killed * above * (costs.lost * held + again)
        if cost <= best[0] + 1e-12:  # of equals the larger one
            best = (cost, ratio, 1 - above)
    return best[1], best[2]
