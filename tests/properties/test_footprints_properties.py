"""Footprints over any tasks."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from memwarden.admission.footprints.footprint import KEPT, KEPT_KILLS, Footprint
from memwarden.admission.footprints.predictors import RETRY_FACTOR, Footprints
from memwarden.admission.footprints.regression import Costs, cheapest, fit
from memwarden.model.units import GIB, MIB

sizes = st.none() | st.floats(0, 1e9) | st.integers(0, 10).map(float) | st.sampled_from([math.nan, math.inf, -1.0])
peaks = st.integers(0, 1 << 50)
tasks = st.lists(st.tuples(sizes, peaks, st.booleans()), min_size=1, max_size=60)


def learned(history: list[tuple[float | None, int, bool]]) -> Footprints:
    footprints = Footprints(budget=GIB, slots=8)
    for size, peak, killed in history:
        footprints.observe("k", size, peak, 1.0, "killed_at" if killed else "finished")
    return footprints


@given(tasks, sizes, peaks)
def test_a_prediction_can_always_be_reserved(
    history: list[tuple[float | None, int, bool]], size: float | None, seen: int
) -> None:
    """It is a whole number of pages above zero that no system call refuses; a repeat gets what it had, and half as much
    again where that was all that it would have been given."""
    footprints = learned(history)
    for at_least in (0, seen):
        prediction = footprints.predict("k", size, at_least=at_least)
        assert 0 < prediction.reserve < 1 << 63
        assert prediction.reserve % 4096 == 0
        assert prediction.most >= prediction.reserve
        assert prediction.reserve >= at_least
        if at_least >= footprints.predict("k", size).reserve:
            assert prediction.reserve >= at_least * RETRY_FACTOR
        assert (prediction.quantile is None) == (prediction.n == 0)


@given(tasks)
def test_never_below_what_a_task_of_that_size_was_killed_at(history: list[tuple[float | None, int, bool]]) -> None:
    """As long as none of its size has finished."""
    footprints = learned(history)
    bounds: dict[float | None, int] = {}
    finished = set()
    for size, peak, killed in history:
        size = None if size is None or not size >= 0 else min(size, 1e18)
        if not killed:
            finished.add(size)
            bounds.pop(size, None)
        elif size not in finished:
            bounds[size] = max(peak, bounds.pop(size, 0))
    for size, bound in list(bounds.items())[-KEPT_KILLS:]:
        assert footprints.predict("k", size).reserve >= bound


rising = st.lists(
    st.tuples(st.floats(1, 1000), st.floats(0.9, 1.1), st.sampled_from([1, 1, 1, 1, 1, 1, 1, 3])),
    min_size=1,
    max_size=120,
)


@given(rising, st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), st.lists(st.floats(0, 5000), min_size=2, max_size=10))
def test_what_rises_is_learned_to_rise(
    history: list[tuple[float, float, int]], power: float, asked: list[float]
) -> None:
    """A curve that was learned to rise gives a larger task no less, within what was seen and beyond it."""
    curve = fit([size for size, _, _ in history], [(50 + size**power) * noise * out for size, noise, out in history])
    if curve.slope >= 0:
        reported = [curve.at(size) for size in sorted(asked)]
        assert reported == sorted(reported)
        assert all(each > 0 for each in reported)


@settings(max_examples=30)
@given(st.integers(0, 1 << 30), st.sampled_from(["constant", "linear", "squared"]))
def test_the_order_of_tasks_matters_little(seed: int, shape: str) -> None:
    """The same hundred tasks in another order give a median within a twentieth, and a like reservation."""
    rng = random.Random(seed)
    history = []
    for _ in range(100):
        size = rng.uniform(20, 160)
        peak = {"constant": 120.0, "linear": 24 + 2 * size, "squared": 32 + 0.012 * size**2}[shape]
        history.append((size, int(peak * rng.lognormvariate(0, 0.05) * MIB), False))
    reported = []
    for _ in range(3):
        rng.shuffle(history)
        footprints = learned(history)  # type: ignore[arg-type]
        if footprints.describe("k")["drifts"]:
            return  # chance put all small ones last: that does look like a change
        reported.append(footprints.predict("k", 90.0))
    medians = [each.median for each in reported]
    reserved = [each.reserve for each in reported]
    assert max(medians) <= min(medians) * 1.05
    assert max(reserved) <= min(reserved) * 1.1


@given(
    st.lists(st.tuples(st.just(math.nan) | st.floats(0, 1e18), peaks, st.booleans()), max_size=40), st.integers(1, 30)
)
def test_what_is_remembered_is_bounded(history: list[tuple[float, int, bool]], times: int) -> None:
    """However many there were."""
    footprint = Footprint()
    for size, peak, killed in history * times:
        footprint.add(size, max(1.0, peak), 1.0, killed=killed)
    footprint.learn_now(0.0, Costs())
    assert len(footprint.peaks) == len(footprint.sizes) == len(footprint.seconds) <= KEPT
    assert len(footprint.open) <= KEPT_KILLS


ratios = st.lists(st.floats(0.01, 100), min_size=1, max_size=50)


@given(ratios, st.floats(0, 1), st.floats(0, 50))
def test_the_choice_is_one_of_the_ratios(seen: list[float], killed: float, free: float) -> None:
    """Its quantile is the share that stays within it."""
    chosen, quantile = cheapest(sorted(seen), seconds=1.0, free=free, costs=Costs(killed=killed))
    assert chosen in seen
    within = sum(ratio <= chosen for ratio in seen) / len(seen)
    assert math.isclose(quantile, within, abs_tol=1e-9) or seen.count(chosen) > 1
