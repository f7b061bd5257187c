"""Fairness and the budget, for any course of arrivals."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from memwarden.admission.ledger.fairness import AGING_SECONDS, Request, admitted

BUDGET, PATIENCE, STEP = 100, 30.0, 1.0

arrivals = st.lists(
    st.tuples(
        st.integers(0, 20),  # steps after the one before
        st.integers(1, BUDGET),
        st.integers(1, 10),  # how long it holds, in steps
        st.integers(-3, 3),  # priority
    ),
    min_size=1,
    max_size=60,
)


def run(course, flood=0):
    """Live through it on a simulated clock: which requests were granted when, and after which others. ``flood``: so
    many small claims keep coming at every step for as long as one of the course waits."""
    coming = deque()
    now = 0.0
    for number, (after, size, length, priority) in enumerate(course):
        now += after * STEP
        coming.append((now, Request(number, size, now, priority), length))
    now, waiting, running, entered, tickets = 0.0, {}, [], {}, len(course)
    while coming or any(claim.ticket < len(course) for claim, _ in waiting.values()):
        while coming and coming[0][0] <= now:
            _, claim, length = coming.popleft()
            waiting[claim.ticket] = claim, length
        for _ in range(flood):
            waiting[tickets] = Request(tickets, 30, now), 5
            tickets += 1
        running = [(end, size) for end, size in running if end > now]
        used = sum(size for _, size in running)
        for claim in admitted([each for each, _ in waiting.values()], BUDGET - used, BUDGET, now, PATIENCE):
            _, length = waiting.pop(claim.ticket)
            running.append((now + length * STEP, claim.bytes))
            entered[claim.ticket] = now
        assert sum(size for _, size in running) <= BUDGET
        now += STEP
        assert now < 100_000, "one starves"
    return entered


@given(arrivals)
def test_all_are_admitted_and_the_budget_is_kept(course):
    """Whatever comes in whatever order: no claim waits for ever, and never more than the budget is out."""
    assert len(run(course)) == len(course)


@given(st.integers(1, BUDGET), st.integers(-3, 0), st.integers(4, 8))
def test_a_flood_of_small_ones_does_not_starve_a_large_one(size, priority, flood):
    """Small claims that keep coming faster than they can be served delay one by its patience, by what its priority
    costs, and by what was before it in the line, and no longer."""
    before = -priority * AGING_SECONDS / STEP * flood  # came later, and rank before it
    served = BUDGET // 30 / 5  # small ones for each step
    entered = run([(0, size, 5, priority)], flood)
    assert entered[0] <= PATIENCE + 10 + before / served + 10


@given(arrivals, st.floats(0, 500), st.integers(-50, BUDGET))
def test_those_admitted_fit_together(course, now, headroom):
    """Never more than the headroom, and no request twice."""
    line = [Request(number, size, after, priority) for number, (after, size, _, priority) in enumerate(course)]
    chosen = admitted(line, headroom, BUDGET, now, PATIENCE)
    assert sum(claim.bytes for claim in chosen) <= max(0, headroom)
    assert len(set(chosen)) == len(chosen)
    old = [claim for claim in line if now - claim.since >= PATIENCE and claim not in chosen]
    for claim in chosen:
        assert all(claim.rank < each.rank for each in old), "an old one was passed"


@given(arrivals, st.integers(0, BUDGET))
def test_the_order_does_not_depend_on_the_reader(course, headroom):
    """Each process reads the records in its own order and comes to the same verdict."""
    line = [Request(number, size, after, priority) for number, (after, size, _, priority) in enumerate(course)]
    assert admitted(line, headroom, BUDGET, 40.0) == admitted(line[::-1], headroom, BUDGET, 40.0)
