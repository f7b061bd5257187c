"""What the monitors of the old names weigh: CPU seconds an hour at their default intervals, and added memory.

Each case is a process of its own with the real readers. At 300 s a run would take an hour, so the cost of
a sample is measured at a short interval, and scaled to those of an hour; the cost of the process between samples is
measured while nothing is due. Each sample is expensive: every check alerts and flushes its line to the disk.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile

#: Seconds between samples by default, and what is promised: a share of one core, and MiB that are added at most.
CASES = {"memory_manager": 2.0, "simple_memory_monitor": 300.0, "both": 2.0}
SHARE, BEYOND_IMPORTS, IN_ALL = 0.01, 2.0, 10.0

_PROGRAM = """
import gc, json, sys, time
def private():
    gc.collect()
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
case, log, samples = sys.argv[1], sys.argv[2], int(sys.argv[3])
empty = private()
from memwarden.readers.factory import default_readers
if case != "memory_manager":
    from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
if case != "simple_memory_monitor":
    from memwarden.compat.memory_manager import MemoryMonitor
imported = private()
class Counting:
    name, seen = "counting", 0
    def read(self):
        Counting.seen += 1
        return {}
    def close(self):
        pass
sources = lambda: [*default_readers(), Counting()]
def run(interval):
    if case != "memory_manager":
        simple = SimpleMemoryMonitor(interval, 0.0, log, sources=sources)
        simple.alert.alert_cooldown_seconds = 0.0
        simple.start()
        yield
    if case != "simple_memory_monitor":
        pressure = MemoryMonitor(interval, sources=sources)
        pressure.start_monitoring()
        yield
    if case != "memory_manager":
        simple.stop()
    if case != "simple_memory_monitor":
        pressure.stop_monitoring()
    yield
life = run(0.02)
for _ in range(2 if case == "both" else 1):
    next(life)
first, started = Counting.seen, time.process_time()
while Counting.seen - first < samples:
    time.sleep(0.2)
cost = (time.process_time() - started) / (Counting.seen - first)
weight = private()
next(life)
life = run(1000.0)
next(life)
started, wall = time.process_time(), time.monotonic()
time.sleep(2)
idle = (time.process_time() - started) / (time.monotonic() - wall)
print(json.dumps([cost, idle, weight - imported, weight - empty]))
"""


def measure(case: str, rounds: int, samples: int = 200) -> tuple[float, ...]:
    """CPU seconds of a sample, share of a core between samples, bytes beyond the imports and in all: medians."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="memwarden-bench-") as folder:
            command = [sys.executable, "-c", _PROGRAM, case, f"{folder}/memory.log", str(samples)]
            found.append(json.loads(subprocess.check_output(command, timeout=300)))
    return tuple(statistics.median(column) for column in zip(*found, strict=True))


def main(rounds: int = 3) -> bool:
    """Print the table; whether the promises are kept."""
    print("The monitors of the old names at their default intervals (a check that alerts each time)\n")
    print(f"{'':24}{'every':>8}{'CPU s/hour':>12}{'% of a core':>13}{'MiB beyond imports':>20}{'MiB in all':>12}")
    kept = True
    for case, interval in CASES.items():
        cost, idle, beyond, everything = measure(case, rounds)
        share = cost / interval + idle
        sizes = beyond / 2**20, everything / 2**20
        print(f"{case:24}{interval:6g} s{share * 3600:12.2f}{share * 100:13.4f}{sizes[0]:20.2f}{sizes[1]:12.2f}")
        kept &= share < SHARE and sizes[0] < BEYOND_IMPORTS and sizes[1] < IN_ALL
    return kept


if __name__ == "__main__":
    sys.exit(not main(*map(int, sys.argv[1:2])))
