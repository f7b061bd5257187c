"""What one sample costs that is kept: CPU time of the thread that records, which is all a record takes.

The bare ones are the least that does the same with the standard library: ``json.dumps`` of the plain value and one
``write``; and that text with its time as one insert, each in a transaction of its own, into a table without an index,
with a log and without a flush. Rounds of all take turns, each into the file that it began with, and what SQLite does
now and then (writing its log back, our making rows of old samples) happens in them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable

from memwarden.engine.warden import Warden
from memwarden.model.events import Event, EventKind
from memwarden.model.serialize import to_dict
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.statistics import Statistics

ROUNDS, SAMPLES = 15, 400
#: Maximum ratio to the bare one. Both make the same text (``json.dumps`` of the plain value), so what is bounded is
#: the rest: rotation and torn lines; batches, and rows of old samples.
PROMISED = {"JSONL": ("bare JSON line", 1.2), "SQLite, 10 a second": ("bare SQLite insert", 1.2)}


def _bare_line(folder: str) -> Callable[[Event], object]:
    fd = os.open(f"{folder}/bare.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda event: os.write(fd, json.dumps(to_dict(event)).encode() + b"\n")


def _bare_insert(folder: str) -> Callable[[Event], object]:
    db = sqlite3.connect(f"{folder}/bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE samples (time REAL, plain TEXT)")
    insert = "INSERT INTO samples VALUES (?, ?)"
    return lambda event: db.execute(insert, (event.wall, json.dumps(to_dict(event))))


def main() -> bool:
    """Print the table; whether every promise was kept."""
    warden = Warden()
    reading = warden.sample()
    warden.close()
    now = [0.0]

    def history(name: str, interval: float) -> Callable[[Event], object]:
        moment = [0.0]
        recorder = SqliteRecorder(f"{folder}/{name}.db", detail="5m", wall=lambda: now[0], monotonic=lambda: moment[0])

        def record(event: Event) -> None:
            moment[0] += interval
            recorder.record(event)

        return record

    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[Event], object]] = {
            "bare JSON line": _bare_line(folder),
            "JSONL": JsonlRecorder(f"{folder}/record.jsonl").record,
            "bare SQLite insert": _bare_insert(folder),
            "SQLite, 1 a second": history("one", 1.0),
            "SQLite, 10 a second": history("ten", 0.1),
            "statistics": Statistics().record,
        }
        costs: dict[str, list[float]] = {name: [] for name in ways}
        now[0] = time.time()
        for _ in range(ROUNDS):
            events = []
            for _ in range(SAMPLES):
                now[0] += 1.0
                sample = reading.sample._replace(wall=now[0], monotonic=now[0])
                value = reading._replace(sample=sample)
                events.append(Event(kind=EventKind.SAMPLE, wall=now[0], monotonic=now[0], value=value))
            for name, record in ways.items():
                started = time.thread_time()
                for event in events:
                    record(event)
                costs[name].append((time.thread_time() - started) / SAMPLES * 1e6)
        size = os.path.getsize(f"{folder}/record.jsonl") / (ROUNDS * SAMPLES)
    medians = {name: statistics.median(values) for name, values in costs.items()}
    print(f"CPU of one sample that is kept ({size:.0f} bytes as a line): median of {ROUNDS} rounds")
    kept = True
    for name, median in medians.items():
        row = f"{name:<22}{median:>8.1f} us"
        if name in PROMISED:
            bare, most = PROMISED[name]
            ratio = median / medians[bare]
            row += f"{ratio:>8.2f}x of the {bare} (promised: {most:g}x)"
            kept &= ratio <= most
        print(row)
    return kept


if __name__ == "__main__":
    main()
