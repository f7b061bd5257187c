"""Recordings of real processes, as series to score.

A folder holds ``labels.json`` and for each workload a CSV (``t_s,rss_kib``), plain or gzip'd. A leak's limit is what it
reaches in the first 95 % of the recording; a healthy one's is twice its maximum.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.leak.families import Series

EVERY = (0.2, 1.0, 3.0)


def recordings(folder: Path, every: tuple[float, ...] = EVERY) -> Iterator[Series]:
    """Each recording as it would have been seen at each of these intervals."""
    labels = json.loads((folder / "labels.json").read_text())
    for name, label in sorted(labels.items()):
        times, values = read(folder, name)
        for step in every:
            at, seen = [], []
            for t, value in zip(times, values, strict=True):
                if not at or t - at[-1] >= 0.9 * step:
                    at.append(t)
                    seen.append(value)
            yield labelled(f"{name}@{step:g}", at, seen, label["onset_s"] if label["leak"] else None)


def read(folder: Path, name: str) -> tuple[list[float], list[float]]:
    """Seconds and MiB of one recording."""
    packed = folder / f"{name}.csv.gz"
    text = gzip.decompress(packed.read_bytes()).decode() if packed.exists() else (folder / f"{name}.csv").read_text()
    rows = [line.split(",") for line in text.splitlines()[1:]]
    return [float(t) for t, _ in rows], [int(kib) / 1024 for _, kib in rows]


def labelled(name: str, times: list[float], values: list[float], onset: float | None) -> Series:
    if onset is None:
        return Series(name, times, values, [2 * max(values)] * len(values))
    stop = int(0.95 * len(values))
    limit = max(values[:stop])
    end = values.index(limit) + 1
    return Series(name, times[:end], values[:end], [limit] * end, onset=onset, exhausted=times[end - 1])
