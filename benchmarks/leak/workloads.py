"""Records real Python processes: ``python -m benchmarks.leak.workloads FOLDER [SECONDS] [NAME…]``.

Each workload is a process of its own that works in small bouts; its resident size is read four times a second. What it
keeps, and from when on, it knows itself: that is the label. Recordings are CSV (``t_s,rss_kib``), packed with gzip.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path

EVERY = 0.25
KIB = 1024


def _bouts(seconds: float, pause: float = 0.05) -> Iterator[float]:
    """The share of the time that has passed, again and again."""
    begin = time.monotonic()
    while (passed := time.monotonic() - begin) < seconds:
        yield passed / seconds
        time.sleep(pause)


def _blob(size: int) -> bytes:
    return os.urandom(64) * (size // 64)


# --- healthy ---


def queue_daily(seconds: float) -> None:
    """Load that comes and goes as days do."""
    held: deque[bytes] = deque()
    for u in _bouts(seconds):
        want = int(60 * (0.5 - 0.5 * __import__("math").cos(2 * 3.14159 * 4 * u)))
        while len(held) < want:
            held.append(_blob(400 * KIB))
        while len(held) > want:
            held.popleft()


def ttl_cache(seconds: float) -> None:
    """Entries live for a tenth of the time; fills, then stands."""
    held: deque[tuple[float, bytes]] = deque()
    for u in _bouts(seconds):
        held.append((u, _blob(80 * KIB)))
        while held and u - held[0][0] > 0.1:
            held.popleft()


def lru_two(seconds: float) -> None:
    """A cache fills in the first quarter, a second one in the third."""
    first: OrderedDict[int, bytes] = OrderedDict()
    second: OrderedDict[int, bytes] = OrderedDict()
    number = 0
    for u in _bouts(seconds):
        for cache, begin, most in ((first, 0.05, 500), (second, 0.5, 400)):
            if u > begin:
                number += 1
                cache[number] = _blob(40 * KIB)
                if len(cache) > most:
                    cache.popitem(last=False)


def cycles(seconds: float) -> None:
    """Cyclic garbage, collected now and then."""
    import gc

    gc.disable()
    made = 0
    for _ in _bouts(seconds):
        for _ in range(4):
            ring: list[object] = [_blob(30 * KIB)]
            ring.append(ring)
        made += 4
        if made > 400:
            gc.collect()
            made = 0


def report_jobs(seconds: float) -> None:
    """Every so often a report that takes much and gives it back."""
    rng, job, until = random.Random(3), [], 0.0
    for u in _bouts(seconds):
        if not job and rng.random() < 0.02:
            until = u + rng.uniform(0.02, 0.08)
        if u < until:
            job.append(_blob(500 * KIB))
            if len(job) > 90:
                job.pop()
        else:
            job = []


def parse_texts(seconds: float) -> None:
    """Texts are parsed, counted and dropped; the counts are of a bounded vocabulary."""
    rng, counts = random.Random(5), {}
    for _ in _bouts(seconds):
        words = [f"word{int(rng.paretovariate(0.9)) % 60_000}" for _ in range(3000)]
        for word in words:
            counts[word] = counts.get(word, 0) + 1


def long_job(seconds: float) -> None:
    """One long job gathers its results, writes them and is done."""
    gathered: list[bytes] = []
    for u in _bouts(seconds):
        if 0.3 < u < 0.65:
            gathered.append(_blob(30 * KIB))
        elif u >= 0.65:
            gathered = []


# --- leaks ---


def sessions(seconds: float) -> float:
    """Sessions that are never closed, from a third on."""
    kept: dict[int, dict[str, object]] = {}
    onset = 0.33
    for u in _bouts(seconds):
        if u > onset:
            for _ in range(6):
                kept[len(kept)] = {"id": len(kept), "data": list(range(120)), "name": f"user{len(kept)}" * 3}
    return onset


def callbacks(seconds: float) -> float:
    """Listeners that hold what they listened to, from a tenth on; requests make garbage beside them."""
    kept: list[object] = []
    onset, rng = 0.1, random.Random(7)
    for u in _bouts(seconds):
        _ = [_blob(rng.randint(10, 300) * KIB) for _ in range(10)]
        if u > onset:
            payload = _blob(9 * KIB)
            kept.append(lambda payload=payload: payload)
    return onset


def per_job(seconds: float) -> float:
    """Jobs that take 20 to 40 MiB, and each keeps a little of it."""
    kept: list[bytes] = []
    rng, job, until = random.Random(9), [], 0.0
    onset = 0.05
    for u in _bouts(seconds):
        if not job and rng.random() < 0.05:
            until = u + rng.uniform(0.01, 0.04)
        if u < until:
            job.append(_blob(500 * KIB))
            if len(job) > 60:
                job.pop()
        elif job:
            if u > onset:
                kept.append(_blob(900 * KIB))
            job = []
    return onset


def unbounded_cache(seconds: float) -> float:
    """A cache by full query, which never repeats."""
    cache: dict[str, bytes] = {}
    onset = 0.15
    for u in _bouts(seconds):
        if u > onset:
            cache[f"query {u}"] = _blob(16 * KIB)
    return onset


def late_and_fast(seconds: float) -> float:
    """Quiet for two thirds, then fast."""
    kept: list[bytes] = []
    onset = 0.66
    for u in _bouts(seconds):
        _ = [_blob(20 * KIB) for _ in range(20)]
        if u > onset:
            kept.append(_blob(60 * KIB))
    return onset


def cycles_kept(seconds: float) -> float:
    """Cyclic garbage as in ``cycles``, and a registry that keeps some of it."""
    import gc

    gc.disable()
    made, kept = 0, []
    onset = 0.2
    for u in _bouts(seconds):
        for _ in range(4):
            ring: list[object] = [_blob(20 * KIB)]
            ring.append(ring)
        if u > onset:
            kept.append([_blob(14 * KIB)])
        made += 4
        if made > 300:
            gc.collect()
            made = 0
    return onset


HEALTHY = (queue_daily, ttl_cache, lru_two, cycles, report_jobs, parse_texts, long_job)
LEAKS = (sessions, callbacks, per_job, unbounded_cache, late_and_fast, cycles_kept)
WORKLOADS = {each.__name__: each for each in HEALTHY + LEAKS}


def record(name: str, folder: Path, seconds: float) -> dict[str, object]:
    """Runs one workload and writes its recording; returns its label."""
    page = os.sysconf("SC_PAGE_SIZE") // KIB
    command = [sys.executable, "-m", "benchmarks.leak.workloads", "--run", name, str(seconds)]
    lines = ["t_s,rss_kib"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        begin = time.monotonic()
        while child.poll() is None:
            resident = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * page
            if resident > 4 * KIB:  # before, it is not yet the program that it will be
                lines.append(f"{time.monotonic() - begin:.2f},{resident}")
            time.sleep(EVERY)
        said = child.stdout.read() if child.stdout else ""
    (folder / f"{name}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n", 9, mtime=0))
    label: dict[str, object] = {"doc": (WORKLOADS[name].__doc__ or "").strip(), "leak": said.strip() != "None"}
    if label["leak"]:
        label["onset_s"] = round(float(said) * seconds, 2)
    return label


def main(arguments: list[str]) -> None:
    if arguments[0] == "--run":
        print(WORKLOADS[arguments[1]](float(arguments[2])))
        return
    folder, seconds = Path(arguments[0]), float(arguments[1])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labels.json"
    for name in arguments[2:] or WORKLOADS:
        label = record(name, folder, seconds)
        labels = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**labels, name: label}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
