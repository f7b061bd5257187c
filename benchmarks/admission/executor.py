"""Cost of the executor on tasks that need nothing, and its gain on a batch that does not fit.

*Small tasks*, in rounds that take turns: no-op tasks, and tasks that compute for 10 ms, on as many workers as there are
processors, against ``ProcessPoolExecutor``; the median ratio of the rounds.

*A batch*: 60 tasks of three kinds, together several times the budget, a tenth of them three times as large as others of
their size, eight workers. Against the makespan of the best of three list schedules with known peaks, and against the
one safe way with a plain pool: as many workers as fit if each takes the largest peak, which has to be
known. Cold (nothing is known of these kinds) and warm (the same kinds once before), with a memory group and without.
"""

from __future__ import annotations

import mmap
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import NamedTuple

from memwarden.admission.executor.executor import BudgetedExecutor
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.ledger.ledger import Ledger
from memwarden.model.units import MIB

#: Promised, as ratios to the plain pool (no-op tasks: its cost once more) and of the makespan to the list schedule.
MOST_NOTHING, MOST_SHORT, MOST_WARM, MOST_COLD = 2.0, 1.02, 1.25, 1.40
ROUNDS, NOTHINGS, SHORTS = 9, 1000, 100
TASKS, BUDGET, WORKERS, BATCHES = 60, 768 * MIB, 8, 3
_PAGE = 4096


class Load(NamedTuple):
    """A task of the batch: its input size, bytes at the peak, and seconds."""

    kind: str
    size: float
    peak: int
    seconds: float


def nothing() -> None:
    """The cheapest task."""


def compute(seconds: float) -> int:
    """Keeps a processor busy for so much processor time."""
    until, count = time.thread_time() + seconds, 0
    while time.thread_time() < until:
        count += 1
    return count


def carry(load: Load) -> float:
    """Takes memory over the first two fifths of its time, and holds it."""
    with mmap.mmap(-1, load.peak, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        started, done = time.monotonic(), 0
        worked, last = 0.0, started
        while worked < load.seconds or done < load.peak:
            upto = min(load.peak, int(load.peak * (worked + 0.02) / (0.4 * load.seconds)) // _PAGE * _PAGE)
            if upto > done:
                memory[done:upto:_PAGE] = b"\1" * ((upto - done) // _PAGE)
                done = upto
            time.sleep(0.01)
            now = time.monotonic()
            worked += min(0.1, now - last)  # while it is stopped it does not work
            last = now
    return worked


def batch(seed: int) -> list[Load]:
    """The tasks of a batch."""
    rng = random.Random(seed)
    loads = []
    shapes: dict[str, Callable[[float], float]] = {
        "flat": lambda size: 90.0,
        "line": lambda size: 16 + 1.6 * size,
        "curve": lambda size: 20 + 0.009 * size * size,
    }
    for _ in range(TASKS):
        kind, size = rng.choice(list(shapes)), rng.uniform(15, 140)
        peak = shapes[kind](size) * rng.lognormvariate(0, 0.08) * (3 if rng.random() < 0.1 else 1)
        loads.append(Load(kind, size, int(min(peak * MIB, BUDGET / 2)) // _PAGE * _PAGE, rng.uniform(0.4, 1.6)))
    return loads


def floor(loads: list[Load]) -> float:
    """The makespan of the best list schedule with known peaks."""
    orders: list[Callable[[Load], float]] = [
        lambda load: -load.peak * load.seconds,
        lambda load: -load.peak,
        lambda load: -load.seconds,
    ]
    return min(_scheduled(sorted(loads, key=order)) for order in orders)


def _scheduled(loads: list[Load]) -> float:
    waiting, running, now, free = list(loads), list[tuple[float, int]](), 0.0, BUDGET
    while waiting or running:
        for load in list(waiting):
            if len(running) < WORKERS and load.peak <= free:
                waiting.remove(load)
                free -= load.peak
                running.append((now + load.seconds, load.peak))
        running.sort()
        now, peak = running.pop(0)
        free += peak
    return now


def _makespan(loads: list[Load], submit: Callable[[Load], object]) -> float:
    started = time.monotonic()
    futures = [submit(load) for load in loads]
    for future in futures:
        future.result()  # type: ignore[attr-defined]
    return time.monotonic() - started


def _budgeted(loads: list[Load], predictor: Footprints, path: str, *, group: bool) -> tuple[float, int, int, str]:
    ledger = Ledger(BUDGET, path=path)
    with BudgetedExecutor(WORKERS, ledger=ledger, predictor=predictor, cgroup=None if group else False) as executor:
        for future in [executor.submit(time.sleep, 0.2) for _ in range(WORKERS)]:
            future.result()
        options = executor.with_options
        seconds = _makespan(loads, lambda load: options(kind=load.kind, size=load.size).submit(carry, load))
        report = executor.report()
        return seconds, report.requeues, report.pauses, report.enforcement


def _small(executor: Executor, task: Callable[..., object], count: int, *args: object) -> float:
    started = time.perf_counter()
    for future in [executor.submit(task, *args) for _ in range(count)]:
        future.result()
    return (time.perf_counter() - started) / count


def _small_tasks() -> dict[str, float]:
    workers = len(os.sched_getaffinity(0))
    found: dict[str, list[tuple[float, float]]] = {"nothing": [], "10 ms": []}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger("1GiB", path=f"{folder}/ledger")
        with (
            BudgetedExecutor(workers, ledger=ledger, predictor=Footprints()) as ours,
            ProcessPoolExecutor(workers) as plain,
        ):
            for executor in (ours, plain):
                _small(executor, nothing, 200)
                _small(executor, compute, 20, 0.01)
            for number in range(ROUNDS):
                pair = [ours, plain] if number % 2 else [plain, ours]
                for name, task, count, args in (
                    ("nothing", nothing, NOTHINGS, ()),
                    ("10 ms", compute, SHORTS, (0.01,)),
                ):
                    times = {id(executor): _small(executor, task, count, *args) for executor in pair}
                    found[name].append((times[id(ours)], times[id(plain)]))
    ratios = {}
    print(f"Small tasks on {workers} workers, median of {ROUNDS} rounds, a task")
    print(f"{'':<10}{'ours':>12}{'plain pool':>12}{'ratio':>8}")
    for name, pairs in found.items():
        mine, theirs = (statistics.median(each[at] for each in pairs) for at in (0, 1))
        ratios[name] = statistics.median(a / b for a, b in pairs)
        print(f"{name:<10}{mine * 1e6:>9.0f} us{theirs * 1e6:>9.0f} us{ratios[name]:>8.3f}")
    return ratios


def main() -> bool:
    """Print the tables; whether every promise was kept."""
    ratios = _small_tasks()
    print(f"\nA batch of {TASKS} tasks in {BUDGET // MIB} MiB, {WORKERS} workers: makespan / best list schedule")
    print(f"{'batch':<7}{'schedule':>9}{'worst case':>12}{'cold':>8}{'warm':>8}{'sampling only':>14}{'requeued':>12}")
    columns: dict[str, list[float]] = {"cold": [], "warm": [], "polling": []}
    holders: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(BATCHES):
            loads, before = batch(9000 + seed), batch(8000 + seed)
            best = floor(loads)
            safe = max(1, BUDGET // max(load.peak for load in loads))
            with ProcessPoolExecutor(safe) as pool:
                worst = _makespan(loads, lambda load, pool=pool: pool.submit(carry, load)) / best  # type: ignore[misc]
            requeued = []
            for name, group in (("cold", True), ("warm", True), ("polling", False)):
                predictor = Footprints(budget=BUDGET, slots=WORKERS)
                if name != "cold":
                    for load in before * 2:
                        predictor.observe(load.kind, load.size, load.peak, load.seconds)
                seconds, requeues, _, enforcement = _budgeted(loads, predictor, f"{folder}/{seed}{name}", group=group)
                columns[name].append(seconds / best)
                holders[name] = enforcement
                requeued.append(requeues)
            shown = [columns[name][-1] for name in columns]
            print(
                f"{seed:<7}{best:>7.1f} s{worst:>12.2f}{shown[0]:>8.2f}{shown[1]:>8.2f}{shown[2]:>14.2f}"
                f"{'/'.join(map(str, requeued)):>12}"
            )
    print(f"(enforced by {holders['warm']} and, in the last column, by sampling alone)")
    return (
        ratios["nothing"] <= MOST_NOTHING
        and ratios["10 ms"] <= MOST_SHORT
        and statistics.median(columns["warm"]) <= MOST_WARM
        and statistics.median(columns["cold"]) <= MOST_COLD
    )


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
