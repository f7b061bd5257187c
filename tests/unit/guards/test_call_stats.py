"""All calls of one name: figures, and growth as evidence."""

import threading

import pytest

from memwarden.guards.measure import call_stats as module
from memwarden.guards.measure.call_stats import POINTS, CallStats
from memwarden.model.calls import CallMemory

MIB = 1 << 20


def call(growth, *, rise=0, shared=(), error="", method="kernel"):
    """One call that left ``growth`` bytes."""
    return CallMemory("load", 0, growth, 10 * MIB + rise, rise, growth, 0.5, method, shared, error)


def test_calls_are_added_up():
    """Counts of all sorts, the largest peak and rise, the sum of what stayed."""
    tally = CallStats("load")
    tally.add(call(MIB, rise=5 * MIB))
    tally.add(call(2 * MIB, rise=3 * MIB, error="ValueError", method="sampled"))
    tally.add(call(MIB, shared=("other",)))
    tally.add_unread(failed=True)
    summary = tally.summary()
    assert (summary.calls, summary.failed, summary.shared, summary.sampled, summary.unread) == (4, 2, 1, 1, 1)
    assert (summary.peak, summary.rise, summary.growth) == (15 * MIB, 5 * MIB, 4 * MIB)
    assert (summary.seconds, summary.slope) == (1.5, None)


def test_a_leak_has_a_slope():
    """The same bytes stay of each call."""
    tally = CallStats("load")
    for _ in range(1000):
        tally.add(call(1000))
    assert tally.growth().slope == 1000


def test_steps_of_an_arena_are_a_slope_too():
    """A leak of 1 KiB a call shows as 1 MiB in every 1024th."""
    tally = CallStats("load")
    for number in range(20_000):
        tally.add(call(MIB if number % 1024 == 1023 else 0))
    assert tally.growth().slope == pytest.approx(1024, rel=0.1)


def test_what_the_first_calls_take_is_no_slope():
    """Imports and caches: 100 MiB stay of the first call, nothing of the others."""
    tally = CallStats("load")
    tally.add(call(100 * MIB))
    for _ in range(500):
        tally.add(call(0))
    assert tally.growth().slope == 0


def test_what_comes_back_is_no_slope():
    """Taken by one call, given back by the next."""
    tally = CallStats("load")
    for number in range(500):
        tally.add(call(MIB if number % 2 else -MIB))
    assert tally.growth().slope == 0


def test_memory_is_bounded_and_all_calls_are_covered():
    """Points get sparser; the first and the newest calls stay covered."""
    tally = CallStats("load")
    for _ in range(100_000):
        tally.add(call(10))
    growth = tally.growth()
    assert POINTS // 2 <= len(growth.points) <= POINTS
    first, last = growth.points[0], growth.points[-1]
    assert first[0] < 2000
    assert last[0] > 99_000
    assert all(size == 10 * calls for calls, size in growth.points)


def test_calls_beside_others_are_no_evidence():
    """What stayed of them cannot be told from what stayed of the others."""
    tally = CallStats("load")
    for _ in range(50):
        tally.add(call(MIB, shared=("other",)))
    growth = tally.growth()
    assert (growth.calls, growth.points, growth.slope) == (50, (), None)


def test_a_finalizer_may_add_while_something_is_added():
    """On the very thread that holds the lock."""
    tally = CallStats("load")
    with tally._lock:
        tally.add(call(1))
    assert tally.summary().calls == 1


def test_a_child_is_not_held_up_by_a_lock_of_its_parent():
    """What was counted stays."""
    tally = CallStats("load")
    tally.add(call(1))
    holder = threading.Thread(target=tally._lock.acquire)
    holder.start()
    holder.join()
    tally.after_fork()
    tally.add(call(1))
    assert tally.summary().calls == 2


def test_names_are_bounded(monkeypatch):
    """A program that makes up a name for each call is measured, and does not grow by it."""
    monkeypatch.setattr(module, "_tallies", {})
    monkeypatch.setattr(module, "NAMES", 3)
    for number in range(10):
        module.call_stats(f"name {number}").add(call(number))
    assert [each.name for each in module.summaries()] == ["name 2", "name 1", "name 0"]
    assert [each.name for each in module.growths()] == ["name 0", "name 1", "name 2"]
    module.clear()
    assert module.summaries() == module.growths() == ()
