"""Decisions about running and pending tasks: functions of values, without a clock.

The leases of running tasks stay within the budget; their use may exceed its lease while there is free memory, because
most reservations are not used to the end. In this order, gentle first:

1. A task that has stopped growing returns the unused part of its lease, beyond what its caller reserved.
2. A task that outgrows its lease gets more, the oldest first, before a new one starts.
3. A task that outgrows it and finds no free memory is paused. That frees nothing; it waits for others to end.
4. A paused task resumes when the memory that it needs next is free; until then that memory is set aside.
5. Only when no task can continue, or more is used than the budget, the task with the least to lose is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from memwarden.admission.pool.task import RunningTask, WorkItem
from memwarden.model.units import MIB

#: A task that has not grown for so long has reached its peak, or a plateau.
PLATEAU_SECONDS = 0.2
#: Slack left to a task that returns the rest of its lease.
SLACK_SHARE, SLACK = 0.02, 1 * MIB
#: A larger lease is requested so long before it is used up at the present rate; and at least so much at a time.
LEAD_SECONDS, STEP = 0.05, 4 * MIB
#: A task that has waited so many times the duration of a task is not overtaken any more; bounds in seconds.
PATIENCE_TASKS, LEAST_PATIENCE, MOST_PATIENCE = 2.0, 0.5, 30.0
#: Share of the memory that an exclusive task needs to start.
NEARLY_ALL = 0.9
#: Share of the budget at which a system call of the next moment may find no memory.
FULL = 0.85
#: Pending tasks that are checked for one that fits.
LOOKAHEAD = 64


class DirectiveKind(Enum):
    """Kind of a change to a running task."""

    LEASE = "lease"
    PAUSE = "pause"
    RESUME = "resume"
    KILL = "kill"


class Directive(NamedTuple):
    """A change to a running task. ``lease``: its bytes from then on."""

    kind: DirectiveKind
    run: RunningTask
    lease: int = 0
    reason: str = ""


def settled(run: RunningTask) -> int:
    """Return the lease that a task which grows no more should keep."""
    return run.used + SLACK + int(run.used * SLACK_SHARE)


def wanted(run: RunningTask) -> int:
    """Return the bytes that a paused task waits for: a tenth of its use.

    To wait for all that it may ever need leaves more memory idle (``benchmarks/admission/simulation.py``: 1.23 times
    the best makespan instead of 1.18).
    """
    return max(run.used // 10, STEP)


def set_aside(runs: Iterable[RunningTask]) -> int:
    """Return the bytes that paused tasks wait for."""
    return sum(wanted(run) - max(0, run.lease - run.used) for run in runs if run.paused)


def schedule(
    runs: Sequence[RunningTask], free: int, now: float, *, grace: int = 0, stuck: bool = False
) -> list[Directive]:
    """Return the changes to the running tasks, in order.

    ``free``: bytes that are not held, negative where more is held than the budget. ``grace``: bytes by which the *use*
    may exceed the budget before a task is killed. ``stuck``: the kernel blocks the tasks that need more.
    """
    directives: list[Directive] = []
    runs = sorted(runs, key=lambda run: run.started)
    unused = free + sum(max(0, run.lease - run.used) for run in runs)
    if unused < -grace:
        return _reduce_use(runs, -grace - unused)
    for run in runs:
        if run.paused or now - run.grew_at < PLATEAU_SECONDS:
            continue
        if run.lease > (keep := max(settled(run), run.item.requested)) + SLACK:
            free += run.held - max(keep, run.used)
            directives.append(Directive(DirectiveKind.LEASE, run, keep))
            run.lease = keep
    for run in [run for run in runs if not run.paused]:
        soon = run.used + run.rate * LEAD_SECONDS
        if now - run.grew_at >= PLATEAU_SECONDS or soon <= run.lease:
            continue
        need = run.used + max(STEP, int(run.rate * LEAD_SECONDS)) - run.held
        if need <= free:
            free -= need
            run.lease = run.held + need
            directives.append(Directive(DirectiveKind.LEASE, run, run.lease))
        elif run.used > run.lease:
            directives.append(Directive(DirectiveKind.PAUSE, run, run.lease, "no free memory to grow"))
            run.paused = True
    paused = [run for run in runs if run.paused]
    progress = len(runs) > len(paused)
    for run in paused:
        need = wanted(run) - max(0, run.lease - run.used)
        if need > free:
            break  # the memory is set aside for the oldest
        free -= need
        run.lease = run.held + need
        run.paused = False
        progress = True
        directives.append(Directive(DirectiveKind.RESUME, run, run.lease))
    if (paused and not progress) or stuck:
        directives += _unblock(runs, free, stuck)
    return directives


def _unblock(runs: list[RunningTask], free: int, stuck: bool) -> list[Directive]:
    """No task continues: the oldest gets what is free, or the one with the least to lose is killed."""
    oldest = runs[0]
    if not stuck and free >= STEP:
        oldest.lease, oldest.paused = oldest.held + free, False
        return [Directive(DirectiveKind.RESUME, oldest, oldest.lease, "no other task can continue")]
    over = sum(max(0, run.used - run.lease) for run in runs)
    victim = cheapest(runs if len(runs) == 1 else runs[1:], max(over, STEP))
    return [Directive(DirectiveKind.KILL, victim, 0, "no task could continue")]


def _reduce_use(runs: list[RunningTask], excess: int) -> list[Directive]:
    """Kill the tasks with the least to lose until the use fits."""
    directives, left = [], list(runs)
    while left and excess > 0:
        victim = cheapest(left, excess)
        left.remove(victim)
        excess -= victim.used
        directives.append(Directive(DirectiveKind.KILL, victim, 0, "more memory was used than the budget"))
    return directives


def cheapest(runs: Sequence[RunningTask], size: int) -> RunningTask:
    """Return the task that loses the least memory times time, of those that use ``size`` bytes (else of all)."""
    last = max(run.sampled_at for run in runs)
    enough = [run for run in runs if run.used >= size] or runs
    return min(enough, key=lambda run: ((last - run.started) * max(run.used, 1), -run.started))


def patience(seconds: float) -> float:
    """Return how long a task may be overtaken by others, where tasks take ``seconds``."""
    return min(MOST_PATIENCE, max(LEAST_PATIENCE, PATIENCE_TASKS * seconds))


def choose(items: Iterable[WorkItem], free: int, now: float, longest: float, *, busy: bool) -> WorkItem | None:
    """Return the next task to start, in the order of ``items``; None where none may.

    The first that fits: it may overtake others, but none that has waited for ``longest`` seconds. An exclusive task
    starts when nothing is ``busy`` and nearly all memory is free, or has not been for very long.
    """
    for checked, item in enumerate(items):
        if checked >= LOOKAHEAD:
            break
        waited = 0.0 if item.blocked_since is None else now - item.blocked_since
        fits = item.reserve * (NEARLY_ALL if item.exclusive else 1.0) <= free
        if (fits or (item.exclusive and waited >= MOST_PATIENCE)) and not (item.exclusive and busy):
            return item
        if checked == 0 and item.blocked_since is None:
            item.blocked_since = now
        if item.exclusive or (item.blocked_since is not None and waited >= longest):
            break
    return None
