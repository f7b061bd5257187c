"""Which of three words a series gets."""

import math
import random

import pytest

from memwarden.assess.trend import DECREASING, INCREASING, STABLE, TrendDetector, trend_of
from support.leaks import noisy


def words(values: list[float], step: float = 10.0) -> list[str]:
    """The word after each reading."""
    found = TrendDetector()
    return [found.update(i * step, value).word for i, value in enumerate(values)]


@pytest.mark.contract("S2-15")
@pytest.mark.parametrize(
    ("older", "recent", "word"),
    [
        (50.0, 55.0, INCREASING),
        (50.0, 54.9, STABLE),
        (50.0, 45.0, DECREASING),
        (50.0, 45.1, STABLE),
        (50.0, 50.0, STABLE),
    ],
)
def test_a_tenth_more_or_less_decides(older: float, recent: float, word: str) -> None:
    """The seed's cases: the last five readings against those before, ten per cent and more."""
    assert words([older] * 15 + [recent] * 5)[-1] == word


@pytest.mark.contract("S2-5", "S2-15", "V-15", "W2-7")
def test_a_slow_slope_is_increasing_though_no_window_grows_by_a_tenth() -> None:
    """One per cent in a thousand readings, under noise as large as that: increasing, and not stable for ever."""
    reported = words(noisy(lambda i: 50 + i * 0.0005, 6000, noise=0.3))
    assert set(reported) <= {INCREASING, STABLE}
    assert set(reported[-1000:]) == {INCREASING}
    down = words(noisy(lambda i: 50 - i * 0.0005, 6000, noise=0.3))
    assert set(down[-1000:]) == {DECREASING}


@pytest.mark.contract("V-15", "W2-7")
def test_a_plateau_after_a_load_is_stable_again() -> None:
    """The old window does not count for ever: some twenty readings after a load it is stable."""
    reported = words(noisy(lambda i: 40.0 if i < 500 else 60.0, 2000, noise=0.3))
    assert INCREASING in reported[500:510]
    assert set(reported[525:]) == {STABLE}


def test_noise_is_stable() -> None:
    """Ten thousand readings of noise, and hardly one of them is called a trend."""
    reported = words(noisy(lambda i: 50.0, 10_000, noise=2.0))
    assert sum(word != STABLE for word in reported) < 100


def test_first_readings_are_stable_and_give_their_number() -> None:
    """With five readings and fewer nothing is known, whatever they are."""
    found = TrendDetector()
    for i, value in enumerate((10.0, 50.0, 90.0, 95.0, 99.0)):
        trend = found.update(float(i), value)
        assert trend == (STABLE, i + 1, 0.0, 0.0)


def test_the_slope_is_reported_beside_the_word() -> None:
    """In units a second, with how many readings it rests upon and how sure it is."""
    trend = trend_of([(10.0 * i, 50 + 0.02 * i) for i in range(800)])
    assert trend.word == INCREASING
    assert trend.slope == pytest.approx(0.002, rel=0.05)
    assert trend.readings > 100
    assert 0.99 < trend.confidence <= 1


def test_a_clock_that_is_set_back_starts_afresh() -> None:
    """What lies in the future is no past."""
    found = TrendDetector()
    for i in range(200):
        found.add(1000.0 + i, float(i))
    assert found.trend.word == INCREASING
    assert found.update(5.0, 300.0) == (STABLE, 1, 0.0, 0.0)


def test_what_is_no_number_is_passed_over() -> None:
    """The trend is that of the readings that could be made."""
    rng = random.Random(3)
    values = [50 + 0.05 * i + rng.gauss(0, 0.1) for i in range(300)]
    plain = [(10.0 * i, value) for i, value in enumerate(values)]
    holed = [pair for t, value in plain for pair in ((t - 1, None), (t - 1, math.nan), (math.inf, 1.0), (t, value))]
    assert trend_of(holed) == trend_of(plain)
