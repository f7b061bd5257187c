"""Effect of the rules of ``admission/executor/leasing.py``: simulated batches, without processes.

The batches of ``executor.py`` (60 tasks, eight workers, a tenth of the tasks three times as large as predicted): the
makespan over the best list schedule with known peaks. A task grows over the first two fifths of its time. Each row
leaves out or changes one rule:

``wait for all``    a paused task waits for all that it may ever need, not for a tenth more than it has
``keep``            a task that stops growing does not return its unused lease
``never pass``      no task overtakes one that does not fit
``limit``           a reservation is a limit: a task that outgrows it is killed and retried with more
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.admission.executor import BUDGET, WORKERS, Load, batch, floor
from memwarden.admission.executor import leasing
from memwarden.admission.executor.leasing import Directive, DirectiveKind
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.pool.task import RunningTask, WorkItem
from memwarden.model.footprints import TaskKey
from memwarden.model.units import MIB

STEP_SECONDS, GROWTH_SHARE, START_SECONDS = 0.01, 0.4, 0.003
BATCHES = range(9100, 9120)


class Result(NamedTuple):
    """Of one batch."""

    ratio: float
    kills: int
    pauses: int


def simulate(loads: Sequence[Load], predictor: Footprints, *, strict: bool = False) -> Result:
    """The batch under the rules as they are now, or where a reservation is a ``strict`` limit."""
    tasks = [WorkItem(number, TaskKey(load.kind), load.size, print) for number, load in enumerate(loads)]
    done: dict[int, float] = {}
    runs: list[RunningTask] = []
    now, kills, pauses = 0.0, 0, 0
    while tasks or runs:
        now += STEP_SECONDS
        for run in list(runs):
            load = loads[run.item.number]
            if not run.paused:
                done[run.item.number] += STEP_SECONDS
                grown = min(1.0, max(0.0, done[run.item.number]) / (GROWTH_SHARE * load.seconds))
                run.update(int(load.peak * grown), now)
            if done[run.item.number] >= load.seconds:
                runs.remove(run)
                predictor.observe(run.item.kind, run.item.size, load.peak, now - run.started)
        free = BUDGET - sum(run.held for run in runs)
        if strict:
            steps = [Directive(DirectiveKind.KILL, run) for run in runs if run.used > run.lease]
        else:
            steps = leasing.schedule(runs, free, now, grace=32 * MIB)
        for step in steps:
            pauses += step.kind is DirectiveKind.PAUSE
            if step.kind is DirectiveKind.KILL:
                kills += 1
                runs.remove(step.run)
                step.run.item.peak = max(step.run.item.peak, step.run.peak)
                predictor.observe(
                    step.run.item.kind, step.run.item.size, step.run.peak, now - step.run.started, "killed_at"
                )
                tasks.insert(0, step.run.item)
        free = BUDGET - sum(run.held for run in runs) - leasing.set_aside(runs)
        while tasks and len(runs) < WORKERS:
            for task in tasks[: leasing.LOOKAHEAD]:
                prediction = predictor.predict(task.kind, task.size, at_least=task.peak)
                task.reserve = min(prediction.reserve, BUDGET)
            chosen = leasing.choose(tasks, max(free, 0), now, leasing.patience(1.0), busy=bool(runs))
            if chosen is None:
                break
            tasks.remove(chosen)
            runs.append(RunningTask(chosen, chosen.reserve, now))
            done[chosen.number] = -START_SECONDS
            free -= chosen.reserve
    return Result(now / floor(list(loads)), kills, pauses)


@contextmanager
def _without(rule: str) -> Iterator[None]:
    changes: dict[str, Any] = {
        "wait for all": ("wanted", lambda run: max(2 * run.lease - run.used, run.used // 10, leasing.STEP)),
        "keep": ("PLATEAU_SECONDS", 1e9),
        "never pass": ("LOOKAHEAD", 1),
    }
    if rule in changes:
        with mock.patch.object(leasing, *changes[rule]):
            yield
    else:
        yield


def main() -> bool:
    """Print the table; whether the rules as they are beat each change."""
    medians = {}
    print(f"Simulated batches ({len(BATCHES)}): makespan / best list schedule, warm")
    print(f"{'rules':<14}{'median':>8}{'worst':>8}{'kills':>8}{'pauses':>8}")
    for rule in ("as they are", "wait for all", "keep", "never pass", "limit"):
        results = []
        for seed in BATCHES:
            predictor = Footprints(budget=BUDGET, slots=WORKERS)
            for load in batch(seed + 1000) * 2:
                predictor.observe(load.kind, load.size, load.peak, load.seconds)
            with _without(rule):
                results.append(simulate(batch(seed), predictor, strict=rule == "limit"))
        ratios = [result.ratio for result in results]
        medians[rule] = statistics.median(ratios)
        kills, pauses = (statistics.fmean(each[at] for each in results) for at in (1, 2))
        print(f"{rule:<14}{medians[rule]:>8.2f}{max(ratios):>8.2f}{kills:>8.1f}{pauses:>8.1f}")
    return medians["as they are"] <= min(medians.values())


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
