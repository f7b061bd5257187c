"""Trying again with less."""

import gc
import weakref

import pytest

from memwarden.errors import DoesNotFit, LimitExceeded, NotAdmitted, SettingsError
from memwarden.guards.budget import reclaim
from memwarden.guards.budget.profiles import PROFILES, Profile
from memwarden.guards.budget.retry import retry_with_smaller


class Big:
    """Something that a try makes."""


@pytest.mark.contract("V-13", "X-40")
def test_the_next_smaller_mode_succeeds_and_the_attempts_are_reported():
    """Two fail for want of memory, the third does not: nothing reaches the caller but the result."""
    tried = []

    def work(mode):
        tried.append(mode)
        if mode is Profile.FULL_QUALITY:
            raise MemoryError("large")
        if mode is Profile.BALANCED:
            raise LimitExceeded("over", limit=10, used=11)
        return f"done at {mode.value}"

    result = retry_with_smaller(work, Profile.FULL_QUALITY)
    assert result.value == "done at memory_optimized"
    assert (result.plan, result.reduced) == (Profile.MEMORY_OPTIMIZED, True)
    assert tried == list(PROFILES[:3])
    assert [attempt.error for attempt in result.attempts] == ["MemoryError: large", "LimitExceeded: over", ""]


@pytest.mark.contract("V-13", "X-40")
def test_the_last_failure_reaches_the_caller_with_all_attempts():
    """Bounded by the ladder; notes and ``attempts`` say what was tried."""

    def work(mode):
        raise MemoryError(mode.value)

    with pytest.raises(MemoryError, match="survival") as caught:
        retry_with_smaller(work, Profile.BALANCED)
    assert [attempt.plan for attempt in caught.value.attempts] == list(PROFILES[1:])
    assert [note.split(":")[0] for note in caught.value.__notes__] == [f"tried {mode.name}" for mode in PROFILES[1:]]


def test_attempts_are_bounded_further():
    """Two tries, though the ladder has four."""
    tried = []

    def work(mode):
        tried.append(mode)
        raise NotAdmitted("no memory")

    with pytest.raises(NotAdmitted):
        retry_with_smaller(work, Profile.FULL_QUALITY, attempts=2)
    assert tried == list(PROFILES[:2])


@pytest.mark.parametrize(
    "error", [MemoryError(), NotAdmitted("x"), DoesNotFit("x", asked=2, budget=1, source="machine")]
)
def test_plans_may_be_anything(error):
    """Batch sizes, for one; every kind of memory failure counts."""

    def work(batch):
        if batch > 10:
            raise error
        return batch

    result = retry_with_smaller(work, [100, 50, 10])
    assert (result.value, len(result.attempts)) == (10, 3)


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), OSError(28, "disk full")])
def test_other_errors_are_not_tried_again(error):
    """A bug is a bug with less memory, too."""
    tried = []

    def work(mode):
        tried.append(mode)
        raise error

    with pytest.raises(type(error)):
        retry_with_smaller(work, Profile.FULL_QUALITY)
    assert len(tried) == 1


def test_what_the_failed_try_made_is_gone_before_the_next():
    """Also what only the frames of a kept error, a cycle or a registered cache referred to."""
    alive, cache, log = [], [], []

    def deeper(local):
        error = MemoryError()
        log.append(error)  # kept, and with it its frames
        raise error from ValueError()

    def work(mode):
        assert not any(reference() for reference in alive), "the next try finds the last one's memory taken"
        local, cycle = Big(), Big()
        cycle.itself = cycle
        cached = Big()
        cache.append(cached)
        alive.extend(map(weakref.ref, (local, cycle, cached)))
        if mode is not Profile.SURVIVAL:
            deeper([local])
        return 1

    take_off = reclaim.caches.register(cache.clear, "test")
    gc.disable()
    try:
        assert retry_with_smaller(work, Profile.FULL_QUALITY).value == 1
    finally:
        gc.enable()
        take_off()
    assert len(alive) == 12


def test_the_ladder_begins_where_the_level_is():
    """Without plans the first mode is that of the memory here and now, with all smaller ones after it."""
    result = retry_with_smaller(lambda mode: mode)
    assert result.value in PROFILES
    assert not result.reduced


def test_work_that_is_still_to_be_done_is_refused():
    """A coroutine or a generator would fail after the call, where nothing is retried."""

    async def work(mode):
        return 1

    with pytest.raises(SettingsError, match="coroutine"):
        retry_with_smaller(work, Profile.SURVIVAL)
    with pytest.raises(SettingsError, match="generator"):
        retry_with_smaller(lambda mode: (each for each in "abc"), Profile.SURVIVAL)


@pytest.mark.parametrize(
    ("plans", "attempts"), [([], None), ("abc", None), (5, None), ([1], 0), ([1], 1.5), ([1], True)]
)
def test_bad_plans_are_refused(plans, attempts):
    """Before anything was tried."""
    with pytest.raises(SettingsError):
        retry_with_smaller(pytest.fail, plans, attempts=attempts)
