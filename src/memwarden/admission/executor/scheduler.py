"""Who may begin, who may have more, who must wait and who must go: functions of values, without a clock.

What is promised to running tasks (their *leases*) stays inside the budget; what they use is let grow past it where
there is room, because most reservations are not used to the end. In this order, gentle first:

1. Who has stood still gives back what it has not used.
2. Who outgrows its lease gets more, the oldest first, before anybody new begins.
3. Who outgrows it and finds no room is paused. That frees nothing, it only waits for others to end.
4. What was paused goes on when what it is going to need has come together; that is spoken for meanwhile.
5. Only when nobody can go on, or more is used than there is, the one with the least to lose is ended, and put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from memwarden.model.footprints import Prediction, TaskKey
from memwarden.model.units import MIB

#: A task that has not grown by more than a hundredth for so long has reached its most, or a plateau.
PLATEAU_SECONDS, GROWTH = 0.2, 0.01
#: Left beyond what it uses to one that gives the rest back.
SLACK_SHARE, SLACK = 0.02, 1 * MIB
#: More is asked for, so long before a lease is used up at the present rate of growth; and at least so much at a time.
AHEAD_SECONDS, STEP = 0.05, 4 * MIB
#: A task that has waited so many times as long as tasks take lets nobody pass any more.
PATIENCE_TASKS, LEAST_PATIENCE, MOST_PATIENCE = 2.0, 0.5, 30.0
#: One that must be alone needs so much of all there is.
NEARLY = 0.9
#: Where so much of a budget is used a system call of the next moment may find nothing.
FULL = 0.85
#: So many of those who wait are looked at for one that fits.
LOOKED_AT = 64


class PendingTask:
    """A task as far as memory is concerned, from its submission to its end."""

    __slots__ = (
        "alone", "attempts", "doubted", "first", "foreseen", "given", "kind", "name", "number", "prediction", "reserve",
        "seen", "sent", "size",
    )  # fmt: skip

    def __init__(self, number: int, kind: TaskKey, size: float | None, given: int = 0, name: str = "") -> None:
        self.number, self.kind, self.size = number, kind, size
        #: What to call it in messages.
        self.name = name or f"task {number}"
        #: Bytes that its caller asked for; 0: what is predicted.
        self.given = given
        self.attempts = 0
        #: Since when it has been the first of those who wait, and could not begin.
        self.first: float | None = None
        #: A program that it started failed once, perhaps for want of memory.
        self.doubted = False
        #: When it was last sent to a worker.
        self.sent = 0.0
        #: Bytes that an attempt was seen with before it was ended.
        self.seen = 0
        #: It gets all there is, and nobody beside it.
        self.alone = False
        self.reserve = given
        self.prediction: Prediction | None = None
        #: When that was said.
        self.foreseen = 0.0


class RunningTask:
    """A task that has begun: what it may use, and what it does."""

    __slots__ = ("begun", "grew", "job", "lease", "paused", "peak", "rate", "seen_at", "used")

    def __init__(self, job: PendingTask, lease: int, now: float) -> None:
        self.job, self.lease, self.begun = job, lease, now
        self.used = self.peak = 0
        #: When it last grew, and by how many bytes a second.
        self.grew, self.rate, self.seen_at = now, 0.0, now
        self.paused = False

    @property
    def held(self) -> int:
        """Bytes that nobody else can have."""
        return max(self.lease, self.used)

    def see(self, used: int, now: float) -> None:
        """It was found with so many bytes."""
        passed = now - self.seen_at
        if passed > 0:
            self.rate = max(0.0, (used - self.used) / passed)
            self.seen_at = now
        if used > self.peak * (1 + GROWTH) + 65536:
            self.grew = now
        self.used = used
        self.peak = max(self.peak, used)


class DirectiveKind(Enum):
    """What is to be done with a run."""

    LEASE = "lease"
    PAUSE = "pause"
    RESUME = "resume"
    KILL = "kill"


class Directive(NamedTuple):
    """One thing to do, in order. ``lease``: bytes that it may use from then on."""

    act: DirectiveKind
    run: RunningTask
    lease: int = 0
    why: str = ""


def settled(run: RunningTask) -> int:
    """What a run that grows no more should keep."""
    return max(run.used + SLACK + int(run.used * SLACK_SHARE), 0)


def wanted(run: RunningTask) -> int:
    """Bytes that a paused run waits for: a tenth more than it has.

    To let it wait for all that it may ever need would leave more memory idle (``benchmarks/admission/simulation.py``:
    1.23 times the best makespan instead of 1.18).
    """
    return max(run.used // 10, STEP)


def spoken_for(runs: Iterable[RunningTask]) -> int:
    """What those who are paused wait for."""
    return sum(wanted(run) - max(0, run.lease - run.used) for run in runs if run.paused)


def schedule(
    runs: Sequence[RunningTask], room: int, now: float, *, grace: int = 0, stuck: bool = False
) -> list[Directive]:
    """What is to be done with the running tasks.

    ``room``: bytes that nobody holds, negative where more is held than there is. ``grace``: so far may what is *used*
    go beyond the budget before anybody is ended for it. ``stuck``: the kernel holds everybody who wants more.
    """
    steps: list[Directive] = []
    runs = sorted(runs, key=lambda run: run.begun)
    free = room + sum(max(0, run.lease - run.used) for run in runs)
    if free < -grace:
        return _make_room(runs, -grace - free)
    for run in runs:
        if run.paused or run.job.given or now - run.grew < PLATEAU_SECONDS:
            continue
        if run.lease > (keep := settled(run)) + SLACK:
            room += run.held - max(keep, run.used)
            steps.append(Directive(DirectiveKind.LEASE, run, keep))
            run.lease = keep
    active = [run for run in runs if not run.paused]
    for run in active:
        need = run.used + max(STEP, int(run.rate * AHEAD_SECONDS)) - run.held
        if now - run.grew >= PLATEAU_SECONDS or run.used + run.rate * AHEAD_SECONDS <= run.lease:
            continue
        if need <= room:
            room -= need
            run.lease = run.held + need
            steps.append(Directive(DirectiveKind.LEASE, run, run.lease))
        elif run.used > run.lease:
            steps.append(Directive(DirectiveKind.PAUSE, run, run.lease, "no room to grow"))
            run.paused = True
    waiting = [run for run in runs if run.paused]
    goes = len(runs) > len(waiting)
    for run in waiting:
        need = wanted(run) - max(0, run.lease - run.used)
        if need > room:
            break  # the oldest first: what it waits for is its
        room -= need
        run.lease = run.held + need
        run.paused = False
        goes = True
        steps.append(Directive(DirectiveKind.RESUME, run, run.lease))
    if (waiting and not goes) or stuck:
        steps += _move(runs, room, stuck)
    return steps


def _move(runs: list[RunningTask], room: int, stuck: bool) -> list[Directive]:
    """Nobody goes on: the oldest gets what there is, or the one with the least to lose makes room."""
    first = runs[0]
    if not stuck and room >= STEP:
        first.lease, first.paused = first.held + room, False
        return [Directive(DirectiveKind.RESUME, first, first.lease, "nobody else goes on")]
    over = sum(max(0, run.used - run.lease) for run in runs)
    victim = cheapest(runs if len(runs) == 1 else runs[1:], max(over, STEP))
    return [Directive(DirectiveKind.KILL, victim, 0, "nobody could go on")]


def _make_room(runs: list[RunningTask], short: int) -> list[Directive]:
    """End those with the least to lose until what is used fits."""
    steps, left = [], list(runs)
    while left and short > 0:
        victim = cheapest(left, short)
        left.remove(victim)
        short -= victim.used
        steps.append(Directive(DirectiveKind.KILL, victim, 0, "more is used than there is"))
    return steps


def cheapest(runs: Sequence[RunningTask], short: int) -> RunningTask:
    """Of those who would give ``short`` bytes back alone (else of all) the one with the least memory times time, which
    is lost with it."""
    last = max(run.seen_at for run in runs)
    enough = [run for run in runs if run.used >= short] or runs
    return min(enough, key=lambda run: ((last - run.begun) * max(run.used, 1), -run.begun))


def patience(seconds: float) -> float:
    """How long a task may be passed by others, where tasks take so long."""
    return min(MOST_PATIENCE, max(LEAST_PATIENCE, PATIENCE_TASKS * seconds))


def choose(jobs: Iterable[PendingTask], room: int, now: float, longest: float, *, busy: bool) -> PendingTask | None:
    """The next to begin, in the order of ``jobs``; None where nobody may.

    The first that fits: it may pass those that do not, but none that has waited for ``longest`` seconds. One that
    must be alone begins when nothing is ``busy`` and others have left nearly all there is, or do not for very long.
    """
    for looked, job in enumerate(jobs):
        if looked >= LOOKED_AT:
            break
        fits = job.reserve * (NEARLY if job.alone else 1.0) <= room
        patient = job.alone and job.first is not None and now - job.first >= MOST_PATIENCE
        if (fits or patient) and not (job.alone and busy):
            return job
        if looked == 0 and job.first is None:
            job.first = now
        if job.alone or (job.first is not None and now - job.first >= longest):
            break
    return None
