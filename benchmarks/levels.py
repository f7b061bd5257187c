"""Pressure levels on generated series of a share in percent: flaps, lateness, and time at a level that is not true.

Every series has a *true* signal and what is read of it: noise, and now and then a wild reading. Its true level is the
bare level of the true signal. For each rule, for each hour of a reading a second:

* ``flaps``: changes of the level that are undone, by a change back to where it was or beyond, within five minutes;
* ``late``: seconds from the true signal's passing of 90 % to CRITICAL (95 of 100 are no later), over all stretches of
  ten seconds and more; one that is never reported counts as long as it lasts;
* ``over`` and ``under``: the share of time at a level above and below the true one;
* ``false``: times CRITICAL was entered while the truth was no more than MODERATE.

The rule was made on the development seeds; the table is of the evaluation seeds.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from memwarden.assess import hysteresis
from memwarden.assess.pressure import bare_level

FIGURES = Path(".cache/benchmarks/levels.json")
DEVELOPMENT, EVALUATION = (*range(1, 17), *range(7001, 7017)), tuple(range(9001, 9033))
#: A series lasts five hours, a reading a second.
SECONDS = 5 * 3600
FLAP_SECONDS, EPISODE_SECONDS = 300, 10
MOST_FLAPS, WORST_FLAPS, MOST_LATE, MOST_OVER = 0.8, 4.0, 2.0, 0.25
EDGES = (70.0, 80.0, 90.0)


class Rule(Protocol):
    """Judge of a series, one reading after the other."""

    def update(self, t: float, percent: float) -> int: ...


# --- series ------------------------------------------------------------------------------------------


def _flat(chance: random.Random) -> Iterator[float]:
    """One figure all the time, wherever."""
    while True:
        at = chance.uniform(30, 97)
        for _ in range(int(chance.uniform(1800, 7200))):
            yield at


def _edge(chance: random.Random) -> Iterator[float]:
    """A figure that hovers within three points of an edge."""
    while True:
        edge, beside, period = chance.choice(EDGES), chance.uniform(-3, 3), chance.uniform(600, 3600)
        for second in range(int(chance.uniform(3600, 3 * 3600))):
            yield edge + beside + 0.5 * math.sin(second / period * math.tau)


def _ramps(chance: random.Random) -> Iterator[float]:
    """Slow growth from somewhere up to the end, a rest there, and a restart."""
    while True:
        low, high = chance.uniform(20, 60), chance.uniform(75, 99)
        rise, rest = chance.uniform(60, 5400), chance.uniform(5, 1200)
        for second in range(int(rise)):
            yield low + (high - low) * second / rise
        for _ in range(int(rest)):
            yield high
        for _ in range(int(chance.uniform(60, 1200))):
            yield low


def _sawtooth(chance: random.Random) -> Iterator[float]:
    """Garbage that gathers and is collected at once, over and over."""
    low, high, period = chance.uniform(55, 75), chance.uniform(74, 96), chance.uniform(20, 900)
    while True:
        top, length = high + chance.gauss(0, 0.7), period * chance.uniform(0.8, 1.2)
        for second in range(int(length)):
            yield low + (top - low) * second / length


def _batches(chance: random.Random) -> Iterator[float]:
    """Jobs with pauses between them, of about the same length each time."""
    low, high = chance.uniform(35, 65), chance.uniform(72, 95)
    busy, idle = chance.uniform(30, 900), chance.uniform(30, 900)
    while True:
        top = high + chance.gauss(0, 1)
        for _ in range(int(busy * chance.uniform(0.7, 1.3))):
            yield top
        for _ in range(int(idle * chance.uniform(0.7, 1.3))):
            yield low


def _bursts(chance: random.Random) -> Iterator[float]:
    """Calm, and now and then a short need for much."""
    low = chance.uniform(30, 68)
    while True:
        for _ in range(int(chance.expovariate(1 / 1200))):
            yield low
        high = chance.uniform(72, 98)
        for _ in range(int(chance.uniform(3, 120))):
            yield high


def _oscillation(chance: random.Random) -> Iterator[float]:
    """A swing over two edges."""
    middle, swing, period = chance.choice((75.0, 85.0)), chance.uniform(6, 11), 10 ** chance.uniform(1.3, 3.3)
    second = 0
    while True:
        yield middle + swing * math.sin(second / period * math.tau)
        second += 1


def _drift(chance: random.Random) -> Iterator[float]:
    """A load that wanders, and comes back to its middle in half an hour."""
    middle, at = chance.uniform(60, 85), 70.0
    while True:
        at += (middle - at) / 1800 + chance.gauss(0, 0.25)
        yield min(99.0, max(10.0, at))


def _daily(chance: random.Random) -> Iterator[float]:
    """The hours around a day's peak, with a smaller swing in it."""
    height, phase = chance.uniform(72, 93), chance.uniform(0, 5)
    second = 0
    while True:
        hour = phase + second / 3600
        yield height - 18 * (1 - math.sin(hour / 10 * math.pi)) + 1.5 * math.sin(hour * 4)
        second += 1


FAMILIES: dict[str, Callable[[random.Random], Iterator[float]]] = {
    "flat": _flat,
    "edge": _edge,
    "ramps": _ramps,
    "sawtooth": _sawtooth,
    "batches": _batches,
    "bursts": _bursts,
    "oscillation": _oscillation,
    "drift": _drift,
    "daily": _daily,
}


class Series(NamedTuple):
    """The reading and the true level of each second."""

    read: list[float]
    true: list[int]


def series(family: str, seed: int) -> Series:
    """One series of a family; the same for the same seed."""
    chance = random.Random(f"{family} {seed}")
    noise, wild = chance.choice((0.1, 0.5, 1.0, 2.0)), chance.choice((0.0, 1 / 3600, 1 / 600))
    read, true = [], []
    source = FAMILIES[family](chance)
    for _ in range(SECONDS):
        figure = next(source)
        true.append(bare_level(figure / 100).rank)
        odd = chance.uniform(5, 25) if wild and chance.random() < wild else 0.0
        read.append(min(100.0, max(0.0, figure + chance.gauss(0, noise) + odd)))
    return Series(read, true)


# --- rules to compare with ----------------------------------------------------------------------------


class Raw:
    """The bare thresholds."""

    def update(self, t: float, percent: float) -> int:
        return bare_level(percent / 100).rank


class Hysteresis:
    """A level is left three points under its edge."""

    def __init__(self) -> None:
        self._level = 0

    def update(self, t: float, percent: float) -> int:
        up, stays = bare_level(percent / 100).rank, bare_level((percent + 3) / 100).rank
        self._level = max(up, min(self._level, stays))
        return self._level


class Ewma:
    """The bare thresholds on a mean that forgets in ten seconds."""

    def __init__(self) -> None:
        self._mean: float | None = None
        self._then = 0.0

    def update(self, t: float, percent: float) -> int:
        if self._mean is None:
            self._mean = percent
        self._mean += (percent - self._mean) * (1 - math.exp(-(t - self._then) / 10))
        self._then = t
        return bare_level(self._mean / 100).rank


class DownAfter:
    """Up at once, down after so many seconds without a reason to be there (kubelet's transition period: 300 s)."""

    def __init__(self, seconds: float = 300.0) -> None:
        self._seconds, self._seen = seconds, [-math.inf] * 4

    def update(self, t: float, percent: float) -> int:
        for level in range(bare_level(percent / 100).rank + 1):
            self._seen[level] = t
        return max(level for level in range(4) if t - self._seen[level] < self._seconds)


RULES: dict[str, Callable[[], Rule]] = {
    "raw 70/80/90": Raw,
    "hysteresis, 3 points": Hysteresis,
    "EWMA, 10 s": Ewma,
    "up at once, down after 300 s": DownAfter,
    "memwarden": hysteresis.Hysteresis,
}


# --- counting -----------------------------------------------------------------------------------------


class Count(NamedTuple):
    """Counts of one rule over one series, or several."""

    seconds: int = 0
    changes: int = 0
    flaps: int = 0
    over: int = 0
    under: int = 0
    false: int = 0
    late: tuple[float, ...] = ()

    def __add__(self, other: Count) -> Count:  # type: ignore[override]  # a sum, field by field
        return Count(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))  # type: ignore[operator]

    def an_hour(self, count: int) -> float:
        """So many in an hour."""
        return count * 3600 / self.seconds


def count(rule: Rule, one: Series) -> Count:
    """Follow a series by a rule."""
    reported = [rule.update(float(second), percent) for second, percent in enumerate(one.read)]
    changes = [second for second in range(1, len(reported)) if reported[second] != reported[second - 1]]
    flaps = 0
    for at, second in enumerate(changes):
        before, up = reported[second - 1], reported[second] > reported[second - 1]
        for later in changes[at + 1 :]:
            if later - second >= FLAP_SECONDS:
                break
            if reported[later] <= before if up else reported[later] >= before:
                flaps += 1
                break
    return Count(
        len(reported),
        len(changes),
        flaps,
        sum(mine > true for mine, true in zip(reported, one.true, strict=True)),
        sum(mine < true for mine, true in zip(reported, one.true, strict=True)),
        sum(reported[second] == 3 > reported[second - 1] and one.true[second] < 2 for second in changes),
        tuple(_late(reported, one.true)),
    )


def _late(reported: list[int], true: list[int]) -> Iterator[float]:
    started = None
    for second, level in enumerate([*true, 0]):
        if level == 3:
            started = second if started is None else started
        elif started is not None:
            if second - started >= EPISODE_SECONDS and started:
                yield next((at - started for at in range(started, second) if reported[at] == 3), second - started)
            started = None


def percentile(values: Iterable[float], share: float) -> float:
    """The value that so many are no larger than."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


Table = dict[str, dict[str, list[Count]]]


def table(seeds: Iterable[int]) -> Table:
    """Return the counts of each rule for each series, by family."""
    made: Table = {name: {} for name in RULES}
    for family in FAMILIES:
        all_series = [series(family, seed) for seed in seeds]
        for name, rule in RULES.items():
            made[name][family] = [count(rule(), one) for one in all_series]
    return made


def together(counts: Iterable[Count]) -> Count:
    """Several counts as one."""
    return sum(counts, Count())


def interval(families: dict[str, list[Count]], figure: Callable[[Count], float]) -> str:
    """Between which bounds the mean of a figure lies for 95 of 100 sets of seeds."""
    by_seed = [figure(together(counts)) for counts in zip(*families.values(), strict=True)]
    half = 1.96 * statistics.stdev(by_seed) / math.sqrt(len(by_seed))
    return f"{statistics.mean(by_seed) - half:.3f} to {statistics.mean(by_seed) + half:.3f}"


def cost() -> float:
    """Microseconds of CPU that one reading takes, near an edge, where most is to be done."""
    read = series("edge", 1).read
    rule = hysteresis.Hysteresis()
    started = time.process_time()
    for second, percent in enumerate(read):
        rule.update(float(second), percent)
    return (time.process_time() - started) / len(read) * 1e6


TITLES = ("changes/h", "flaps/h", "worst", "late p95", "over", "under", "false/h")


def _row(name: str, one: Count, worst: float | None) -> str:
    flaps = f"{one.an_hour(one.flaps):>11.2f}" + (f"{worst:>11.2f}" if worst is not None else f"{'':>11}")
    shares = f"{one.over / one.seconds:>11.3f}{one.under / one.seconds:>11.3f}"
    late = f"{percentile(one.late, 0.95):>11.1f}"
    return f"{name:<30}{one.an_hour(one.changes):>11.2f}{flaps}{late}{shares}{one.an_hour(one.false):>11.2f}"


def main(seeds: Sequence[int] = EVALUATION) -> bool:
    """Print the tables; whether every promise was kept."""
    found = table(seeds)
    hours = len(seeds) * SECONDS / 3600
    print(f"\nLevels: {len(FAMILIES)} families, {hours:g} h of each, a reading a second")
    print(f"seeds {seeds[0]} to {seeds[-1]}\n")
    print(f"{'rule':<30}" + "".join(f"{title:>11}" for title in TITLES))
    whole, worst = {}, {}
    for name, families in found.items():
        sums = {family: together(counts) for family, counts in families.items()}
        whole[name] = together(sums.values())
        worst[name] = max(each.an_hour(each.flaps) for each in sums.values())
        print(_row(name, whole[name], worst[name]))
    ours = found["memwarden"]
    print(f"\n{'memwarden, by family':<30}" + "".join(f"{title:>11}" for title in TITLES))
    for family, counts in ours.items():
        print(_row(family, together(counts), None))
    mine, spent = whole["memwarden"], cost()
    flaps, over = mine.an_hour(mine.flaps), mine.over / mine.seconds
    late = percentile(mine.late, 0.95)
    kept = {
        f"<= {MOST_FLAPS} flaps an hour": flaps <= MOST_FLAPS,
        f"<= {WORST_FLAPS:g} in the worst family": worst["memwarden"] <= WORST_FLAPS,
        f"CRITICAL late by <= {MOST_LATE:g} s": late <= MOST_LATE,
        f"over <= {MOST_OVER}": over <= MOST_OVER,
    }
    print(f"\nflaps/h {interval(ours, lambda one: one.an_hour(one.flaps))} (95 %)")
    print(f"over {interval(ours, lambda one: one.over / one.seconds)} (95 %)")
    print(f"one reading: {spent:.2f} us of CPU")
    print("\n".join(f"{promise}: {'kept' if each else 'NOT KEPT'}" for promise, each in kept.items()))
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        name: {family: together(counts)._asdict() for family, counts in families.items()}
        for name, families in found.items()
    }
    FIGURES.write_text(json.dumps({"rules": plain, "microseconds": spent, "kept": kept}, indent=1) + "\n")
    return all(kept.values())


if __name__ == "__main__":
    main(DEVELOPMENT if "--development" in sys.argv else EVALUATION)
