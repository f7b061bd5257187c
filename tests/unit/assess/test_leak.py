"""When growth is judged as a leak, why, and when the verdict is withdrawn."""

import math
import sys
from collections.abc import Callable

import pytest

from memwarden.assess.leak import LeakDetector
from memwarden.model.facts import CacheFill, ProgramMemory
from memwarden.model.units import MIB
from memwarden.model.verdicts import LeakStage
from support.leaks import Recording, cache, leaking, noisy, recordings, sawtooth, warmup, watched

RECORDINGS = recordings()


def first(verdicts: list, stage: int) -> int | None:
    """The number of the first reading at this stage or above."""
    return next((i for i, each in enumerate(verdicts) if each.stage >= stage), None)


def size_of(value: object, seen: set[int] | None = None) -> int:
    """Bytes of an object with everything that it refers to."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type):
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, list | tuple | dict):
        size += sum(size_of(each, seen) for each in (value.values() if isinstance(value, dict) else value))
    for cls in type(value).__mro__:
        for name in (*getattr(cls, "__slots__", ()), "__dict__"):
            size += size_of(getattr(value, name, None), seen)
    return size


@pytest.mark.contract("V-15", "S2-16", "W2-7")
def test_a_leak_is_suspected_in_the_first_third_and_confirmed_about_half_way() -> None:
    """Found early, and only after it began: by a slope that two averages of a window call stable."""
    verdicts = watched(noisy(leaking, 1200, noise=4))
    suspected, confirmed = first(verdicts, 1), first(verdicts, 2)
    assert suspected is not None
    assert confirmed is not None
    assert 300 < suspected < 300 + 900 / 3
    assert suspected < confirmed < 300 + 900 * 0.6
    assert verdicts[-1].stage == 2


@pytest.mark.contract("V-15", "W2-7")
def test_a_load_that_came_once_is_no_leak() -> None:
    """A step of 40 % of the headroom, and the plateau after it."""
    verdicts = watched(noisy(lambda i: 100.0 if i < 300 else 460.0, 1500))
    assert {each.stage for each in verdicts} == {0}


@pytest.mark.parametrize(
    "shape",
    [
        lambda i: 100.0,
        sawtooth,
        warmup,
        lambda i: 100 + 150 * (i // 250 % 2),
        lambda i: 250 + 150 * math.sin(2 * math.pi * i / 200 - 1.5),
        lambda i: 100 + (400 if i % 97 < 5 else 0),
        lambda i: 100 + 40 * math.log1p(i),
    ],
    ids=["flat", "garbage", "warm-up", "loaded and unloaded", "daily load", "bursts", "logarithm"],
)
def test_what_only_sample_like_a_leak_is_never_confirmed(shape: Callable[[int], float]) -> None:
    """Nor suspected: each of these comes back, or slows down and stops."""
    assert max(each.stage for each in watched(noisy(shape, 2000, noise=2))) == 0


def test_a_cache_that_fills_in_a_straight_line_is_suspected_at_most_and_then_acquitted() -> None:
    """Until it stops it samples like a leak by its size alone; it took a third of the headroom."""
    verdicts = watched(noisy(cache, 3000))
    assert max(each.stage for each in verdicts) == 1
    assert verdicts[-1].stage == 0


def test_a_leak_under_garbage_is_found() -> None:
    """The rolling minimum rises; the teeth are as high as a third of the headroom."""
    verdicts = watched([sawtooth(i) + leaking(i) - 100 for i in range(900)])
    found = first(verdicts, 2)
    assert found is not None
    assert 300 < found < 300 + 600 * 0.7


def test_a_leak_of_each_task_is_found_though_it_rests_in_between() -> None:
    """A staircase of many steps."""
    found = first(watched([100 + 25 * max(0, (i - 300) // 25) for i in range(1200)]), 2)
    assert found is not None
    assert 300 < found < 900


def test_a_verdict_ends_when_growth_is_freed() -> None:
    """The minimum has come down by half of its growth."""
    found = LeakDetector()
    values = [leaking(i) for i in range(900)] + [150.0] * 200
    verdicts = watched(values, found=found)
    assert verdicts[890].stage == 2
    assert verdicts[-1].stage == 0
    assert "were freed" in found.reason


def test_a_verdict_ends_when_growth_stops() -> None:
    """After twice as long as it lasted, and the reason shows that it stopped."""
    found = LeakDetector()
    verdicts = watched([leaking(min(i, 900)) for i in range(3000)], found=found)
    assert verdicts[890].stage == 2
    assert verdicts[-1].stage == 0
    assert "stopped" in found.reason


def test_the_reason_can_be_checked_on_a_plot() -> None:
    """It names from where to where the minimum rose, for how long, in how many steps, and the share of the headroom."""
    found = LeakDetector()
    watched([float(leaking(i)) for i in range(900)], found=found)
    verdict = found.verdict
    assert verdict.stage is LeakStage.CONFIRMED
    for words in ("minimum rose", "from 100 MiB to", "steps", "of the headroom", "flat for"):
        assert words in verdict.reason
    assert verdict.base == pytest.approx(100 * MIB, rel=0.05)
    assert verdict.floor == pytest.approx(700 * MIB, rel=0.1)
    assert verdict.lasted == pytest.approx(6000, rel=0.1)
    assert verdict.forecast is not None


def test_without_a_rise_there_is_a_reason_too() -> None:
    """And no figures are made up."""
    found = LeakDetector()
    watched([100.0] * 50, found=found)
    verdict = found.verdict
    assert (verdict.stage, verdict.base, verdict.floor, verdict.lasted) == (LeakStage.NONE, None, None, None)
    assert "not risen" in verdict.reason


@pytest.mark.parametrize("clock", ["back", "ahead", "irregular"])
def test_the_clock_may_be_set(clock: str) -> None:
    """An hour back, a day ahead, or samples that are anything but even: a flat series stays flat, a leak is found."""
    for shape, expected in ((lambda i: 100.0, 0), (leaking, 2)):
        found, worst, last = LeakDetector(), 0, 0
        for i, value in enumerate(noisy(shape, 1000, noise=2)):
            t = 10.0 * i
            if clock == "back" and i > 450:
                t -= 3600
            if clock == "ahead" and i > 450:
                t += 86400
            if clock == "irregular":
                t += 9 * math.sin(i)
            last, _ = found.update(t, value, 1000.0)
            worst = max(worst, last)
        assert (worst, last) == (expected, expected)


def test_what_could_not_be_read_is_passed_over() -> None:
    """None, NaN and infinity change nothing: the same verdicts as without those samples."""
    plain, holed = LeakDetector(), LeakDetector()
    for i in range(900):
        now = plain.update(10.0 * i, float(leaking(i)), 1000.0)
        for nothing in (None, math.nan, math.inf, -math.inf):
            holed.update(10.0 * i - 1, nothing, 1000.0)
        assert holed.update(10.0 * i, float(leaking(i)), 1000.0) == now


def test_another_process_starts_afresh_but_a_known_leak_is_known_again_sooner() -> None:
    """A replaced process has no past of its own; what leaked before needs no calm to be suspected again."""

    def grown(found: LeakDetector, known: bool) -> int:
        if known:
            watched([float(leaking(i)) for i in range(900)], found=found)
            found.restarted(9000.0)
            assert found.update(9010.0, 100.0, 1000.0) == (0, None)
        values = [100.0 + i for i in range(800)]
        return first([type(verdicts)(*verdicts) for verdicts in watched(values, found=found)], 1) or 999

    assert grown(LeakDetector(), known=True) < grown(LeakDetector(), known=False)


def test_a_higher_limit_is_more_headroom() -> None:
    """The same rise is half of the headroom under a limit of 1000, and nothing much under one of 10 000."""
    values = [float(leaking(i)) for i in range(900)]
    assert watched(values, limit=1000.0)[-1].stage == 2
    assert watched(values, limit=10_000.0)[-1].stage == 0


def test_a_lower_limit_makes_no_leak_of_a_flat_series() -> None:
    """The limit falls to just above what is in use."""
    found = LeakDetector()
    values = noisy(lambda i: 100.0, 1000, noise=1)
    stages = {found.update(10.0 * i, v, 1000.0 if i < 500 else 115.0)[0] for i, v in enumerate(values)}
    assert stages == {0}


def test_without_a_limit_a_leak_is_found_and_no_time_is_reported() -> None:
    """Without a limit there is no forecast."""
    verdicts = watched([float(leaking(i)) for i in range(900)], limit=None)
    assert max(each.stage for each in verdicts) == 2
    assert {each.left for each in verdicts} == {None}


def test_the_time_left_is_a_range_about_the_truth() -> None:
    """Of a straight leak: half way, the truth lies within it, and the middle is off by a tenth at most."""
    verdicts = watched(noisy(leaking, 1200, noise=2))
    for i in (600, 750, 900, 1050):
        left = verdicts[i].left
        assert left is not None
        truth = (1200 - i) * 10.0
        assert left[0] < truth < left[2]
        assert left[1] == pytest.approx(truth, rel=0.1)
        assert left[2] - left[0] < 0.6 * truth


def test_a_flat_series_has_no_time_left() -> None:
    """There is no forecast without a rise."""
    assert {each.left for each in watched(noisy(lambda i: 100.0, 800))} == {None}


def test_a_cache_that_is_known_to_be_bounded_is_not_suspected() -> None:
    """Evidence from inside acquits: it fills, and what is still to come fits."""
    found, stages = LeakDetector(), set()
    for i, value in enumerate(noisy(cache, 1500)):
        found.evidence(ProgramMemory(caches=(CacheFill(min(300, max(0, i - 300)), 300),)))
        stages.add(found.update(10.0 * i, value, 1000.0)[0])
    assert stages == {0}


def test_evidence_from_inside_confirms_early() -> None:
    """No cache filled, nothing in flight, garbage collected: confirmed before its size would do, with the reason."""
    found, when = LeakDetector(), None
    for i in range(900):
        retained = int((leaking(i) - 50) * MIB)
        found.evidence(ProgramMemory((CacheFill(50, 300),), True, i % 3, 4 * i, i // 20, retained))
        stage, _ = found.update(10.0 * i, float(leaking(i)), 1000.0)
        if stage == 2 and when is None:
            when = i
    assert when is not None
    assert when < 300 + 900 * 0.3
    for words in ("no bounded cache filled", "nothing in flight", "garbage collections", "KiB for each call"):
        assert words in found.reason


@pytest.mark.parametrize(
    "known",
    [
        lambda i: {"active": int(300 < i < 800)},
        lambda i: {"collections": 0},
    ],
    ids=["a job in flight", "garbage not yet collected"],
)
def test_evidence_from_inside_acquits(known: Callable[[int], dict[str, int]]) -> None:
    """A rise that one job explains, or that no full collection has seen yet, is not held against the process."""
    found, stages = LeakDetector(), set()
    for i in range(800):
        found.evidence(ProgramMemory(**known(i)))
        stages.add(found.update(10.0 * i, float(leaking(i)), 1000.0)[0])
    assert stages == {0}


def test_fragments_are_not_confirmed_early_as_python_objects() -> None:
    """Where Python's objects do not grow with the rolling minimum, evidence from inside does not hasten the verdict."""

    def when(grows: bool) -> int:
        found = LeakDetector()
        for i in range(1000):
            found.evidence(ProgramMemory(caches=(), retained=int((leaking(i) if grows else 50.0) * MIB)))
            if found.update(10.0 * i, float(leaking(i)), 1000.0)[0] == 2:
                return i
        return 1000

    assert when(grows=True) < when(grows=False) < 1000


def test_it_stays_small() -> None:
    """After hundreds of thousands of readings, with evidence for each, it holds less than 20 kB."""
    found = LeakDetector()
    for i in range(200_000):
        found.evidence(ProgramMemory((CacheFill(i, 1e6), CacheFill(i, None)), True, i % 2, i, i, i * MIB))
        found.update(float(i), 100 + i / 200 + i % 7, 10_000.0)
    assert 5_000 < size_of(found) < 20_000


@pytest.mark.parametrize("every", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("recording", [each for each in RECORDINGS if each.onset is None], ids=lambda each: each.name)
def test_no_healthy_recording_is_confirmed(recording: Recording, every: float) -> None:
    """Real processes that do not leak, under a limit of twice what they need."""
    seen = recording.at(every)
    found, limit = LeakDetector(), 2 * max(seen.values)
    assert 2 not in {found.update(t, value, limit)[0] for t, value in zip(seen.times, seen.values, strict=True)}


@pytest.mark.contract("V-15", "S2-16")
@pytest.mark.parametrize(
    "recording", [each for each in RECORDINGS if each.onset is not None], ids=lambda each: each.name
)
def test_every_recorded_leak_is_confirmed_before_its_memory_is_exhausted(recording: Recording) -> None:
    """Real processes that leak, under a limit that they reach: confirmed after the leak began, and in time."""
    found = LeakDetector()
    limit = max(recording.values[: int(0.95 * len(recording.values))])
    end = recording.values.index(limit)
    confirmed = [
        t
        for t, value in list(zip(recording.times, recording.values, strict=True))[:end]
        if found.update(t, value, limit)[0] == 2
    ]
    assert confirmed
    assert recording.onset is not None
    assert recording.onset < confirmed[0]
