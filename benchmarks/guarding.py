"""What a guarded block costs: a checkpoint, and its beginning and end.

Rounds of all ways take turns in this process. A checkpoint is measured against two reads of ``/proc/self/statm`` with
their parsing, opened each time: the least that a program without memwarden would write for it. A whole guard is
measured against two threads that are started and joined, which is what a watch of its own would begin with.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

from memwarden.guards.budget.memory_guard import memory_guard

ROUNDS, CHECKS, BLOCKS = 15, 2000, 20
#: What is promised.
MOST_TIMES, MOST_MILLISECONDS = 1.0, 10.0


def _floor() -> int:
    total = 0
    for _ in range(2):
        with open("/proc/self/statm", "rb") as file:
            fields = file.read().split()
        total += (int(fields[1]) - int(fields[2])) * 4096
    return total


def _threads() -> None:
    both = [threading.Thread(target=threading.Event().is_set) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()


def _guard() -> None:
    with memory_guard("1GiB"):
        pass


def _microseconds(call: Callable[[], object], times: int) -> float:
    started_at = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started_at) / times * 1e6


def main() -> bool:
    """Prints the table; whether what is promised was kept."""
    reported: dict[str, list[float]] = {"check": [], "floor": [], "guard": [], "threads": []}
    _guard()
    for _ in range(ROUNDS):
        with memory_guard("1GiB") as monitor:
            reported["check"].append(_microseconds(monitor.check, CHECKS))
        reported["floor"].append(_microseconds(_floor, CHECKS))
        reported["guard"].append(_microseconds(_guard, BLOCKS))
        reported["threads"].append(_microseconds(_threads, BLOCKS))
    median = {name: statistics.median(values) for name, values in reported.items()}
    ratio = median["check"] / median["floor"]
    print("Guarded blocks, medians")
    print(f"  a checkpoint                 {median['check']:9.1f} µs")
    print(f"  two reads of statm           {median['floor']:9.1f} µs   {ratio:.2f} times that")
    print(f"  a guard, from begin to end   {median['guard']:9.1f} µs")
    print(f"  two threads, start to end   {median['threads']:9.1f} µs")
    kept = ratio <= MOST_TIMES and median["guard"] <= MOST_MILLISECONDS * 1000
    print(f"  promised: at most {MOST_TIMES:g} times, and {MOST_MILLISECONDS:g} ms: {'kept' if kept else 'BROKEN'}")
    return kept
