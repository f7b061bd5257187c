"""Verdict, forecast and trend over any course of figures."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from memwarden.assess.leak import LeakDetector
from memwarden.assess.trend import DECREASING, INCREASING, STABLE, TrendDetector

anything = st.floats(allow_nan=True, allow_infinity=True)
calls = st.lists(st.tuples(anything, st.none() | anything, st.none() | anything), max_size=300)
#: Courses that rise, fall, stand and jump, in whole MiB, as runs of (readings, change of each).
runs = st.lists(st.tuples(st.integers(1, 120), st.integers(-8, 8)), min_size=1, max_size=12)


def course(made: list[tuple[int, int]]) -> list[int]:
    """The runs one after another, never below 64."""
    values, now = [], 512
    for count, change in made:
        for _ in range(count):
            now = max(64, now + change)
            values.append(now)
    return values


@given(calls)
def test_no_float_breaks_it(made: list[tuple[float, float | None, float | None]]) -> None:
    """Whatever is read at whatever time: a stage, and an ordered range of seconds or none."""
    found, trend = LeakDetector(), TrendDetector()
    for t, value, limit in made:
        stage, left = found.update(t, value, limit)
        assert stage in (0, 1, 2)
        assert left is None or 0 <= left[0] <= left[1] <= left[2]
        assert found.verdict.reason
        reported = trend.update(t, value)
        assert reported.word in (INCREASING, DECREASING, STABLE)
        assert 0 <= reported.confidence <= 1
        assert not math.isnan(reported.slope)


@given(st.lists(st.tuples(st.floats(1e-300, 1e300), st.integers(1, 40)), max_size=60), st.floats(1e-300, 1e300))
def test_no_scale_breaks_it(made: list[tuple[float, int]], limit: float) -> None:
    """Runs of equal readings of any size, under any limit."""
    found, now = LeakDetector(), 0.0
    for value, count in made:
        for k in range(count):
            now += 1
            stage, _ = found.update(now, value * (1 + k / 50), limit)
            assert stage in (0, 1, 2)


@settings(max_examples=60)
@given(runs, st.sampled_from([0.25, 4.0, 1024.0]))
def test_the_unit_does_not_matter(made: list[tuple[int, int]], factor: float) -> None:
    """All is a share of the headroom: the same series in other units, and in other time, gets the same verdicts."""
    plain, other = LeakDetector(), LeakDetector()
    for i, value in enumerate(course(made)):
        stage, left = plain.update(float(i), float(value), 2048.0)
        again, later = other.update(4.0 * i, value * factor, 2048.0 * factor)
        assert stage == again
        assert (left is None) == (later is None)
        if left is not None and later is not None:
            assert all(math.isclose(4 * a, b, rel_tol=1e-6) for a, b in zip(left, later, strict=True))


@settings(max_examples=60)
@given(runs, st.integers(0, 4096))
def test_only_the_headroom_counts(made: list[tuple[int, int]], more: int) -> None:
    """The same course on a higher level under a limit that is higher by as much gets the same verdicts."""
    plain, other = LeakDetector(), LeakDetector()
    for i, value in enumerate(course(made)):
        assert plain.update(float(i), float(value), 2048.0)[0] == other.update(float(i), value + more, 2048.0 + more)[0]


@settings(max_examples=60)
@given(runs)
def test_the_same_readings_give_the_same_verdicts(made: list[tuple[int, int]]) -> None:
    """At any time of day: a recording can be judged again."""
    plain, other = LeakDetector(), LeakDetector()
    for i, value in enumerate(course(made)):
        now = plain.update(float(i), float(value), 2048.0)
        assert other.update(1024.0 * 1024 + i, float(value), 2048.0) == now
        assert plain.reason == other.reason


@settings(max_examples=60)
@given(runs)
def test_what_never_rises_is_never_held_to_leak(made: list[tuple[int, int]]) -> None:
    """A course that only falls or stands has no leak, and no time left."""
    found = LeakDetector()
    for i, value in enumerate(course([(count, -abs(change)) for count, change in made])):
        assert found.update(float(i), float(value), 2048.0) == (0, None)
