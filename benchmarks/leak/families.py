"""Labelled series of memory in use: families that leak, and families that only look like it.

Every series is made of a level, a load, what is kept, and noise. A leak's limit is what the series reaches at its
end, so that ``exhausted`` is the first reading at the limit; a healthy series stays under about half of the room. Sizes
in MiB, times in seconds. The same family and seed give the same series.

``WATCHED`` are the families that settings may be chosen by (with development seeds); ``APART`` are shapes that were
written down and then left alone: no setting was chosen by them.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

DEVELOPMENT, EVALUATION = 1000, 19000


@dataclass
class Series:
    """One series with what is true of it."""

    family: str
    times: list[float]
    values: list[float]
    limits: list[float]
    onset: float | None = None
    exhausted: float | None = None
    #: Indexes at which another process had taken its place.
    restarts: list[int] = field(default_factory=list)
    #: What is known inside at each reading: (entries, most entries) of each bounded cache, and tasks in flight.
    caches: list[list[tuple[float, float]]] | None = None
    active: list[int] | None = None
    #: Full garbage collections so far, at each reading.
    collections: list[int] | None = None
    #: True time of each reading where ``times`` are those of a clock that was set.
    true_times: list[float] | None = None

    @property
    def leak(self) -> bool:
        return self.onset is not None

    @property
    def hours(self) -> float:
        return (self.clock[-1] - self.clock[0]) / 3600

    @property
    def clock(self) -> list[float]:
        return self.true_times or self.times


class Make:
    """What the families are made with: a time axis, a level, a room, and parts that are added up."""

    def __init__(self, family: str, seed: int) -> None:
        self.family = family
        self.rng = rng = random.Random(f"{family}-{seed}")
        self.n = rng.randint(700, 1600)
        self.step = rng.choice((5.0, 15.0, 30.0, 60.0, 120.0))
        self.times = [i * self.step for i in range(self.n)]
        self.level = rng.uniform(60, 500)
        self.headroom = self.level * rng.uniform(0.6, 4.0)
        self.noise = self.headroom * 10 ** rng.uniform(-3.3, -1.9)
        self.values = [self.level] * self.n
        self.restarts: list[int] = []
        self.caches: list[list[tuple[float, float]]] = [[] for _ in range(self.n)]
        self.active = [0] * self.n
        #: Readings at which there was a full collection; in most programs there is one now and then.
        self.collected = set(range(0, self.n, 30))

    # --- parts ---

    def add(self, part: Callable[[float], float]) -> None:
        """Adds a function of the share of the whole time, 0..1."""
        last = self.times[-1]
        for i, t in enumerate(self.times):
            self.values[i] += part(t / last)

    def warm(self, most: float = 0.15) -> None:
        """The start of a process: a few per cent of the time, and up to ``most`` of the room."""
        size, slow = self.headroom * self.rng.uniform(0.01, most), self.rng.uniform(0.004, 0.03)
        self.add(lambda u: -size * math.exp(-u / slow))

    def blur(self, heavy: bool = False) -> None:
        rng, noise = self.rng, self.noise
        for i in range(self.n):
            wide = 8.0 if heavy and rng.random() < 0.02 else 1.0
            self.values[i] += rng.gauss(0, noise * wide)

    def teeth(self, size: float, period: int) -> None:
        """Garbage that is collected when there is enough of it."""
        held, most = 0.0, size
        self.collected = set()
        for i in range(self.n):
            held += size / period * self.rng.uniform(0.5, 1.5)
            if held > most:
                self.collected.add(i)
                held, most = held * self.rng.uniform(0, 0.08), size * self.rng.uniform(0.8, 1.1)
            self.values[i] += held

    def day(self, size: float, cycles: float) -> None:
        phase, sharp = self.rng.random(), self.rng.uniform(0.7, 1.6)
        last = self.times[-1]
        for i, t in enumerate(self.times):
            load = (0.5 + 0.5 * math.sin(2 * math.pi * (t / last * cycles + phase))) ** sharp
            self.values[i] += size * load
            self.active[i] += round(20 * load)

    def batches(self, size: float, period: int, busy: float = 0.5) -> list[int]:
        """Jobs that take memory and give it back; returns the readings at which one ended."""
        ends, i = [], self.rng.randint(0, period)
        while i < self.n:
            long = max(2, int(period * busy * self.rng.uniform(0.5, 1.5)))
            high = size * self.rng.uniform(0.5, 1.0)
            for k in range(i, min(i + long, self.n)):
                self.values[k] += high * min(1.0, (k - i + 1) / (0.3 * long))
                self.active[k] += 1
            i += long
            ends.append(min(i, self.n - 1))
            i += max(1, int(period * (1 - busy) * self.rng.uniform(0.4, 1.8)))
        return ends

    def bursts(self, size: float, share: float) -> None:
        held = 0.0
        for i in range(self.n):
            if self.rng.random() < share:
                held += size * self.rng.uniform(0.3, 1.0)
            held *= 0.7
            self.values[i] += min(held, size)

    def cache(self, size: float, begin: float, end: float, bend: float = 0.0, known: bool = True) -> None:
        """A cache that fills from ``begin`` to ``end`` of the time; the larger ``bend``, the more it slows."""
        cap = 10_000
        last = self.times[-1]
        for i, t in enumerate(self.times):
            u = min(1.0, max(0.0, (t / last - begin) / (end - begin)))
            fill = u if bend == 0 else (1 - math.exp(-bend * u)) / (1 - math.exp(-bend))
            self.values[i] += size * fill
            if known:
                self.caches[i].append((round(cap * fill), cap))

    def restart(self, count: int) -> None:
        """From here on parts that were added begin anew (call ``reborn`` with them)."""
        self.restarts = sorted(self.rng.sample(range(self.n // 8, self.n - self.n // 8), count))

    # --- ends ---

    def irregular(self) -> None:
        """Times that are anything but even, values as they would have been seen then, in whole pages of 2 MiB."""
        keep = sorted(self.rng.sample(range(self.n), max(200, self.n * 3 // 5)))
        jitter = {i: self.rng.uniform(0, 0.9) * self.step for i in keep}
        self.times = [i * self.step + jitter[i] for i in keep]
        self.values = [2 * round(self.values[i] / 2) for i in keep]
        self.caches, self.active = [self.caches[i] for i in keep], [self.active[i] for i in keep]
        self.collected = {bisect_right(keep, i) - 1 for i in self.collected}
        self.n = len(keep)

    def done(self, limit: float | list[float] | None = None) -> Series:
        """A healthy series."""
        most = limit if limit is not None else self.level + self.headroom
        limits = most if isinstance(most, list) else [max(most, 1.02 * max(self.values))] * self.n
        return self._series(limits, self.n)

    def leaking(self, onset: float, end: float | None = None) -> Series:
        """A series that leaks from ``onset`` (share of the time) until its memory is exhausted."""
        stop = int(self.n * (end or self.rng.uniform(0.85, 1.0)))
        first = bisect_right(self.times, onset * self.times[-1])
        limit = max(self.values[:stop])
        exhausted = next(i for i in range(stop) if self.values[i] >= limit)
        made = self._series([limit] * self.n, exhausted + 1)
        made.onset, made.exhausted = self.times[min(first, exhausted - 1)], self.times[exhausted]
        return made

    def _series(self, limits: list[float], stop: int) -> Series:
        collections = list(accumulate(int(i in self.collected) for i in range(stop)))
        return Series(
            self.family, self.times[:stop], [max(1.0, v) for v in self.values[:stop]], limits[:stop],
            restarts=[i for i in self.restarts if i < stop], caches=self.caches[:stop], active=self.active[:stop],
            collections=collections,
        )  # fmt: skip


Family = Callable[[Make], Series]


def _after(onset: float, shape: Callable[[float], float]) -> Callable[[float], float]:
    return lambda u: 0.0 if u <= onset else shape((u - onset) / (1 - onset))


# --- healthy ---------------------------------------------------------------------------------------------------


def flat(m: Make) -> Series:
    m.warm()
    m.blur()
    return m.done()


def heavy(m: Make) -> Series:
    m.warm()
    m.blur(heavy=True)
    return m.done()


def warmup(m: Make) -> Series:
    size, slow = m.headroom * m.rng.uniform(0.1, 0.5), m.rng.uniform(0.03, 0.2)
    m.add(lambda u: size * (1 - math.exp(-u / slow)))
    m.blur()
    return m.done()


def logarithmic(m: Make) -> Series:
    size, slow, stop = m.headroom * m.rng.uniform(0.1, 0.45), m.rng.uniform(0.005, 0.05), m.rng.uniform(0.5, 1.0)
    m.add(lambda u: size * math.log1p(min(u, stop) / slow) / math.log1p(1 / slow))
    m.blur()
    return m.done()


def cache_straight(m: Make) -> Series:
    m.warm(0.05)
    begin = m.rng.choice((0.0, m.rng.uniform(0.05, 0.4)))
    m.cache(m.headroom * m.rng.uniform(0.1, 0.5), begin, begin + m.rng.uniform(0.15, 0.55))
    m.blur()
    return m.done()


def cache_saturating(m: Make) -> Series:
    m.warm(0.05)
    begin = m.rng.choice((0.0, m.rng.uniform(0.05, 0.4)))
    m.cache(m.headroom * m.rng.uniform(0.1, 0.5), begin, begin + m.rng.uniform(0.4, 1.2), m.rng.uniform(2, 5))
    m.blur()
    return m.done()


def two_caches(m: Make) -> Series:
    m.warm(0.05)
    first = m.rng.uniform(0.1, 0.3)
    m.cache(m.headroom * m.rng.uniform(0.05, 0.22), 0.0, first, m.rng.choice((0, 2, 4)))
    begin = first + m.rng.uniform(0.05, 0.25)
    m.cache(m.headroom * m.rng.uniform(0.05, 0.25), begin, begin + m.rng.uniform(0.15, 0.4), m.rng.choice((0, 2, 4)))
    m.blur()
    return m.done()


def hump(m: Make) -> Series:
    m.warm(0.05)
    begin, long, size = m.rng.uniform(0.1, 0.5), m.rng.uniform(0.1, 0.4), m.headroom * m.rng.uniform(0.1, 0.45)
    rise = m.rng.choice((0.5, 0.75, 0.95))

    def shape(u: float) -> float:
        x = (u - begin) / long
        return 0.0 if not 0 < x < 1 else size * (x / rise if x < rise else (1 - x) / (1 - rise))

    m.add(shape)
    last = m.times[-1]
    for i, t in enumerate(m.times):
        m.active[i] += 0 < (t / last - begin) / long < 1
    m.blur()
    return m.done()


def sawtooth(m: Make) -> Series:
    m.warm(0.05)
    m.teeth(m.headroom * m.rng.uniform(0.05, 0.5), m.rng.randint(8, 120))
    m.blur()
    return m.done()


def daily(m: Make) -> Series:
    m.warm(0.05)
    m.day(m.headroom * m.rng.uniform(0.1, 0.5), m.rng.uniform(1.5, 8))
    m.blur()
    return m.done()


def batch(m: Make) -> Series:
    m.warm(0.05)
    m.batches(m.headroom * m.rng.uniform(0.1, 0.6), m.rng.randint(10, 150), m.rng.uniform(0.2, 0.8))
    m.blur()
    return m.done()


def steps(m: Make) -> Series:
    m.warm(0.05)
    loaded: list[float] = []
    at = sorted(m.rng.random() for _ in range(m.rng.randint(2, 9)))
    changes = []
    for when in at:
        if loaded and (m.rng.random() < 0.4 or sum(loaded) > 0.35 * m.headroom):
            size = -loaded.pop(m.rng.randrange(len(loaded)))
        else:
            loaded.append(size := m.headroom * m.rng.uniform(0.03, 0.2))
        changes.append((when, size))
    m.add(lambda u: sum(size for when, size in changes if u >= when))
    m.blur()
    return m.done()


def bursts(m: Make) -> Series:
    m.warm(0.05)
    m.bursts(m.headroom * m.rng.uniform(0.1, 0.7), m.rng.uniform(0.005, 0.08))
    m.blur()
    return m.done()


def irregular(m: Make) -> Series:
    m.warm()
    m.day(m.headroom * m.rng.uniform(0.0, 0.2), m.rng.uniform(1.5, 8))
    m.blur()
    m.irregular()
    return m.done()


def restarts(m: Make) -> Series:
    m.restart(m.rng.randint(1, 5))
    size, slow = m.headroom * m.rng.uniform(0.05, 0.4), m.n * m.rng.uniform(0.01, 0.06)
    born = 0
    for i in range(m.n):
        if i in m.restarts:
            born = i
        m.values[i] += size * (1 - math.exp(-(i - born) / slow))
    m.blur()
    return m.done()


def clock_set(m: Make) -> Series:
    m.warm(0.05)
    m.day(m.headroom * m.rng.uniform(0.0, 0.25), m.rng.uniform(1.5, 8))
    m.blur()
    made = m.done()
    return _set_clock(made, m.rng)


def _set_clock(made: Series, rng: random.Random) -> Series:
    made.true_times, reported, off = made.times, [], 0.0
    for t in made.times:
        if rng.random() < 0.004:
            off += rng.choice((-7200.0, -3600.0, -30.0, 45.0, 3600.0, 86400.0))
        reported.append(t + off)
    made.times = reported
    return made


def limit_moves(m: Make) -> Series:
    m.warm(0.05)
    m.teeth(m.headroom * m.rng.uniform(0.01, 0.1), m.rng.randint(8, 40))
    m.blur()
    top = max(m.values)
    limits, most = [], top + m.headroom * m.rng.uniform(0.4, 1.0)
    for _ in range(m.n):
        if m.rng.random() < 0.003:
            most = top + m.headroom * m.rng.uniform(0.15, 1.2)
        limits.append(most)
    return m.done(limits)


# --- leaks -----------------------------------------------------------------------------------------------------


def _onset(m: Make, least: float = 0.1, most: float = 0.5) -> float:
    return m.rng.uniform(least, most)


def leak_slow(m: Make) -> Series:
    m.warm()
    m.noise = m.headroom * m.rng.uniform(0.01, 0.04)
    at = _onset(m)
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at)


def leak_fast(m: Make) -> Series:
    m.warm()
    at = _onset(m, 0.2, 0.6)
    end = at + m.rng.uniform(0.06, 0.25)
    m.add(lambda u: m.headroom * max(0.0, u - at) / (end - at))
    m.blur()
    return m.leaking(at, end)


def leak_late(m: Make) -> Series:
    m.warm()
    at = _onset(m, 0.6, 0.85)
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at, 1.0)


def leak_birth(m: Make) -> Series:
    m.warm(0.1)
    m.add(lambda u: m.headroom * u)
    m.blur()
    return m.leaking(0.0)


def leak_teeth(m: Make) -> Series:
    m.warm(0.05)
    at = _onset(m)
    m.teeth(m.headroom * m.rng.uniform(0.05, 0.4), m.rng.randint(8, 60))
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at)


def leak_daily(m: Make) -> Series:
    m.warm(0.05)
    at = _onset(m, 0.1, 0.35)
    m.day(m.headroom * m.rng.uniform(0.05, 0.35), m.rng.uniform(4, 14))
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at)


def leak_tasks(m: Make) -> Series:
    """Each task keeps a little; between bouts of work nothing grows."""
    m.warm(0.05)
    at = _onset(m)
    held, busy = 0.0, True
    for i in range(m.n):
        if m.rng.random() < (0.03 if busy else 0.06):
            busy = not busy
        if busy and i >= at * m.n and m.rng.random() < 0.6:
            held += m.headroom / m.n * m.rng.uniform(0.5, 4)
        m.values[i] += held
    m.blur()
    return m.leaking(at)


def leak_faster(m: Make) -> Series:
    m.warm(0.05)
    at, power = _onset(m), m.rng.uniform(1.3, 2.2)
    m.add(_after(at, lambda x: m.headroom * x**power))
    m.blur()
    return m.leaking(at)


def leak_slower(m: Make) -> Series:
    m.warm(0.05)
    at, power = _onset(m), m.rng.uniform(0.55, 0.85)
    m.add(_after(at, lambda x: m.headroom * x**power))
    m.blur()
    return m.leaking(at)


def leak_stairs(m: Make) -> Series:
    m.warm(0.05)
    at, count = _onset(m), m.rng.randint(9, 40)
    whens = sorted(m.rng.uniform(at, 1) for _ in range(count))
    heights = [m.rng.uniform(0.4, 1.6) * m.headroom / count for _ in whens]
    sums = [0.0]
    for height in heights:
        sums.append(sums[-1] + height)
    m.add(lambda u: sums[bisect_right(whens, u)])
    m.blur()
    return m.leaking(at)


def leak_restarts(m: Make) -> Series:
    """Restarts while it leaks: each process leaks from its start on; the last one runs out."""
    m.warm(0.02)
    at = _onset(m, 0.1, 0.3)
    m.restarts = sorted(m.rng.uniform(at + 0.1, 0.6) for _ in range(m.rng.randint(1, 2)))  # type: ignore[misc]
    m.restarts = [int(u * m.n) for u in m.restarts]
    born, last = int(at * m.n), m.n - (m.restarts[-1] if m.restarts else 0)
    for i in range(m.n):
        if i in m.restarts:
            born = i
        m.values[i] += m.headroom * max(0, i - born) / last
    m.blur()
    return m.leaking(at, 1.0)


def leak_bursts(m: Make) -> Series:
    m.warm(0.05)
    at = _onset(m)
    m.bursts(m.headroom * m.rng.uniform(0.05, 0.4), m.rng.uniform(0.01, 0.08))
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at)


def leak_beside_cache(m: Make) -> Series:
    m.warm(0.05)
    at = _onset(m)
    m.cache(m.headroom * m.rng.uniform(0.05, 0.3), 0.0, m.rng.uniform(0.1, 0.6), m.rng.choice((0, 3)))
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at)


def leak_irregular(m: Make) -> Series:
    m.warm(0.05)
    at = _onset(m)
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    m.irregular()
    return m.leaking(at)


def leak_batches(m: Make) -> Series:
    """Peaks over a floor that rises with each job."""
    m.warm(0.05)
    at = _onset(m, 0.05, 0.3)
    ends = m.batches(m.headroom * m.rng.uniform(0.3, 1.2), m.rng.randint(12, 60), m.rng.uniform(0.3, 0.7))
    kept, each = 0.0, 0.6 * m.headroom / max(1, sum(end > at * m.n for end in ends))
    marks = set(ends)
    for i in range(m.n):
        if i in marks and i > at * m.n:
            kept += each * m.rng.uniform(0.5, 1.5)
        m.values[i] += kept
    m.blur()
    return m.leaking(at)


def leak_clock_set(m: Make) -> Series:
    m.warm(0.05)
    at = _onset(m)
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return _set_clock(m.leaking(at), m.rng)


WATCHED: dict[str, Family] = {
    each.__name__: each
    for each in (
        flat, heavy, warmup, logarithmic, cache_straight, cache_saturating, two_caches, hump, sawtooth, daily, batch,
        steps, bursts, irregular, restarts, clock_set, limit_moves,
        leak_slow, leak_fast, leak_late, leak_birth, leak_teeth, leak_daily, leak_tasks, leak_faster, leak_slower,
        leak_stairs, leak_restarts, leak_bursts, leak_beside_cache, leak_irregular, leak_batches, leak_clock_set,
    )
}  # fmt: skip


# --- set apart: nothing was chosen by these -----------------------------------------------------------------------


def wandering(m: Make) -> Series:
    """A level that wanders and always comes back."""
    m.warm(0.05)
    at, pull, size = 0.0, m.rng.uniform(0.01, 0.1), m.headroom * m.rng.uniform(0.03, 0.1)
    for i in range(m.n):
        at += -pull * at + m.rng.gauss(0, size * math.sqrt(2 * pull))
        m.values[i] += max(-0.5 * m.level, at)
    m.blur()
    return m.done()


def fragmented(m: Make) -> Series:
    """An arena whose high-water mark rises ever more seldom."""
    m.warm(0.05)
    mark, size = 0.0, m.headroom * m.rng.uniform(0.1, 0.3)
    for i in range(m.n):
        mark = max(mark, size * (1 - 1 / (1 + m.rng.expovariate(1.2))))
        m.values[i] += mark + (0.0 if i % 7 else 0.02 * size)
    m.blur()
    return m.done()


def weekend(m: Make) -> Series:
    """Five working days of load, two of rest."""
    m.warm(0.05)
    size, days = m.headroom * m.rng.uniform(0.15, 0.45), m.rng.randint(6, 16)
    m.add(lambda u: size * max(0.0, math.sin(math.pi * (u * days % 1))) * (0.15 if int(u * days) % 7 >= 5 else 1.0))
    m.blur()
    return m.done()


def trimmed_cache(m: Make) -> Series:
    """A cache that grows and is cut to half, again and again."""
    m.warm(0.05)
    held, most = 0.0, m.headroom * m.rng.uniform(0.1, 0.4)
    rate = most / m.rng.randint(60, 400)
    for i in range(m.n):
        held += rate * m.rng.uniform(0.3, 1.7)
        if held > most:
            held *= 0.5
        m.values[i] += held
    m.blur()
    return m.done()


def new_version(m: Make) -> Series:
    """Restarts to a version that needs more or less."""
    m.restart(m.rng.randint(1, 4))
    now = 0.0
    for i in range(m.n):
        if i in m.restarts:
            now = m.headroom * m.rng.uniform(-0.1, 0.4)
        m.values[i] += now
    m.blur()
    return m.done()


def leak_trimmed(m: Make) -> Series:
    """Now and then some of it is given back, never all."""
    m.warm(0.05)
    at = _onset(m, 0.1, 0.4)
    held, rate = 0.0, 1.6 * m.headroom / m.n
    for i in range(m.n):
        if i >= at * m.n:
            held += rate
            if m.rng.random() < 0.02:
                held *= m.rng.uniform(0.85, 0.97)
        m.values[i] += held
    m.blur()
    return m.leaking(at)


def leak_two_rates(m: Make) -> Series:
    m.warm(0.05)
    at = _onset(m, 0.1, 0.4)
    turn, ratio = m.rng.uniform(0.3, 0.7), m.rng.uniform(0.3, 3)
    m.add(_after(at, lambda x: m.headroom * (min(x, turn) + ratio * max(0.0, x - turn))))
    m.blur()
    return m.leaking(at)


def leak_office_hours(m: Make) -> Series:
    """Grows by day, rests by night; nothing is ever given back."""
    m.warm(0.05)
    at, days, held = _onset(m, 0.05, 0.3), m.rng.randint(6, 20), 0.0
    for i in range(m.n):
        if i >= at * m.n and (i / m.n * days) % 1 < 0.45:
            held += m.headroom / m.n * 2
        m.values[i] += held
    m.blur()
    return m.leaking(at)


def leak_after_step(m: Make) -> Series:
    """A model is loaded, and from then on each call keeps something."""
    m.warm(0.05)
    at, size = _onset(m, 0.2, 0.5), m.headroom * m.rng.uniform(0.1, 0.4)
    m.add(lambda u: size if u > at else 0.0)
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at)


def leak_wandering(m: Make) -> Series:
    m.warm(0.05)
    at, where = _onset(m, 0.1, 0.4), 0.0
    for i in range(m.n):
        where += -0.05 * where + m.rng.gauss(0, m.headroom * 0.008)
        m.values[i] += max(-0.5 * m.level, where)
    m.add(_after(at, lambda x: m.headroom * x))
    m.blur()
    return m.leaking(at)


APART: dict[str, Family] = {
    each.__name__: each
    for each in (
        wandering, fragmented, weekend, trimmed_cache, new_version,
        leak_trimmed, leak_two_rates, leak_office_hours, leak_after_step, leak_wandering,
    )
}  # fmt: skip


def series(families: dict[str, Family], seed: int, count: int) -> Iterator[Series]:
    """``count`` series of each family, from this seed on."""
    for name, family in families.items():
        for at in range(count):
            yield family(Make(name, seed + at))
