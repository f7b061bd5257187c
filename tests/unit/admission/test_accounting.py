"""What is spoken for, and what is left."""

from memwarden.admission.ledger.accounting import compute
from memwarden.admission.ledger.record import HELD, Record
from memwarden.model.facts import ProcessKey
from memwarden.model.limits import Constraint, Limit


def held(size, worker=1, baseline=0):
    """A reservation for a process."""
    process = ProcessKey(worker, 7)
    return Record(HELD, 0, 1, worker, size, 0, baseline, 0.0, 0.0, process, process, 4, "")


def constraint(total, free):
    """A limit of ``total`` with so much left."""
    return Constraint(Limit(total, "machine"), total - free)


def uses(**figures):
    """A measurement: what each worker holds now."""
    return lambda record: figures.get(f"w{record.worker.pid}")


def test_what_is_not_used_yet_must_be_left_in_the_headroom():
    """1000 are free; 300 of the 400 reserved ones are to come, so 700 may be promised."""
    account = compute([held(400)], None, constraint(2000, 1000), uses(w1=100))
    assert (account.reserved, account.used, account.committed, account.unused) == (400, 100, 400, 300)
    assert account.free == 700
    assert account.source == "machine"


def test_what_others_take_outside_counts():
    """The same reservation when another process has taken 600 since."""
    assert compute([held(400)], None, constraint(2000, 400), uses(w1=100)).free == 100


def test_a_process_that_takes_more_than_it_reserved_counts_as_what_it_took():
    """The budget is judged by the larger figure, process by process."""
    budget = Limit(1000, "the given budget")
    account = compute([held(400, 1), held(400, 2)], budget, constraint(9000, 5000), uses(w1=500, w2=0))
    assert account.committed == 900
    assert account.free == 100
    assert account.source == "the given budget"


def test_what_a_process_held_before_is_not_of_its_reservation():
    """It counts as use by others, in the headroom."""
    account = compute([held(400, baseline=300)], Limit(1000, "b"), None, uses(w1=350))
    assert (account.used, account.committed, account.free) == (50, 400, 600)


def test_reservations_of_one_process_are_one():
    """Two threads reserved 100 and 200 and the process took 250 in all: nothing is counted twice."""
    rows = [held(100, baseline=50), held(200, baseline=80)]
    account = compute(rows, Limit(1000, "b"), None, uses(w1=300))
    assert (account.reserved, account.used, account.committed, account.unused) == (300, 250, 300, 50)


def test_one_that_cannot_be_measured_counts_as_having_taken_nothing():
    """Then more is held back than need be, never less."""
    account = compute([held(400)], None, constraint(2000, 600), uses())
    assert (account.used, account.unused, account.free) == (0, 400, 200)


def test_what_is_freed_counts_nowhere():
    """A process that holds less than before its reservation has used nothing of it."""
    assert compute([held(400, baseline=300)], Limit(1000, "b"), None, uses(w1=100)).used == 0


def test_capacity_is_what_would_be_free_without_reservations():
    """Bounded by the budget and by the headroom then."""
    account = compute([held(400)], Limit(900, "b"), constraint(2000, 300), uses(w1=350))
    assert account.free == 250
    assert account.capacity == 700
    assert compute([], Limit(900, "b"), constraint(2000, 1500), uses()).capacity == 900
