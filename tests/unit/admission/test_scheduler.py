"""Who may begin, have more, wait, or go: as functions of values."""

import pytest

from memwarden.admission.executor import scheduler
from memwarden.admission.executor.scheduler import (
    DirectiveKind,
    PendingTask,
    RunningTask,
    cheapest,
    choose,
    patience,
    schedule,
    spoken_for,
    wanted,
)
from memwarden.model.footprints import TaskKey
from memwarden.model.units import MIB


def job(number, reserve=0, *, given=0, alone=False, first=None):
    made = PendingTask(number, TaskKey("task"), None, given)
    made.reserve, made.alone, made.first = reserve * MIB, alone, first
    return made


def run(number, lease, used=0, *, begun=0.0, grew=None, rate=0.0, paused=False, given=0, seen_at=10.0):
    """A run in MiB; without ``grew`` it grows right now (at 10.0)."""
    made = RunningTask(job(number, lease, given=given), lease * MIB, begun)
    made.used = made.peak = int(used * MIB)
    made.grew = 10.0 if grew is None else grew
    made.rate, made.paused, made.seen_at = rate * MIB, paused, seen_at
    return made


def told(steps):
    """Acts and numbers, in order."""
    return [(step.act, step.run.job.number) for step in steps]


NOW = 10.0


# --- what a run is seen to do ----------------------------------------------------------------------------


def test_the_rate_is_that_between_two_looks():
    """Shrinking is no negative growth, and the peak stays."""
    seen = RunningTask(job(1), 100 * MIB, 0.0)
    seen.see(10 * MIB, 1.0)
    assert (seen.rate, seen.grew, seen.peak) == (10 * MIB, 1.0, 10 * MIB)
    seen.see(4 * MIB, 2.0)
    assert (seen.rate, seen.grew, seen.peak, seen.used) == (0.0, 1.0, 10 * MIB, 4 * MIB)
    assert seen.held == 100 * MIB


def test_small_steps_are_no_growth():
    """A hundredth and 64 KiB more than ever is a plateau still; below the peak is one, too."""
    seen = RunningTask(job(1), 100 * MIB, 0.0)
    seen.see(50 * MIB, 1.0)
    seen.see(50 * MIB + 500_000, 2.0)
    assert seen.grew == 1.0
    seen.see(52 * MIB, 3.0)
    assert seen.grew == 3.0


def test_a_look_at_the_same_moment_changes_no_rate():
    """Nothing is divided by zero."""
    seen = RunningTask(job(1), MIB, 5.0)
    seen.see(3 * MIB, 5.0)
    assert (seen.rate, seen.used) == (0.0, 3 * MIB)


# --- steering --------------------------------------------------------------------------------------------


def test_who_is_within_its_lease_is_left_alone():
    """Nothing is done about tasks that do as was foreseen."""
    assert schedule([run(1, 100, 50), run(2, 80, 10, rate=100)], 20 * MIB, NOW) == []


def test_who_stands_still_gives_the_rest_back():
    """It keeps what it uses and a little; one whose caller asked for bytes, or that was just growing, keeps all."""
    still, asked, grows = run(1, 100, 50, grew=9.0), run(2, 100, 50, grew=9.0, given=100 * MIB), run(3, 100, 50)
    (step,) = schedule([still, asked, grows], 0, NOW)
    assert (step.act, step.run) == (DirectiveKind.LEASE, still)
    assert 50 * MIB < step.lease == still.lease < 54 * MIB
    assert (asked.lease, grows.lease) == (100 * MIB, 100 * MIB)


def test_what_one_gives_back_another_may_have_at_once():
    """In the same round, before anybody is paused."""
    still, grows = run(1, 100, 50, grew=9.0), run(2, 20, 22, begun=1.0, rate=10)
    assert told(schedule([still, grows], 0, NOW)) == [(DirectiveKind.LEASE, 1), (DirectiveKind.LEASE, 2)]
    assert grows.lease >= 26 * MIB


def test_more_is_granted_before_the_lease_is_used_up():
    """As far ahead as it will have grown in 50 ms, and at least a step."""
    grows = run(1, 100, 96, rate=200)
    (step,) = schedule([grows], 50 * MIB, NOW)
    assert step.act is DirectiveKind.LEASE
    assert step.lease == 106 * MIB


def test_the_oldest_gets_more_first_and_the_others_wait():
    """With room for one of two, the younger is paused, though it was named first."""
    younger, older = run(2, 20, 25, begun=2.0, rate=10), run(1, 20, 25, begun=1.0, rate=10)
    assert told(schedule([younger, older], 6 * MIB, NOW)) == [(DirectiveKind.LEASE, 1), (DirectiveKind.PAUSE, 2)]
    assert younger.paused
    assert not older.paused


def test_who_does_not_use_more_than_its_lease_is_not_paused():
    """Its growth could not be granted yet; it may go on as far as its lease goes."""
    near, other = run(1, 30, 29, rate=100), run(2, 30, 10, grew=9.95)
    assert schedule([near, other], 0, NOW) == []


def test_a_paused_one_goes_on_when_what_it_waits_for_is_there():
    """Not before; the others are going, so nobody is ended for it."""
    waits, goes = run(1, 50, 52, paused=True), run(2, 50, 20)
    assert schedule([waits, goes], 5 * MIB, NOW) == []
    (step,) = schedule([waits, goes], 8 * MIB, NOW)
    assert (step.act, step.run) == (DirectiveKind.RESUME, waits)
    assert waits.lease > 52 * MIB
    assert not waits.paused


def test_the_oldest_of_the_paused_goes_on_first():
    """A younger one does not take what the older waits for, even where it needs less."""
    older, younger = run(1, 100, 100, begun=1.0, paused=True), run(2, 10, 10, begun=2.0, paused=True)
    goes = run(3, 50, 20, begun=3.0)
    assert schedule([younger, older, goes], 5 * MIB, NOW) == []


def test_what_the_paused_wait_for_is_spoken_for():
    """A tenth more than they have, and a step at least; what they have and do not use is taken off."""
    assert spoken_for([run(1, 50, 20, paused=False)]) == 0
    assert spoken_for([run(1, 100, 100, paused=True)]) == wanted(run(1, 100, 100)) == 10 * MIB
    assert spoken_for([run(1, 10, 10, paused=True), run(2, 12, 10, paused=True)]) == 6 * MIB


def test_nobody_goes_on_and_there_is_room_for_the_oldest():
    """It gets all of it, though that is less than it waits for; nobody is ended."""
    older, younger = run(1, 90, 90, begun=1.0, paused=True), run(2, 90, 90, begun=2.0, paused=True)
    (step,) = schedule([older, younger], 5 * MIB, NOW)
    assert (step.act, step.run, step.lease) == (DirectiveKind.RESUME, older, 95 * MIB)


def test_nobody_goes_on_and_there_is_no_room():
    """One that would free enough, with the least work to lose, is ended; never the oldest, though it has less."""
    runs = [
        run(1, 10, 10, begun=1.0, paused=True),
        run(2, 50, 50, begun=2.0, paused=True),
        run(3, 50, 50, begun=3.0, paused=True),
    ]
    assert told(schedule(runs, 0, NOW)) == [(DirectiveKind.KILL, 3)]


def test_one_alone_that_can_have_no_more_is_ended():
    """Nobody else could ever make room for it."""
    assert told(schedule([run(1, 100, 101, rate=50)], 0, NOW)) == [(DirectiveKind.PAUSE, 1), (DirectiveKind.KILL, 1)]


def test_the_kernel_holds_everybody():
    """Then it does not matter that they are not paused: one is ended."""
    runs = [run(1, 50, 50, begun=1.0, grew=9.0), run(2, 50, 50, begun=2.0, grew=9.0)]
    assert told(schedule(runs, 0, NOW, stuck=True))[-1] == (DirectiveKind.KILL, 2)


def test_more_is_used_than_there_is():
    """As many as must be are ended, and nothing else is done in that round."""
    runs = [run(each, 40, 40, begun=float(each), rate=100) for each in range(1, 5)]
    assert schedule(runs, -20 * MIB, NOW, grace=20 * MIB) == []
    assert told(schedule(runs, -20 * MIB, NOW, grace=19 * MIB)) == [(DirectiveKind.KILL, 4)]
    assert told(schedule(runs, -60 * MIB, NOW)) == [(DirectiveKind.KILL, 4), (DirectiveKind.KILL, 3)]
    assert len(schedule(runs, -1000 * MIB, NOW)) == 4


def test_what_is_reserved_and_not_used_is_no_reason_to_end_anybody():
    """A budget that has become smaller than the leases, not smaller than what is used."""
    runs = [run(1, 100, 20, begun=1.0), run(2, 100, 20, begun=2.0)]
    assert not [step for step in schedule(runs, -100 * MIB, NOW) if step.act is DirectiveKind.KILL]


def test_nothing_runs():
    """There is nothing to do, whatever the room."""
    assert schedule([], -5, NOW) == []
    assert schedule([], 5 * MIB, NOW) == []


@pytest.mark.parametrize(
    ("short", "victim"),
    [
        pytest.param(1, 2, id="whoever has the least memory times time"),
        pytest.param(50, 3, id="who alone gives enough back, though that costs more"),
        pytest.param(500, 2, id="where nobody does, the cheapest of all"),
    ],
)
def test_who_has_the_least_to_lose(short, victim):
    """Memory times time is what is lost with it."""
    runs = [run(1, 100, 100, begun=1.0), run(2, 10, 10, begun=4.0), run(3, 60, 60, begun=6.0)]
    assert cheapest(runs, short * MIB).job.number == victim


# --- choosing --------------------------------------------------------------------------------------------


def number(chosen):
    return None if chosen is None else chosen.number


def test_the_first_that_fits_begins():
    """In their order; larger ones before it are passed while they are young."""
    jobs = [job(1, 90), job(2, 60), job(3, 40), job(4, 10)]
    assert number(choose(jobs, 50 * MIB, NOW, 5.0, busy=True)) == 3
    assert number(choose(jobs, 5 * MIB, NOW, 5.0, busy=True)) is None
    assert jobs[0].first == NOW
    assert jobs[1].first is None


def test_nobody_passes_one_that_has_waited_too_long():
    """Then what is returned gathers for it."""
    jobs = [job(1, 90, first=5.0), job(2, 10)]
    assert number(choose(jobs, 50 * MIB, NOW, 5.1, busy=True)) == 2
    assert number(choose(jobs, 50 * MIB, NOW, 5.0, busy=True)) is None
    assert number(choose(jobs, 90 * MIB, NOW, 5.0, busy=True)) == 1


def test_one_that_must_be_alone_waits_until_nothing_runs():
    """Nobody passes it, and it needs nearly all there is, or half a minute of patience."""
    jobs = [job(1, 100, alone=True), job(2, 1)]
    assert number(choose(jobs, 100 * MIB, NOW, 5.0, busy=True)) is None
    assert number(choose(jobs, 100 * MIB, NOW, 5.0, busy=False)) == 1
    assert number(choose(jobs, 90 * MIB, NOW, 5.0, busy=False)) == 1
    assert number(choose(jobs, 80 * MIB, NOW, 5.0, busy=False)) is None
    assert number(choose(jobs, 80 * MIB, NOW + scheduler.MOST_PATIENCE, 5.0, busy=False)) == 1


def test_no_more_than_so_many_are_looked_at():
    """A queue of a million costs no more than one of 64."""

    def endless():
        for each in range(1, 1000):
            assert each <= scheduler.LOOKED_AT + 1
            yield job(each, 90)

    assert choose(endless(), MIB, NOW, 5.0, busy=True) is None
    assert choose([], MIB, NOW, 5.0, busy=False) is None


@pytest.mark.parametrize(("seconds", "wait"), [(0.0, 0.5), (0.1, 0.5), (1.0, 2.0), (10.0, 20.0), (3600.0, 30.0)])
def test_patience_is_as_long_as_two_tasks_take(seconds, wait):
    """Within half a second and half a minute."""
    assert patience(seconds) == wait
