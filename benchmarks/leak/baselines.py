"""What others do, for the same table: the seed's rule and four ways of fitting a line."""

from __future__ import annotations

import math
from collections import deque

from benchmarks.leak.scoring import Eta

Verdict = tuple[int, Eta]


class Window:
    """The last readings; a verdict is made anew with every fifth."""

    size, every = 100, 5

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=self.size)
        self.values: deque[float] = deque(maxlen=self.size)
        self.limit = math.inf
        self.count = 0
        self.last: Verdict = (0, None)

    def restarted(self, t: float) -> None:
        type(self).__init__(self)

    def update(self, t: float, value: float, limit: float | None) -> Verdict:
        if self.times and t <= self.times[-1]:
            t = self.times[-1] + 1e-3
        self.times.append(t)
        self.values.append(value)
        self.limit = 2 * value if limit is None else limit
        self.count += 1
        if self.count % self.every == 0 and len(self.values) >= 30:
            self.last = self.judge(list(self.times), list(self.values))
        return self.last

    def judge(self, times: list[float], values: list[float]) -> Verdict:
        raise NotImplementedError

    def left(self, slope: float, value: float) -> Eta:
        if slope <= 0:
            return None
        seconds = max(0.0, self.limit - value) / slope
        return seconds, seconds, seconds


class SeedRule(Window):
    """The last five against the older ones of a hundred: ten per cent more is "increasing"."""

    every = 1

    def judge(self, times: list[float], values: list[float]) -> Verdict:
        older, recent = values[:-5], values[-5:]
        return int(sum(recent) / 5 > 1.1 * sum(older) / len(older)) * 2, None


def line(times: list[float], values: list[float]) -> tuple[float, float, float]:
    """Slope, value at the end and R² of the least-squares line."""
    count = len(times)
    begin = times[0]
    mean_t = sum(times) / count - begin
    mean_v = sum(values) / count
    tt = sum((t - begin - mean_t) ** 2 for t in times)
    tv = sum((t - begin - mean_t) * (v - mean_v) for t, v in zip(times, values, strict=True))
    vv = sum((v - mean_v) ** 2 for v in values)
    if tt <= 0 or vv <= 0:
        return 0.0, mean_v, 0.0
    slope = tv / tt
    return slope, mean_v + slope * (times[-1] - begin - mean_t), tv * tv / (tt * vv)


class PredictLinear(Window):
    """Prometheus's ``predict_linear``: the limit is reached within four windows, ten readings long."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0

    def judge(self, times: list[float], values: list[float]) -> Verdict:
        slope, end, _ = line(times, values)
        eta = self.left(slope, end)
        near = eta is not None and eta[1] < 4 * (times[-1] - times[0])
        self.held = self.held + 1 if near else 0
        return 2 * int(self.held >= 2), eta


class Straight(Window):
    """Lines over six nested windows of the whole history, thinned to 192 readings: one of them explains three
    quarters of the variance, and the limit is reached within four times its length."""

    size, every = 192, 20

    def __init__(self) -> None:
        super().__init__()
        self.thin, self.skipped = 1, 0

    def update(self, t: float, value: float, limit: float | None) -> Verdict:
        self.skipped += 1
        if self.skipped % self.thin:
            self.count += 1
            return self.last
        reported = super().update(t, value, limit)
        if len(self.values) == self.size:
            self.times = deque(list(self.times)[1::2], maxlen=self.size)
            self.values = deque(list(self.values)[1::2], maxlen=self.size)
            self.thin *= 2
        return reported

    def judge(self, times: list[float], values: list[float]) -> Verdict:
        best = 0.0
        found: Verdict = (0, None)
        for sixths in range(1, 7):
            count = max(12, len(times) * sixths // 6)
            slope, end, r2 = line(times[-count:], values[-count:])
            eta = self.left(slope, end)
            if eta is not None and r2 >= 0.75 and r2 > best and eta[1] < 4 * (times[-1] - times[-count:][0]):
                best, found = r2, (2, eta)
        return found


class MannKendallSen(Window):
    """Mann and Kendall's test at 1 % on 33 of the last hundred readings, with Sen's slope."""

    every = 10

    def judge(self, times: list[float], values: list[float]) -> Verdict:
        times, values = times[::3], values[::3]
        count, total, slopes = len(values), 0, []
        for i in range(count):
            for k in range(i + 1, count):
                rise = values[k] - values[i]
                total += (rise > 0) - (rise < 0)
                slopes.append(rise / (times[k] - times[i]))
        deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
        slopes.sort()
        slope = slopes[len(slopes) // 2]
        found = total / deviation > 2.58 and slope > 0
        return 2 * int(found), self.left(slope, values[-1]) if found else None


#: Readings ahead that a limit counts for.
HORIZON = 400


class Holt:
    """Double exponential smoothing; its trend leads to the limit within 400 readings, 60 readings long."""

    def __init__(self) -> None:
        self.level: float | None = None
        self.slope = self.spread = 0.0
        self.held, self.before = 0, 0.0

    def restarted(self, t: float) -> None:
        self.__init__()  # type: ignore[misc]

    def update(self, t: float, value: float, limit: float | None) -> Verdict:
        limit = 2 * value if limit is None else limit
        if self.level is None:
            self.level, self.before = value, t
            return 0, None
        gone = t - self.before if t > self.before else 1.0
        self.before = t
        guess = self.level + self.slope * gone
        level = guess + 0.1 * (value - guess)
        self.slope += 0.02 * ((level - self.level) / gone - self.slope)
        self.level = level
        self.spread += 0.02 * (abs(value - guess) - self.spread)
        rises = self.slope > 0 and (limit - level) < self.slope * gone * HORIZON
        self.held = self.held + 1 if rises else 0
        seconds = max(0.0, limit - level) / self.slope if self.slope > 0 else 0.0
        return 2 * int(self.held >= 60), (seconds, seconds, seconds) if self.slope > 0 else None


BASELINES = {
    "the seed's rule, +10 %": SeedRule,
    "predict_linear": PredictLinear,
    "Mann-Kendall, Sen": MannKendallSen,
    "line with R² >= 0.75": Straight,
    "Holt": Holt,
}
