"""Levels over any series of figures."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from memwarden.assess.pressure import AT_ONCE_ABOVE, CRITICAL_ABOVE, HIGH_AT, MODERATE_AT, PressureDetector, bare_level
from memwarden.model.facts import SystemMemory
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel

EDGES = {
    PressureLevel.MODERATE: MODERATE_AT,
    PressureLevel.HIGH: HIGH_AT,
    PressureLevel.CRITICAL: CRITICAL_ABOVE,
}

#: Seconds since the last sample, and thousandths used (None: nothing could be read).
step = st.tuples(st.sampled_from([0.001, 0.5, 1.0, 5.0, 31.0, 400.0, 4000.0]), st.none() | st.integers(0, 1100))
near_an_edge = st.tuples(st.just(1.0), st.sampled_from([669, 670, 700, 769, 800, 869, 870, 900, 901, 951]))
many_series = st.lists(step | near_an_edge, min_size=1, max_size=120)


def samples(series: list[tuple[float, int | None]]) -> list[Sample]:
    """The series as samples of a machine of 1000 bytes."""
    made, now = [], 100.0
    for wait, used in series:
        now += wait
        system = None if used is None else SystemMemory(1000, 1000 - used, 0, 0, 0, 0)
        made.append(Sample(0.0, now, system=system))
    return made


def judged(made: list[Sample]) -> list[Assessment]:
    """One detector over all of them."""
    detector = PressureDetector()
    return [detector.assess(sample) for sample in made]


@given(many_series, st.floats(0, 1e6))
def test_the_same_samples_give_the_same_verdicts(series: list[tuple[float, int | None]], wall: float) -> None:
    """At any time of day: a record can be judged again."""
    made = samples(series)
    again = [sample._replace(wall=wall, late=3.0) for sample in made]
    assert judged(made) == judged(again)


@given(many_series)
def test_the_first_figure_gives_the_bare_level(series: list[tuple[float, int | None]]) -> None:
    """Nothing is known yet that could contradict it."""
    first = next((each for each in judged(samples(series)) if each.ratio is not None), None)
    assert first is None or (first.level is first.raw and first.raw is bare_level(first.ratio or 0.0))


@given(many_series)
def test_a_level_has_a_reason(series: list[tuple[float, int | None]]) -> None:
    """Higher than before: this figure is at the new level's edge or within three points of it. Lower: it is
    under the edge of the level that was left."""
    for before, after in pairwise(judged(samples(series))):
        if after.ratio is None:
            assert after.level is before.level
        elif after.level.rank > before.level.rank and before.ratio is not None:
            assert after.ratio >= EDGES[after.level] - 0.03
            if after.level is PressureLevel.CRITICAL:
                assert after.ratio > CRITICAL_ABOVE
                assert after.ratio > AT_ONCE_ABOVE or before.ratio > CRITICAL_ABOVE
        elif after.level.rank < before.level.rank:
            assert after.ratio <= EDGES[before.level]


@given(many_series)
def test_critical_is_there_whenever_it_must_be(series: list[tuple[float, int | None]]) -> None:
    """Above 95 %, or above 90 % twice in a row: CRITICAL, whatever happened before."""
    verdicts = judged(samples(series))
    seen = [each for each in verdicts if each.ratio is not None]
    for before, after in pairwise(seen):
        both = before.ratio is not None and before.ratio > CRITICAL_ABOVE
        if after.ratio is not None and (after.ratio > AT_ONCE_ABOVE or (both and after.ratio > CRITICAL_ABOVE)):
            assert after.level is PressureLevel.CRITICAL


@given(
    st.sampled_from([(671, 699), (771, 799), (871, 900)]),
    st.lists(st.tuples(st.floats(0.001, 100.0), st.integers(0, 28)), min_size=1, max_size=100),
    st.booleans(),
)
def test_inside_the_band_nothing_flaps(
    band: tuple[int, int], series: list[tuple[float, int]], from_above: bool
) -> None:
    """A figure that stays within three points under an edge is not reported above it again, once it has left it."""
    begin = [(1.0, band[1] + 2 if from_above else band[0] - 40)]
    verdicts = judged(samples([*begin, *((wait, band[0] + offset) for wait, offset in series)]))
    ranks = [verdict.level.rank for verdict in verdicts]
    below = bare_level(band[0] / 1000).rank
    if from_above:
        assert ranks == sorted(ranks, reverse=True)
        assert set(ranks) <= {below, below + 1}
    else:
        assert max(ranks) <= below


@given(many_series, st.integers(0, 1100))
def test_a_steady_figure_ends_at_its_bare_level(series: list[tuple[float, int | None]], used: int) -> None:
    """However wild the past was; only inside a band may the higher level stay."""
    verdicts = judged(samples([*series, *[(30.0, used)] * 50]))
    last, bare = verdicts[-1].level, bare_level(used / 1000)
    if last is not bare:
        assert last.rank == bare.rank + 1
        assert EDGES[last] - 0.03 <= used / 1000 <= EDGES[last]


@given(many_series)
def test_since_is_the_moment_of_the_last_change(series: list[tuple[float, int | None]]) -> None:
    """It never lies in the future, and changes only with the level."""
    made = samples(series)
    verdicts = judged(made)
    for sample, verdict in zip(made, verdicts, strict=True):
        assert verdict.since <= sample.monotonic
    seen = [verdict for verdict in verdicts if verdict.ratio is not None]
    for before, after in pairwise(seen):
        assert (before.since == after.since) is (before.level is after.level)
