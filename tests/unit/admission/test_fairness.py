"""The order of waiting requests."""

from memwarden.admission.ledger.fairness import AGING_SECONDS, Request, admitted


def numbers(requests):
    """Their tickets, in the order of admission."""
    return [request.ticket for request in requests]


def test_requests_that_fit_come_in_order_of_arrival():
    """As many as fit, the earliest first."""
    queue = [Request(3, 40, 3.0), Request(1, 40, 1.0), Request(2, 40, 2.0)]
    assert numbers(admitted(queue, free=100, capacity=100, now=4.0)) == [1, 2]


def test_a_smaller_one_passes_a_head_that_does_not_fit():
    """Memory does not stay unused while the head is young."""
    queue = [Request(1, 90, 0.0), Request(2, 30, 1.0)]
    assert numbers(admitted(queue, free=50, capacity=100, now=29.9)) == [2]


def test_none_overtakes_a_head_that_has_waited_too_long():
    """From its patience on released memory gathers for it."""
    queue = [Request(1, 90, 0.0), Request(2, 30, 1.0)]
    assert numbers(admitted(queue, free=50, capacity=100, now=30.0)) == []
    assert numbers(admitted(queue, free=90, capacity=100, now=30.0)) == [1]


def test_one_behind_the_head_blocks_as_well_when_it_is_old():
    """The second in the queue is not overtaken for ever, either; the one before it may go."""
    queue = [Request(1, 20, 0.0), Request(2, 90, 1.0), Request(3, 20, 2.0)]
    assert numbers(admitted(queue, free=50, capacity=100, now=100.0)) == [1]


def test_a_request_above_the_capacity_blocks_none():
    """It waits for memory outside of the ledger; blocking others would not help it."""
    queue = [Request(1, 90, 0.0), Request(2, 30, 1.0)]
    assert numbers(admitted(queue, free=50, capacity=80, now=1000.0)) == [2]


def test_a_step_of_priority_is_worth_ten_seconds():
    """It overtakes requests that came less than that before it, and no others."""
    late = Request(2, 60, 9.0, priority=1)
    assert numbers(admitted([Request(1, 60, 0.0), late], 100, 100, now=9.0)) == [2]
    late = Request(2, 60, AGING_SECONDS + 1, priority=1)
    assert numbers(admitted([Request(1, 60, 0.0), late], 100, 100, now=20.0)) == [1]


def test_without_free_memory_none_is_admitted():
    """Also when more is used than there should be."""
    assert admitted([Request(1, 1, 0.0)], free=-5, capacity=100, now=0.0) == []
    assert admitted([], free=100, capacity=100, now=0.0) == []
