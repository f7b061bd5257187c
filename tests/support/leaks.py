"""Series of memory in use for the tests of the leak verdict."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from memwarden.assess.leak import LeakDetector, Left

FOLDER = Path(__file__).parent.parent / "fixtures" / "leak"


class Verdict(NamedTuple):
    """Result of a detector for one reading."""

    stage: int
    left: Left | None


def noisy(shape: Callable[[int], float], count: int = 1000, noise: float = 0.5, seed: int = 1) -> list[float]:
    """A shape over reading numbers, with noise."""
    rng = random.Random(seed)
    return [shape(i) + rng.gauss(0, noise) for i in range(count)]


def watched(
    values: Sequence[float | None], limit: float | None = 1000.0, step: float = 10.0, found: LeakDetector | None = None
) -> list[Verdict]:
    """One detector over evenly spaced readings."""
    found = LeakDetector() if found is None else found
    return [Verdict(*found.update(i * step, value, limit)) for i, value in enumerate(values)]


def leaking(i: int) -> float:
    """Calm at 100 MiB for 300 readings, then one MiB a reading: at 1000 after 900 of them."""
    return 100 + max(0, i - 300)


def sawtooth(i: int) -> float:
    """Garbage that takes 300 MiB in 40 readings and is then collected."""
    return 100 + 300 * (i % 40) / 40


def cache(i: int) -> float:
    """Calm at 100 MiB, then 330 MiB of cache in 300 readings, then full."""
    return 100 + 1.1 * min(300, max(0, i - 300))


def warmup(i: int) -> float:
    """A start that takes 400 MiB, ever slower."""
    return 500 - 400 * math.exp(-i / 120)


class Recording(NamedTuple):
    """A recorded process: seconds, MiB, and from when on it leaked."""

    name: str
    times: list[float]
    values: list[float]
    onset: float | None

    def at(self, every: float) -> Recording:
        """As it would have been seen at this interval."""
        times: list[float] = []
        values: list[float] = []
        for t, value in zip(self.times, self.values, strict=True):
            if not times or t - times[-1] >= 0.9 * every:
                times.append(t)
                values.append(value)
        return Recording(self.name, times, values, self.onset)


def recordings() -> list[Recording]:
    """Those beside these tests, made by ``python -m benchmarks.leak.workloads``."""
    made = []
    for name, label in sorted(json.loads((FOLDER / "labels.json").read_text()).items()):
        lines = gzip.decompress((FOLDER / f"{name}.csv.gz").read_bytes()).decode().splitlines()[1:]
        rows = [line.split(",") for line in lines]
        onset = label["onset_s"] if label["leak"] else None
        made.append(Recording(name, [float(t) for t, _ in rows], [int(kib) / 1024 for _, kib in rows], onset))
    return made
