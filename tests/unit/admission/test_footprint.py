"""What a task will need, learned from what such tasks needed."""

from __future__ import annotations

import math
import random
import sys
import time

import pytest

from memwarden.admission.footprints.footprint import DRIFT_WINDOW, KEPT, Footprint
from memwarden.admission.footprints.predictors import RETRY_FACTOR, Footprints, FunctionPredictor
from memwarden.admission.footprints.regression import Costs, cheapest, fit
from memwarden.errors import SettingsError
from memwarden.model.footprints import TaskKey
from memwarden.model.units import GIB, MIB
from memwarden.protocols import Predictor


def learned(peaks: list[tuple[float | None, float]], seconds: float = 1.0, **given: object) -> Footprints:
    """Footprints of 8 slots in 1 GiB that have seen these (size, MiB) of the kind ``k`` finish."""
    footprints = Footprints(**{"budget": GIB, "slots": 8, **given})  # type: ignore[arg-type]
    for size, peak in peaks:
        footprints.observe("k", size, int(peak * MIB), seconds)
    return footprints


def noisy(shape: object, count: int = 200, *, outliers: float = 0.0, seed: int = 1) -> list[tuple[float | None, float]]:
    """Tasks of sizes from 20 to 160 with a peak by their size, 8 % of noise, and some three times as large."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        size = rng.uniform(20, 160)
        peak = shape(size) * rng.lognormvariate(0, 0.08) * (3 if rng.random() < outliers else 1)  # type: ignore[operator]
        made.append((size, peak))
    return made


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (lambda size: 120.0, "the same"),
        (lambda size: 24 + 2.0 * size, "linear"),
        (lambda size: 32 + 0.012 * size**2, "steps"),
        (lambda size: 10 + 30 * size**0.5, "steps"),
        (lambda size: 60.0 if size < 90 else 400.0, "steps"),
    ],
)
def test_the_shape_is_found_through_outliers(shape: object, words: str) -> None:
    """A tenth of the tasks take three times as much, and the curve stays within a tenth of the truth."""
    footprints = learned(noisy(shape, 250, outliers=0.1))
    assert words in footprints.predict("k", 100.0).why
    for size in (30.0, 60.0, 120.0, 150.0):
        truth = shape(size) * MIB  # type: ignore[operator]
        assert footprints.predict("k", size).median == pytest.approx(truth, rel=0.1), (words, size)


def test_outliers_do_not_bend_the_reservation() -> None:
    """One in ten takes three times as much: it is cheaper that those grow than that all others reserve for them."""
    seen = noisy(lambda size: 120.0, 250, outliers=0.1)
    prediction = learned(seen, budget=600 * MIB).predict("k", 100.0)
    assert 120 * MIB < prediction.reserve < 160 * MIB
    assert 0.75 < (prediction.quantile or 0) < 0.95
    assert prediction.most > 360 * MIB


def test_a_kill_that_costs_more_raises_the_quantile() -> None:
    """Where a reservation is a limit, and where tasks are short beside what it takes to begin again."""
    seen = noisy(lambda size: 120.0, 250, outliers=0.02)
    soft, strict = (learned(seen, budget=600 * MIB, costs=Costs(killed=killed)) for killed in (0.02, 1.0))
    assert soft.predict("k", 50.0).reserve < strict.predict("k", 50.0).reserve
    assert strict.predict("k", 50.0).quantile >= 0.95  # type: ignore[operator]
    costs = Costs(killed=1.0, requeue=1.0)
    short, long = (learned(seen, seconds, budget=600 * MIB, costs=costs) for seconds in (0.01, 100.0))
    assert short.predict("k", 50.0).reserve > long.predict("k", 50.0).reserve


def test_unused_memory_is_reserved_freely() -> None:
    """Eight slots of 64 GiB run out before the memory: then nearly all tasks stay within their reservation."""
    seen = noisy(lambda size: 120.0, 100, outliers=0.1)
    assert learned(seen, budget=64 * GIB).predict("k", 50.0).quantile == pytest.approx(1.0)


def test_a_repeat_gets_more() -> None:
    """Half as much again as it was seen with, or what nearly all get along with."""
    footprints = learned(noisy(lambda size: 120.0, 100))
    assert footprints.predict("k", 50.0, at_least=800 * MIB).reserve >= RETRY_FACTOR * 800 * MIB
    usual = footprints.predict("k", 50.0)
    small = footprints.predict("k", 50.0, at_least=usual.reserve)
    assert small.reserve >= small.most
    assert "retry" in small.why


def test_a_victim_gets_what_it_had() -> None:
    """Killed to free memory while it was still growing, a task has shown nothing of what it needs."""
    footprints = learned(noisy(lambda size: 120.0, 100, outliers=0.1), budget=600 * MIB)
    assert footprints.predict("k", 50.0, at_least=20 * MIB) == footprints.predict("k", 50.0)
    footprints.observe("k", 50.0, 20 * MIB, 0.1, "killed_at")
    assert footprints.predict("k", 50.0).reserve < 160 * MIB


def test_other_kinds_show_whether_memory_is_short() -> None:
    """Small tasks reserve freely among themselves, and sparingly beside large ones."""
    seen = noisy(lambda size: 20.0, 100, outliers=0.1)
    footprints = learned(seen)
    assert footprints.predict("k", 50.0).quantile == pytest.approx(1.0)
    for _ in range(200):
        footprints.observe("large", None, 500 * MIB, 1.0)
    for size, peak in seen[:20]:
        footprints.observe("k", size, int(peak * MIB), 1.0)
    assert footprints.predict("k", 50.0).quantile < 0.95  # type: ignore[operator]


def test_a_size_that_was_killed_is_remembered() -> None:
    """Until one of that size has finished, a task of it gets more than the killed one had. Where all are of one size,
    the next is another task."""
    footprints = learned(noisy(lambda size: 120.0, 100))
    footprints.observe("k", 77.0, 500 * MIB, 1.0, "killed_at")
    assert footprints.predict("k", 77.0).reserve >= RETRY_FACTOR * 500 * MIB
    assert footprints.predict("k", 78.0).reserve < 200 * MIB
    footprints.observe("k", 77.0, 600 * MIB, 1.0)
    assert footprints.predict("k", 77.0).reserve < 200 * MIB
    assert footprints.describe("k")["killed"] == []
    for size in (None, 5.0):
        alike = learned([(size, 100)] * 40, budget=600 * MIB)
        alike.observe("k", size, 500 * MIB, 1.0, "killed_at")
        assert alike.predict("k", size).reserve < 200 * MIB
        assert alike.predict("k", size, at_least=500 * MIB).reserve >= RETRY_FACTOR * 500 * MIB


def test_kills_are_no_peaks() -> None:
    """With the bytes of killed tasks as peaks estimates would shrink: these were all killed at half of their need."""
    footprints = learned(noisy(lambda size: 120.0, 20))
    before = footprints.predict("k", 50.0)
    for size in range(20):
        footprints.observe("k", float(size), 60 * MIB, 0.5, "killed_at")
    after = footprints.predict("k", 50.0)
    assert after.reserve >= before.reserve
    assert after.median == before.median


def test_nothing_is_known_yet() -> None:
    """A hint, else a share of the budget, else the largest of the other kinds."""
    footprints = Footprints(budget=GIB, slots=8)
    first = footprints.predict("k", 10.0)
    assert (first.reserve, first.n, first.quantile, first.confidence) == (128 * MIB, 0, None, "none")
    assert footprints.predict("k", 10.0, hint=300 * MIB).reserve == 300 * MIB
    for peak in (200, 210, 220):
        footprints.observe("small", None, 20 * MIB, 1.0)
        footprints.observe("large", None, peak * MIB, 1.0)
    assert 200 * MIB < footprints.predict("k", 10.0).reserve < 330 * MIB
    assert footprints.predict("k", 10.0, at_least=300 * MIB).reserve == 450 * MIB


def test_a_hint_is_believed_until_three_have_finished() -> None:
    """Then what was measured is."""
    peaks: list[tuple[float | None, float]] = [(None, 100)]
    for count in (1, 2):
        assert learned(peaks * count).predict("k", hint=GIB).reserve == GIB
    assert learned(peaks * 3).predict("k", hint=GIB).reserve < 200 * MIB


def test_few_points_grow_with_size_but_not_for_ever() -> None:
    """The unit of sizes may be bytes: one small task must not make a large one impossible."""
    footprints = learned([(10.0, 100)])
    assert footprints.predict("k", 5.0).reserve >= 100 * MIB
    assert 200 * MIB <= footprints.predict("k", 20.0).reserve <= 400 * MIB
    far = footprints.predict("k", 1e9)
    assert far.reserve <= 4 * 100 * MIB * 1.6
    assert far.confidence == "low"


def test_a_change_is_noticed_and_the_past_forgotten() -> None:
    """From one task to the next all take twice as much, or half of it."""
    for factor in (2.0, 0.5):
        footprints = learned(noisy(lambda size: 100.0, 200))
        for size, peak in noisy(lambda size, factor=factor: 100.0 * factor, DRIFT_WINDOW, seed=2):
            footprints.observe("k", size, int(peak * MIB), 1.0)
        assert footprints.describe("k")["drifts"] == 1
        assert footprints.predict("k", 50.0).median == pytest.approx(factor * 100 * MIB, rel=0.1)


def test_no_change_is_seen_where_none_is() -> None:
    """Noise, outliers and two modes are how a kind is; sizes that grow with time are no change either."""
    for seed in range(5):
        assert learned(noisy(lambda size: 24 + 2 * size, 400, outliers=0.1, seed=seed)).describe("k")["drifts"] == 0
        rng = random.Random(seed)
        modes: list[tuple[float | None, float]] = [(None, rng.choice([50.0, 250.0])) for _ in range(400)]
        assert learned(modes).describe("k")["drifts"] == 0
        rising = sorted(noisy(lambda size: 24 + 2 * size, 200, seed=seed))  # type: ignore[type-var]
        assert learned(rising).describe("k")["drifts"] == 0


def test_hostile_figures() -> None:
    """Sizes of all sorts do no harm; a peak or a time that cannot be is refused by name."""
    footprints = Footprints(budget=GIB, slots=8)
    for size in (0.0, -1.0, math.nan, math.inf, 1e300, 10**400, None, True):
        for _ in range(4):
            footprints.observe("k", size, 0, 0.0)
            footprints.observe("k", size, MIB, 0.0, "killed_at")
            assert 0 < footprints.predict("k", size).reserve < 1 << 63
    assert footprints.predict("k", 50.0, at_least=1 << 63).reserve < 1 << 63
    for peak, seconds in ((-1, 1.0), (1 << 63, 1.0), (1, -1.0), (1, math.inf), (1, math.nan)):
        with pytest.raises(SettingsError, match="peak"):
            footprints.observe("k", 1.0, peak, seconds)
    with pytest.raises(SettingsError, match="outcome"):
        footprints.observe("k", 1.0, 1, 1.0, "lost")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="slots"):
        Footprints(budget=GIB, slots=0)


def test_memory_of_a_kind_is_bounded() -> None:
    """Ten thousand tasks and as many kills leave less than 32 kB."""
    footprint = Footprint()
    rng = random.Random(1)
    for _ in range(10_000):
        footprint.add(rng.uniform(1, 1e6), rng.uniform(MIB, GIB), 1.0, killed=rng.random() < 0.5)
    footprint.learn_now(0.0, Costs())
    assert len(footprint.peaks) == KEPT
    seen: set[int] = set()

    def size_of(thing: object) -> int:
        if id(thing) in seen:
            return 0
        seen.add(id(thing))
        size = sys.getsizeof(thing)
        if isinstance(thing, dict):
            size += sum(size_of(each) for pair in thing.items() for each in pair)
        elif isinstance(thing, list | tuple):
            size += sum(map(size_of, thing))
        return size

    assert sum(map(size_of, vars(footprint).values())) < 32_000


def test_a_prediction_is_quick() -> None:
    """Twenty microseconds, of the best of five rounds."""
    footprints = learned(noisy(lambda size: 24 + 2 * size, 250, outliers=0.1))
    rounds = []
    for _ in range(5):
        started = time.perf_counter()
        for size in range(200):
            footprints.predict("k", float(size))
        rounds.append((time.perf_counter() - started) / 200)
    assert min(rounds) < 20e-6


def test_description_is_plain_data() -> None:
    """Points, curve, quantile, kills and drift, as JSON takes them."""
    import json

    footprints = learned(noisy(lambda size: 24 + 2 * size, 40))
    footprints.observe("k", None, 900 * MIB, 1.0, "killed_at")
    described = json.loads(json.dumps(footprints.describe("k"), allow_nan=False))
    assert (described["schema"], described["kind"], described["finished"], described["kills"]) == (1, "k", 40, 1)
    assert len(described["points"]) == 40
    assert described["killed"] == [{"size": None, "at_least_bytes": 900 * MIB}]
    assert described["curve"]["median"][0]["bytes"] < described["curve"]["median"][-1]["bytes"]
    assert Footprints(budget=1, slots=1).describe(TaskKey("new", "v"))["curve"] is None


def test_a_function_predicts() -> None:
    """A user's own function plugs in, and leaves to the learned what it does not know."""
    learner = learned([(None, 100)] * 5)
    predictor: Predictor = FunctionPredictor(
        lambda kind, size: None if size is None else 10 * MIB * size, otherwise=learner
    )
    assert predictor.predict("k", 3.0).reserve == 30 * MIB
    assert predictor.predict("k", 3.0, at_least=100 * MIB).reserve == 150 * MIB
    assert predictor.predict("k").n == 5
    predictor.observe("k", None, 100 * MIB, 1.0)
    assert predictor.predict("k").n == 6
    with pytest.raises(SettingsError, match="number of bytes"):
        FunctionPredictor(lambda kind, size: -1).predict("k")


def test_the_cheapest_is_the_least_of_the_formula() -> None:
    """Reckoned out at length for every candidate, it is the one that was chosen."""
    rng = random.Random(3)
    for costs in (Costs(), Costs(killed=1.0), Costs(killed=0.3, waits=2.0, requeue=5.0)):
        ratios = sorted(rng.lognormvariate(0, 0.5) for _ in range(50))

        def cost(reserved: float, ratios: list[float] = ratios, costs: Costs = costs) -> float:
            total = 0.0
            for ratio in ratios:
                if ratio <= reserved:
                    total += reserved
                else:
                    total += (1 - costs.killed) * (ratio + costs.waits * reserved)
                    total += costs.killed * (costs.lost * reserved + ratios[-1] * (1 + costs.requeue / 2.0))
            return total

        chosen, quantile = cheapest(ratios, seconds=2.0, free=0.0, costs=costs)
        assert cost(chosen) == pytest.approx(min(map(cost, ratios)))
        assert quantile == pytest.approx(sum(ratio <= chosen for ratio in ratios) / 50)


def test_one_point_is_a_curve() -> None:
    """And none are needed beside it."""
    assert fit([math.nan], [5.0]).at(None) == 5.0
    assert fit([3.0], [5.0]).at(3.0) == 5.0
