"""Decisions about running and pending tasks: functions of values."""

import pytest

from memwarden.admission.executor import leasing
from memwarden.admission.executor.leasing import (
    DirectiveKind,
    cheapest,
    choose,
    patience,
    schedule,
    set_aside,
    wanted,
)
from memwarden.admission.pool.task import RunningTask, WorkItem
from memwarden.model.footprints import TaskKey
from memwarden.model.units import MIB


def task(number, reserve=0, *, requested=0, exclusive=False, blocked_since=None):
    made = WorkItem(number, TaskKey("task"), None, print, requested=requested)
    made.reserve, made.exclusive, made.blocked_since = reserve * MIB, exclusive, blocked_since
    return made


def run(number, lease, used=0, *, started=0.0, grew=None, rate=0.0, paused=False, requested=0, sampled_at=10.0):
    """A run in MiB; without ``grew`` it grows right now (at 10.0)."""
    made = RunningTask(task(number, lease, requested=requested), lease * MIB, started)
    made.used = made.peak = int(used * MIB)
    made.grew_at = 10.0 if grew is None else grew
    made.rate, made.paused, made.sampled_at = rate * MIB, paused, sampled_at
    return made


def listed(steps):
    """Kinds and numbers, in order."""
    return [(step.kind, step.run.item.number) for step in steps]


NOW = 10.0


# --- what a run is seen to do ----------------------------------------------------------------------------


def test_the_rate_is_that_between_two_looks():
    """Shrinking is no negative growth, and the peak stays."""
    seen = RunningTask(task(1), 100 * MIB, 0.0)
    seen.update(10 * MIB, 1.0)
    assert (seen.rate, seen.grew_at, seen.peak) == (10 * MIB, 1.0, 10 * MIB)
    seen.update(4 * MIB, 2.0)
    assert (seen.rate, seen.grew_at, seen.peak, seen.used) == (0.0, 1.0, 10 * MIB, 4 * MIB)
    assert seen.held == 100 * MIB


def test_small_steps_are_no_growth():
    """1 % and 64 KiB more than ever is a plateau still; below the peak is one, too."""
    seen = RunningTask(task(1), 100 * MIB, 0.0)
    seen.update(50 * MIB, 1.0)
    seen.update(50 * MIB + 500_000, 2.0)
    assert seen.grew_at == 1.0
    seen.update(52 * MIB, 3.0)
    assert seen.grew_at == 3.0


def test_a_look_at_the_same_moment_changes_no_rate():
    """Nothing is divided by zero."""
    seen = RunningTask(task(1), MIB, 5.0)
    seen.update(3 * MIB, 5.0)
    assert (seen.rate, seen.used) == (0.0, 3 * MIB)


# --- steering --------------------------------------------------------------------------------------------


def test_a_sample_right_after_the_start_tells_no_rate():
    """Some pages in microseconds looked like gigabytes a second: the task got nearly the whole budget, and kept it."""
    started = RunningTask(task(1, 200, requested=200 * MIB), 200 * MIB, 10.0)
    started.update(126_976, 10.00003)
    assert schedule([started], 300 * MIB, 10.00003) == []
    started.update(679_936, 10.02)
    assert schedule([started], 300 * MIB, 10.02) == []


def test_a_task_returns_what_goes_beyond_the_requested_bytes():
    """It got more while it grew fast, and grows no more."""
    (step,) = schedule([run(1, 400, 1, grew=9.0, requested=200 * MIB)], 0, 10.0)
    assert (step.kind, step.lease) == (DirectiveKind.LEASE, 200 * MIB)


def test_a_task_within_its_lease_is_left_alone():
    """Nothing is done about tasks that do as predicted."""
    assert schedule([run(1, 100, 50), run(2, 80, 10, rate=100)], 20 * MIB, NOW) == []


def test_a_task_that_stops_growing_returns_the_rest():
    """It keeps what it uses and a little; with requested bytes, or where it has just grown, it keeps all."""
    still, asked, grows = run(1, 100, 50, grew=9.0), run(2, 100, 50, grew=9.0, requested=100 * MIB), run(3, 100, 50)
    (step,) = schedule([still, asked, grows], 0, NOW)
    assert (step.kind, step.run) == (DirectiveKind.LEASE, still)
    assert 50 * MIB < step.lease == still.lease < 54 * MIB
    assert (asked.lease, grows.lease) == (100 * MIB, 100 * MIB)


def test_what_one_returns_another_may_have_at_once():
    """In the same round, before any is paused."""
    still, grows = run(1, 100, 50, grew=9.0), run(2, 20, 22, started=1.0, rate=10)
    assert listed(schedule([still, grows], 0, NOW)) == [(DirectiveKind.LEASE, 1), (DirectiveKind.LEASE, 2)]
    assert grows.lease >= 26 * MIB


def test_more_is_granted_before_the_lease_is_used_up():
    """As far ahead as it will have grown in 50 ms, and at least a step."""
    grows = run(1, 100, 96, rate=200)
    (step,) = schedule([grows], 50 * MIB, NOW)
    assert step.kind is DirectiveKind.LEASE
    assert step.lease == 106 * MIB


def test_the_oldest_gets_more_first_and_the_others_wait():
    """With memory for one of two, the younger is paused, though it is listed first."""
    younger, older = run(2, 20, 25, started=2.0, rate=10), run(1, 20, 25, started=1.0, rate=10)
    assert listed(schedule([younger, older], 6 * MIB, NOW)) == [(DirectiveKind.LEASE, 1), (DirectiveKind.PAUSE, 2)]
    assert younger.paused
    assert not older.paused


def test_a_task_within_its_lease_is_not_paused():
    """Its growth could not be granted yet; it may go on as far as its lease goes."""
    near, other = run(1, 30, 29, rate=100), run(2, 30, 10, grew=9.95)
    assert schedule([near, other], 0, NOW) == []


def test_a_paused_task_resumes_when_its_memory_is_free():
    """Not before; the others run, so none is killed for it."""
    waits, goes = run(1, 50, 52, paused=True), run(2, 50, 20)
    assert schedule([waits, goes], 5 * MIB, NOW) == []
    (step,) = schedule([waits, goes], 8 * MIB, NOW)
    assert (step.kind, step.run) == (DirectiveKind.RESUME, waits)
    assert waits.lease > 52 * MIB
    assert not waits.paused


def test_the_oldest_of_the_paused_resumes_first():
    """A younger one does not take what the older waits for, even where it needs less."""
    older, younger = run(1, 100, 100, started=1.0, paused=True), run(2, 10, 10, started=2.0, paused=True)
    goes = run(3, 50, 20, started=3.0)
    assert schedule([younger, older, goes], 5 * MIB, NOW) == []


def test_memory_that_paused_tasks_wait_for_is_set_aside():
    """A tenth more than they have, and a step at least; what they have and do not use is taken off."""
    assert set_aside([run(1, 50, 20, paused=False)]) == 0
    assert set_aside([run(1, 100, 100, paused=True)]) == wanted(run(1, 100, 100)) == 10 * MIB
    assert set_aside([run(1, 10, 10, paused=True), run(2, 12, 10, paused=True)]) == 6 * MIB


def test_no_task_continues_and_there_is_memory_for_the_oldest():
    """It gets all of it, though that is less than it waits for; none is killed."""
    older, younger = run(1, 90, 90, started=1.0, paused=True), run(2, 90, 90, started=2.0, paused=True)
    (step,) = schedule([older, younger], 5 * MIB, NOW)
    assert (step.kind, step.run, step.lease) == (DirectiveKind.RESUME, older, 95 * MIB)


def test_no_task_continues_and_no_memory_is_free():
    """One that would free enough, with the least work to lose, is killed; never the oldest, though it has less."""
    runs = [
        run(1, 10, 10, started=1.0, paused=True),
        run(2, 50, 50, started=2.0, paused=True),
        run(3, 50, 50, started=3.0, paused=True),
    ]
    assert listed(schedule(runs, 0, NOW)) == [(DirectiveKind.KILL, 3)]


def test_a_single_task_that_can_have_no_more_is_killed():
    """No other could free memory for it."""
    assert listed(schedule([run(1, 100, 101, rate=50)], 0, NOW)) == [(DirectiveKind.PAUSE, 1), (DirectiveKind.KILL, 1)]


def test_the_kernel_blocks_all_tasks():
    """Then it does not matter that they are not paused: one is killed."""
    runs = [run(1, 50, 50, started=1.0, grew=9.0), run(2, 50, 50, started=2.0, grew=9.0)]
    assert listed(schedule(runs, 0, NOW, stuck=True))[-1] == (DirectiveKind.KILL, 2)


def test_more_is_used_than_there_is():
    """As many as needed are killed, and nothing else is done in that round."""
    runs = [run(each, 40, 40, started=float(each), rate=100) for each in range(1, 5)]
    assert schedule(runs, -20 * MIB, NOW, grace=20 * MIB) == []
    assert listed(schedule(runs, -20 * MIB, NOW, grace=19 * MIB)) == [(DirectiveKind.KILL, 4)]
    assert listed(schedule(runs, -60 * MIB, NOW)) == [(DirectiveKind.KILL, 4), (DirectiveKind.KILL, 3)]
    assert len(schedule(runs, -1000 * MIB, NOW)) == 4


def test_what_is_reserved_and_not_used_is_no_reason_to_kill():
    """A budget that has become smaller than the leases, not smaller than what is used."""
    runs = [run(1, 100, 20, started=1.0), run(2, 100, 20, started=2.0)]
    assert not [step for step in schedule(runs, -100 * MIB, NOW) if step.kind is DirectiveKind.KILL]


def test_nothing_runs():
    """There is nothing to do, whatever is free."""
    assert schedule([], -5, NOW) == []
    assert schedule([], 5 * MIB, NOW) == []


@pytest.mark.parametrize(
    ("short", "victim"),
    [
        pytest.param(1, 2, id="the least memory times time"),
        pytest.param(50, 3, id="one that frees enough, though that costs more"),
        pytest.param(500, 2, id="where none does, the cheapest of all"),
    ],
)
def test_the_task_with_the_least_to_lose(short, victim):
    """Memory times time is what is lost with it."""
    runs = [run(1, 100, 100, started=1.0), run(2, 10, 10, started=4.0), run(3, 60, 60, started=6.0)]
    assert cheapest(runs, short * MIB).item.number == victim


# --- choosing --------------------------------------------------------------------------------------------


def number(chosen):
    return None if chosen is None else chosen.number


def test_the_first_that_fits_begins():
    """In their order; larger ones before it are passed while they are young."""
    tasks = [task(1, 90), task(2, 60), task(3, 40), task(4, 10)]
    assert number(choose(tasks, 50 * MIB, NOW, 5.0, busy=True)) == 3
    assert number(choose(tasks, 5 * MIB, NOW, 5.0, busy=True)) is None
    assert tasks[0].blocked_since == NOW
    assert tasks[1].blocked_since is None


def test_no_task_overtakes_one_that_has_waited_too_long():
    """Then what is returned gathers for it."""
    tasks = [task(1, 90, blocked_since=5.0), task(2, 10)]
    assert number(choose(tasks, 50 * MIB, NOW, 5.1, busy=True)) == 2
    assert number(choose(tasks, 50 * MIB, NOW, 5.0, busy=True)) is None
    assert number(choose(tasks, 90 * MIB, NOW, 5.0, busy=True)) == 1


def test_an_exclusive_task_waits_until_nothing_runs():
    """No other overtakes it, and it needs nearly all there is, or half a minute of patience."""
    tasks = [task(1, 100, exclusive=True), task(2, 1)]
    assert number(choose(tasks, 100 * MIB, NOW, 5.0, busy=True)) is None
    assert number(choose(tasks, 100 * MIB, NOW, 5.0, busy=False)) == 1
    assert number(choose(tasks, 90 * MIB, NOW, 5.0, busy=False)) == 1
    assert number(choose(tasks, 80 * MIB, NOW, 5.0, busy=False)) is None
    assert number(choose(tasks, 80 * MIB, NOW + leasing.MOST_PATIENCE, 5.0, busy=False)) == 1


def test_no_more_than_so_many_are_checked():
    """A queue of a million costs no more than one of 64."""

    def endless():
        for each in range(1, 1000):
            assert each <= leasing.LOOKAHEAD + 1
            yield task(each, 90)

    assert choose(endless(), MIB, NOW, 5.0, busy=True) is None
    assert choose([], MIB, NOW, 5.0, busy=False) is None


@pytest.mark.parametrize(("seconds", "wait"), [(0.0, 0.5), (0.1, 0.5), (1.0, 2.0), (10.0, 20.0), (3600.0, 30.0)])
def test_patience_is_as_long_as_two_tasks_take(seconds, wait):
    """Within half a second and half a minute."""
    assert patience(seconds) == wait
