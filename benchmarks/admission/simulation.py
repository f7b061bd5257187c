"""What the rules of ``admission/executor/scheduler.py`` are worth: simulated batches, without processes and their noise.

The batches of ``executor.py`` (60 tasks, eight workers, a tenth of the tasks three times as large as foreseen): the
makespan over the best list schedule with known peaks. A task grows over the first two fifths of its time. Each row
leaves out or changes one rule:

``wait for all``    a paused task waits for all that it may ever need, not for a tenth more than it has
``keep``            what a task has not used by the end of its growth is not given back
``never pass``      nobody passes a task that does not fit
``limit``           a reservation is a limit: who outgrows it is ended, and done again with more
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.admission.executor import BUDGET, WORKERS, Load, batch, floor
from memwarden.admission.executor import scheduler
from memwarden.admission.executor.scheduler import Directive, DirectiveKind, PendingTask, RunningTask
from memwarden.admission.footprints.footprint import Footprints
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
    jobs = [PendingTask(number, TaskKey(load.kind), load.size) for number, load in enumerate(loads)]
    done: dict[int, float] = {}
    runs: list[RunningTask] = []
    now, kills, pauses = 0.0, 0, 0
    while jobs or runs:
        now += STEP_SECONDS
        for run in list(runs):
            load = loads[run.job.number]
            if not run.paused:
                done[run.job.number] += STEP_SECONDS
                grown = min(1.0, max(0.0, done[run.job.number]) / (GROWTH_SHARE * load.seconds))
                run.see(int(load.peak * grown), now)
            if done[run.job.number] >= load.seconds:
                runs.remove(run)
                predictor.observe(run.job.kind, run.job.size, load.peak, now - run.begun)
        room = BUDGET - sum(run.held for run in runs)
        if strict:
            steps = [Directive(DirectiveKind.KILL, run) for run in runs if run.used > run.lease]
        else:
            steps = scheduler.schedule(runs, room, now, grace=32 * MIB)
        for step in steps:
            pauses += step.act is DirectiveKind.PAUSE
            if step.act is DirectiveKind.KILL:
                kills += 1
                runs.remove(step.run)
                step.run.job.seen = max(step.run.job.seen, step.run.peak)
                predictor.observe(
                    step.run.job.kind, step.run.job.size, step.run.peak, now - step.run.begun, "killed_at"
                )
                jobs.insert(0, step.run.job)
        room = BUDGET - sum(run.held for run in runs) - scheduler.spoken_for(runs)
        while jobs and len(runs) < WORKERS:
            for job in jobs[: scheduler.LOOKED_AT]:
                foreseen = predictor.predict(job.kind, job.size, at_least=job.seen)
                job.reserve = min(foreseen.reserve, BUDGET)
            chosen = scheduler.choose(jobs, max(room, 0), now, scheduler.patience(1.0), busy=bool(runs))
            if chosen is None:
                break
            jobs.remove(chosen)
            runs.append(RunningTask(chosen, chosen.reserve, now))
            done[chosen.number] = -START_SECONDS
            room -= chosen.reserve
    return Result(now / floor(list(loads)), kills, pauses)


@contextmanager
def _without(rule: str) -> Iterator[None]:
    changes: dict[str, Any] = {
        "wait for all": ("wanted", lambda run: max(2 * run.lease - run.used, run.used // 10, scheduler.STEP)),
        "keep": ("PLATEAU_SECONDS", 1e9),
        "never pass": ("LOOKED_AT", 1),
    }
    if rule in changes:
        with mock.patch.object(scheduler, *changes[rule]):
            yield
    else:
        yield


def main() -> bool:
    """Print the table; whether the rules as they are beat each change."""
    medians = {}
    print(f"Simulated batches ({len(BATCHES)}): makespan / best list schedule, warm")
    print(f"{'rules':<14}{'median':>8}{'worst':>8}{'ended':>8}{'pauses':>8}")
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
        ended, pauses = (statistics.fmean(each[at] for each in results) for at in (1, 2))
        print(f"{rule:<14}{medians[rule]:>8.2f}{max(ratios):>8.2f}{ended:>8.1f}{pauses:>8.1f}")
    return medians["as they are"] <= min(medians.values())


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
