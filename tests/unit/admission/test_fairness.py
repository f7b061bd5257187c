"""Whose turn it is."""

from memwarden.admission.ledger.fairness import AGING_SECONDS, Request, admitted


def numbers(claims):
    """Their tickets, in the order of admission."""
    return [claim.ticket for claim in claims]


def test_those_who_fit_come_in_order_of_arrival():
    """As many as there is room for, the earliest first."""
    line = [Request(3, 40, 3.0), Request(1, 40, 1.0), Request(2, 40, 2.0)]
    assert numbers(admitted(line, free=100, capacity=100, now=4.0)) == [1, 2]


def test_a_smaller_one_passes_a_head_that_does_not_fit():
    """Room is not left empty while the head is young."""
    line = [Request(1, 90, 0.0), Request(2, 30, 1.0)]
    assert numbers(admitted(line, free=50, capacity=100, now=29.9)) == [2]


def test_nobody_passes_a_head_that_has_waited_too_long():
    """From its patience on what is returned gathers for it."""
    line = [Request(1, 90, 0.0), Request(2, 30, 1.0)]
    assert numbers(admitted(line, free=50, capacity=100, now=30.0)) == []
    assert numbers(admitted(line, free=90, capacity=100, now=30.0)) == [1]


def test_one_behind_the_head_blocks_as_well_when_it_is_old():
    """Also the second in the line cannot be passed for ever; who is before it may go."""
    line = [Request(1, 20, 0.0), Request(2, 90, 1.0), Request(3, 20, 2.0)]
    assert numbers(admitted(line, free=50, capacity=100, now=100.0)) == [1]


def test_who_would_not_fit_even_alone_stands_in_nobody_s_way():
    """It waits for others than those in the ledger; blocking them would not help it."""
    line = [Request(1, 90, 0.0), Request(2, 30, 1.0)]
    assert numbers(admitted(line, free=50, capacity=80, now=1000.0)) == [2]


def test_a_step_of_priority_is_worth_ten_seconds():
    """The more important one passes those who came less than that before it, and no others."""
    late = Request(2, 60, 9.0, priority=1)
    assert numbers(admitted([Request(1, 60, 0.0), late], 100, 100, now=9.0)) == [2]
    late = Request(2, 60, AGING_SECONDS + 1, priority=1)
    assert numbers(admitted([Request(1, 60, 0.0), late], 100, 100, now=20.0)) == [1]


def test_without_room_nobody_comes():
    """Also when more is used than there should be."""
    assert admitted([Request(1, 1, 0.0)], free=-5, capacity=100, now=0.0) == []
    assert admitted([], free=100, capacity=100, now=0.0) == []
