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
    stats = CallStats("load")
    stats.add(call(MIB, rise=5 * MIB))
    stats.add(call(2 * MIB, rise=3 * MIB, error="ValueError", method="sampled"))
    stats.add(call(MIB, shared=("other",)))
    stats.add_unread(failed=True)
    summary = stats.summary()
    assert (summary.calls, summary.failed, summary.shared, summary.sampled, summary.unread) == (4, 2, 1, 1, 1)
    assert (summary.peak, summary.rise, summary.growth) == (15 * MIB, 5 * MIB, 4 * MIB)
    assert (summary.seconds, summary.slope) == (1.5, None)


def test_a_leak_has_a_slope():
    """The same bytes stay of each call."""
    stats = CallStats("load")
    for _ in range(1000):
        stats.add(call(1000))
    assert stats.growth().slope == 1000


def test_steps_of_an_arena_are_a_slope_too():
    """A leak of 1 KiB a call shows as 1 MiB in every 1024th."""
    stats = CallStats("load")
    for number in range(20_000):
        stats.add(call(MIB if number % 1024 == 1023 else 0))
    assert stats.growth().slope == pytest.approx(1024, rel=0.1)


def test_what_the_first_calls_take_is_no_slope():
    """Imports and caches: 100 MiB stay of the first call, nothing of the others."""
    stats = CallStats("load")
    stats.add(call(100 * MIB))
    for _ in range(500):
        stats.add(call(0))
    assert stats.growth().slope == 0


def test_what_comes_back_is_no_slope():
    """Taken by one call, given back by the next."""
    stats = CallStats("load")
    for number in range(500):
        stats.add(call(MIB if number % 2 else -MIB))
    assert stats.growth().slope == 0


def test_memory_is_bounded_and_all_calls_are_covered():
    """Points get sparser; the first and the newest calls stay covered."""
    stats = CallStats("load")
    for _ in range(100_000):
        stats.add(call(10))
    growth = stats.growth()
    assert POINTS // 2 <= len(growth.points) <= POINTS
    first, last = growth.points[0], growth.points[-1]
    assert first[0] < 2000
    assert last[0] > 99_000
    assert all(size == 10 * calls for calls, size in growth.points)


def test_calls_beside_others_are_no_evidence():
    """Memory that they kept cannot be separated from what the others kept."""
    stats = CallStats("load")
    for _ in range(50):
        stats.add(call(MIB, shared=("other",)))
    growth = stats.growth()
    assert (growth.calls, growth.points, growth.slope) == (50, (), None)


def test_a_finalizer_may_add_while_something_is_added():
    """On the very thread that holds the lock."""
    stats = CallStats("load")
    with stats._lock:
        stats.add(call(1))
    assert stats.summary().calls == 1


def test_a_child_is_not_held_up_by_a_lock_of_its_parent():
    """What was counted stays."""
    stats = CallStats("load")
    stats.add(call(1))
    holder = threading.Thread(target=stats._lock.acquire)
    holder.start()
    holder.join()
    stats.after_fork()
    stats.add(call(1))
    assert stats.summary().calls == 2


def test_names_are_bounded(monkeypatch):
    """A program that makes up a name for each call is measured, and does not grow by it."""
    monkeypatch.setattr(module, "_all_stats", {})
    monkeypatch.setattr(module, "NAMES", 3)
    for number in range(10):
        module.call_stats(f"name {number}").add(call(number))
    assert [each.name for each in module.summaries()] == ["name 2", "name 1", "name 0"]
    assert [each.name for each in module.growths()] == ["name 0", "name 1", "name 2"]
    module.clear()
    assert module.summaries() == module.growths() == ()
