"""When the next sample is due."""

from __future__ import annotations

import pytest

from memwarden.engine.sampling_interval import ASSUMED_RATE, FillRate, delay
from memwarden.model.verdicts import Assessment, PressureLevel

LOW, HIGH, CRITICAL = PressureLevel.LOW, PressureLevel.HIGH, PressureLevel.CRITICAL


def after(available: int | None, rate: float, interval: float, **more: float) -> float:
    """The delay after a sample with so much headroom and nothing unconfirmed."""
    return delay(Assessment(LOW, LOW, None, None, available, 0.0), rate, interval, **more)


@pytest.mark.parametrize(
    ("available", "rate", "interval", "expected"),
    [
        pytest.param(4_000, 1_000.0, 60.0, 2.0, id="half of the headroom at this rate"),
        pytest.param(4_000, 100.0, 5.0, 5.0, id="never later than asked"),
        pytest.param(4, 1_000.0, 5.0, 0.010, id="never sooner than 10 ms"),
        pytest.param(0, 1_000.0, 5.0, 0.010, id="nothing left is looked at as often as may be"),
        pytest.param(4, 1_000.0, 0.004, 0.004, id="an asked interval below the floor is kept"),
        pytest.param(4_000, 0.0, 300.0, 300.0, id="nothing grows"),
        pytest.param(None, 1e9, 5.0, 5.0, id="nothing could be read"),
    ],
)
def test_the_next_look_is_due_before_half_of_the_headroom_can_be_eaten(
    available: int | None, rate: float, interval: float, expected: float
) -> None:
    """The delay is headroom / 2 / rate, between the floor and the asked interval."""
    assert after(available, rate, interval) == expected


@pytest.mark.parametrize(
    ("level", "raw", "interval", "expected"),
    [
        pytest.param(LOW, HIGH, 300.0, 1.0, id="up, not confirmed"),
        pytest.param(LOW, HIGH, 0.5, 0.5, id="up, and looked at more often than that anyway"),
        pytest.param(HIGH, HIGH, 300.0, 300.0, id="confirmed"),
        pytest.param(CRITICAL, HIGH, 300.0, 300.0, id="on the way down nothing is urgent"),
    ],
)
def test_an_unconfirmed_crossing_is_looked_at_again_in_one_second(
    level: PressureLevel, raw: PressureLevel, interval: float, expected: float
) -> None:
    """Only where the bare number stands above the level that is held."""
    verdict = Assessment(level, raw, None, None, 10**15, 0.0)
    assert delay(verdict, 1.0, interval) == expected


def test_a_ceiling_that_is_enforced_may_be_looked_at_more_often_still() -> None:
    """The floor is an argument: a millisecond under a ceiling."""
    assert after(0, 1e9, 5.0, shortest=0.001) == 0.001


def test_a_rate_is_assumed_until_a_minute_was_seen() -> None:
    """Nothing is known yet, so a thread is reckoned with that fills as fast as one can."""
    rate = FillRate()
    assert rate.rate(50.0) == ASSUMED_RATE == 1e9
    for second in range(100, 160):
        rate.see(float(second), 1_000)
    assert rate.rate(159.9) == ASSUMED_RATE
    assert rate.rate(160.0) == 0.0


def test_a_rate_beyond_the_assumed_one_counts_at_once() -> None:
    """The assumption is a lower bound."""
    rate = FillRate()
    rate.see(100.0, 10 * 10**9)
    rate.see(101.0, 7 * 10**9)
    assert rate.rate(101.0) == 3e9


def test_the_fastest_fall_of_the_last_minute_counts() -> None:
    """A slower one does not replace it; once it is a minute old the next fastest counts."""
    rate = FillRate()
    rate.see(0.0, 10_000)
    rate.see(100.0, 9_000)  # 10 a second
    rate.see(110.0, 8_500)  # 50 a second
    rate.see(120.0, 8_300)  # 20 a second
    rate.see(130.0, 9_300)  # memory given back is no fall
    assert rate.rate(130.0) == 50.0
    rate.see(170.0, 9_300)
    assert rate.rate(170.0) == 50.0
    rate.see(171.0, 9_300)
    assert rate.rate(171.0) == 20.0
    rate.see(181.0, 9_300)
    assert rate.rate(181.0) == 0.0


def test_two_looks_at_one_moment_are_no_rate() -> None:
    """Nothing is divided by zero, and the newer figure counts from here."""
    rate = FillRate(assumed=0.0)
    rate.see(0.0, 10_000)
    rate.see(0.0, 5_000)
    assert rate.rate(0.0) == 0.0
    rate.see(1.0, 4_000)
    assert rate.rate(1.0) == 1_000.0
