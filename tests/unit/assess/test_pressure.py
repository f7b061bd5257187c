"""How near the effective limit is, and when a level is entered and left."""

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from memwarden.assess.hysteresis import Hysteresis
from memwarden.assess.pressure import PressureDetector, bare_level, constraints
from memwarden.model.facts import CgroupMemory, ProcessKey, ProcessMemory, PsiLine, PsiStats, SystemMemory
from memwarden.model.limits import Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import PressureLevel
from memwarden.readers.collect import collect
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.testing import ProcTree
from support.trees import GIB, MIB, container_v1, container_v2, groups_of, limited_from_above_v1, nested

LOW, MODERATE, HIGH, CRITICAL = PressureLevel


def at(used: int, now: float = 0.0, total: int = 1000) -> Sample:
    """A machine of which so many thousandths are used."""
    return Sample(0.0, now, system=SystemMemory(total, total - used, 0, 0, 0, 0))


def levels(readings: Iterable[tuple[float, int]], detector: PressureDetector | None = None) -> list[PressureLevel]:
    """The levels that follow (moment, thousandths used)."""
    detector = detector or PressureDetector()
    return [detector.assess(at(used, now)).level for now, used in readings]


def settled(used: int) -> PressureDetector:
    """A detector that has seen this for a while, up to the moment 0."""
    detector = PressureDetector()
    levels([(float(now), used) for now in range(-700, 1)], detector)
    return detector


@pytest.mark.contract("X-10", "S1-23", "S1-25", "S1-28", "S1-33")
@pytest.mark.parametrize(
    ("used", "level"),
    [
        pytest.param(0, LOW, id="nothing"),
        pytest.param(699, LOW, id="just below 70 %"),
        pytest.param(700, MODERATE, id="70 % is MODERATE"),
        pytest.param(799, MODERATE, id="just below 80 %"),
        pytest.param(800, HIGH, id="80 % is HIGH"),
        pytest.param(899, HIGH, id="just below 90 %"),
        pytest.param(900, HIGH, id="90 % is still HIGH"),
        pytest.param(901, CRITICAL, id="above 90 % is CRITICAL"),
        pytest.param(1000, CRITICAL, id="all"),
        pytest.param(1300, CRITICAL, id="more than all"),
        pytest.param(-5, LOW, id="a container whose file system lies about the machine"),
    ],
)
def test_the_edges(used: int, level: PressureLevel) -> None:
    """Exactly 70, 80 and 90 have one answer, as a bare level and as the first reading's."""
    assessment = PressureDetector().assess(at(used))
    assert (bare_level(used / 1000), assessment.raw, assessment.level) == (level, level, level)


@pytest.mark.parametrize("total", [10, 1000, 24684096 * 1024, (1 << 44) * 10])
def test_edges_are_exact_at_any_size(total: int) -> None:
    """A tenth of a number that floats round is still reached."""
    for tenths, level in ((7, MODERATE), (8, HIGH), (9, HIGH)):
        assert PressureDetector().assess(at(total * tenths // 10, total=total)).level is (
            level if total * tenths % 10 == 0 else bare_level(total * tenths // 10 / total)
        )


@pytest.mark.contract("X-10", "S1-25", "S1-28")
@pytest.mark.parametrize(
    ("readings", "last"),
    [
        pytest.param([(1, 750), (2, 750), (3, 750), (3.9, 750)], LOW, id="MODERATE: not before three seconds"),
        pytest.param([(1, 750), (2, 750), (3, 750), (4, 750)], MODERATE, id="MODERATE: three seconds after"),
        pytest.param([(1, 700), (2, 671), (3, 671), (4, 671)], MODERATE, id="a dip inside the band does not matter"),
        pytest.param([(1, 700), (2, 669), (3, 700), (4.5, 700)], LOW, id="a dip three points under starts anew"),
        pytest.param([(1, 850), (4, 850)], HIGH, id="HIGH: three seconds after"),
        pytest.param([(1, 800), (2, 769), (3, 800), (5, 800)], MODERATE, id="HIGH: a dip starts anew, MODERATE stands"),
        pytest.param([(1, 750), (60, 750)], MODERATE, id="two readings far apart are enough"),
    ],
)
def test_a_level_is_entered_when_it_lasts(readings: Sequence[tuple[float, int]], last: PressureLevel) -> None:
    """Three seconds after the first reading at the edge, if none fell three points under it since."""
    assert levels(readings, settled(100))[-1] is last


@pytest.mark.contract("X-10", "S1-33")
@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        pytest.param([(1, 940)], [LOW], id="once is an outlier"),
        pytest.param([(1, 940), (1.1, 940)], [LOW, CRITICAL], id="twice in a row, however soon"),
        pytest.param([(1, 940), (2, 890), (3, 940)], [LOW, LOW, LOW], id="twice, but not in a row"),
        pytest.param([(1, 950)], [LOW], id="95 % is not above it"),
        pytest.param([(1, 951)], [CRITICAL], id="above 95 % at once"),
        pytest.param([(1, 900), (2, 900), (3, 900)], [LOW, LOW, LOW], id="90 % is not above it, however often"),
    ],
)
def test_critical_is_entered_fast(readings: Sequence[tuple[float, int]], expected: list[PressureLevel]) -> None:
    """On the second reading in a row, at once above 95 %: there may be no third."""
    assert levels(readings, settled(100)) == expected


@pytest.mark.contract("X-10", "S1-23")
@pytest.mark.parametrize(
    ("before", "under", "level", "then"),
    [
        pytest.param(750, 669, MODERATE, LOW, id="MODERATE"),
        pytest.param(850, 769, HIGH, MODERATE, id="HIGH"),
        pytest.param(950, 869, CRITICAL, HIGH, id="CRITICAL"),
        pytest.param(990, 100, CRITICAL, LOW, id="all the way down"),
    ],
)
def test_a_level_is_left_when_that_lasts(before: int, under: int, level: PressureLevel, then: PressureLevel) -> None:
    """Three points under its edge for 30 s; a reading inside the band starts the 30 s anew."""
    detector = settled(before)
    assert set(levels([(now, under) for now in range(1, 31)], detector)) == {level}
    assert levels([(30.5, before - 40)], detector) == [level]
    assert levels([(31 + now, under) for now in range(30)] + [(60.9, under)], detector)[-1] is level
    assert levels([(61, under)], detector) == [then]


@pytest.mark.contract("X-10")
def test_a_figure_that_settles_inside_the_band_leaves_in_the_end() -> None:
    """Exactly three points under the edge is inside: it takes six minutes from when the mean is there."""
    reported = levels([(now, 670) for now in range(1, 1000)], settled(750))
    assert reported.index(LOW) == pytest.approx(360 + 25, abs=10)
    assert set(reported[reported.index(LOW) :]) == {LOW}


def test_a_figure_that_touches_the_edge_does_not_settle() -> None:
    """Each such reading starts the six minutes anew, however much of the rest is under the edge."""
    touching = [(now, 705 if now % 200 < 20 else 685) for now in range(1, 4000)]
    assert set(levels(touching, settled(750))) == {MODERATE}


def waits(
    pause: float, rounds: int, begin: float = 0.0, *, need: float = 320.0
) -> tuple[list[float], PressureDetector]:
    """For a need at 75 % and a pause at 10 %, in turns: how long after each need the level was left, ``inf`` if not."""
    detector, now, found = settled(750), begin, []
    for _ in range(rounds):
        reported = [(now + moment, detector.assess(at(100, now + moment)).level) for moment in range(1, pause + 1)]
        found.append(next((when - now - 1 for when, level in reported if level is LOW), float("inf")))
        now += pause
        levels([(now + moment, 750) for moment in range(1, 321)], detector)
        now += 320
    return found, detector


@pytest.mark.contract("X-10")
@pytest.mark.parametrize(
    ("pause", "first", "then"),
    [
        pytest.param(40, 30.0, float("inf"), id="a pause of 40 s is waited for from the second on"),
        pytest.param(150, 30.0, float("inf"), id="and one of 150 s"),
        pytest.param(290, 30.0, 5.0, id="one of 290 s costs more at a level too high than a flap"),
        pytest.param(900, 30.0, 5.0, id="after one of a quarter of an hour the level need not wait"),
    ],
)
def test_the_wait_is_learned_from_the_pauses(pause: int, first: float, then: float) -> None:
    """The first is not known; each further one is reached by the wait that would have cost least."""
    found, _ = waits(pause, 4)
    assert found == [first, then, then, then]


@pytest.mark.contract("X-10")
def test_an_hour_without_a_pause_forgets_them() -> None:
    """Then the wait is 30 s again."""
    _, detector = waits(100, 3)
    levels([(2000 + now, 750) for now in range(3700)], detector)
    reported = levels([(5700 + now, 100) for now in range(60)], detector)
    assert reported.index(LOW) == 30


@pytest.mark.contract("X-10")
def test_a_level_is_kept_for_five_minutes() -> None:
    """A burst of five seconds is reported for so long, and not reported again and again."""
    detector = settled(100)
    reported = levels([(now, 850 if now <= 5 else 100) for now in range(1, 400)], detector)
    assert reported.index(HIGH) == 3
    assert reported.index(LOW, 4) == pytest.approx(3 + 300, abs=1)


def test_levels_that_were_entered_together_are_left_together() -> None:
    """One change up and one down, though HIGH alone would have been entered three seconds later."""
    detector = settled(100)
    reported = levels([(now, 960 if now <= 60 else 100) for now in range(1, 600)], detector)
    assert [level for level, before in zip(reported[1:], reported, strict=False) if level is not before] == [LOW]
    assert reported[0] is CRITICAL


def noisy(mean: float, noise: float, begin: int, end: int, chance: random.Random) -> list[tuple[float, int]]:
    """A figure that only noise moves, in thousandths, each second."""
    return [(now, round(chance.gauss(mean, noise))) for now in range(begin, end)]


def test_noise_enters_nothing() -> None:
    """Readings over the edge that noise explains, of a mean that stays under it; once it is known how noisy it is."""
    chance, detector = random.Random(5), PressureDetector()
    levels(noisy(660, 15, 0, 1800, chance), detector)
    readings = noisy(660, 15, 1800, 4 * 3600, chance)
    assert sum(used >= 700 for _, used in readings) > 20
    assert set(levels(readings, detector)) == {LOW}


def test_a_mean_over_the_edge_enters_however_noisy() -> None:
    """Within a few minutes, though no reading stands out."""
    chance, detector = random.Random(5), PressureDetector()
    levels(noisy(660, 15, 0, 1800, chance), detector)
    assert levels(noisy(712, 15, 1800, 2000, chance), detector)[-1] is MODERATE


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_harms_nothing(odd: float) -> None:
    """Neither as a time nor as a figure: afterwards everything goes on as before."""
    judge = Hysteresis()
    assert [judge.update(now, 75.0) for now in range(5)] == [1] * 5
    judge.update(5.0, odd)
    judge.update(odd, 75.0)
    for now in range(6, 2000):
        last = judge.update(now, 20.0)
    assert last == 0


def test_time_that_steps_back_stands_still() -> None:
    """The wait neither ends nor lasts for ever; time that jumps on counts."""
    judge = Hysteresis()
    judge.update(1000.0, 75.0)
    assert [judge.update(now, 10.0) for now in (1001.0, 5.0, 20.0, 34.0)] == [1, 1, 1, 1]
    assert judge.update(36.0, 10.0) == 0
    assert [judge.update(now, 75.0) for now in (37.0, 4000.0)] == [0, 1]


def test_the_engine_uses_the_very_same_levels() -> None:
    """What the judge of samples shows is what ``Hysteresis`` shows of their share."""
    chance, judge, detector = random.Random(9), Hysteresis(), PressureDetector()
    for now in range(3000):
        used = round(min(1000.0, max(0.0, 780 + 130 * math.sin(now / 90) + chance.gauss(0, 15))))
        assert detector.assess(at(used, now)).level.rank == judge.update(now, used / 10)
    assert isinstance(detector._levels, type(judge))


def stalls(readings: Iterable[tuple[float, float]], detector: PressureDetector, *, avg10: float = 0.0) -> list[str]:
    """The levels of stalls after (moment, seconds waited in all)."""
    return [
        str(
            detector.assess(
                at(100, now)._replace(
                    psi=PsiStats("machine", PsiLine(avg10, 0, 0, waited), PsiLine(avg10, 0, 0, waited))
                )
            ).stalls
        ).removeprefix("PressureLevel.")
        for now, waited in readings
    ]


def test_stalls_have_levels_of_their_own() -> None:
    """By the time waited since the sample before: CRITICAL within seconds, where the kernel's mean takes ten."""
    detector = PressureDetector()
    assert stalls([(0.0, 50.0)], detector) == ["LOW"]
    assert stalls([(2.0, 50.0), (4.0, 51.0), (6.0, 52.0)], detector) == ["LOW", "LOW", "CRITICAL"]
    assert set(stalls([(6.0 + now, 52.0) for now in range(2, 200, 2)], detector)) == {"CRITICAL"}
    assert stalls([(1000.0, 52.0), (1040.0, 52.0), (1080.0, 52.0)], detector)[-1] == "LOW"


def test_the_first_sample_at_stalls_takes_the_kernels_mean() -> None:
    """Nothing is known of what was waited before; and so it is for another group."""
    assert stalls([(0.0, 50.0)], PressureDetector(), avg10=0.2) == ["HIGH"]
    detector = PressureDetector()
    stalls([(0.0, 50.0)], detector)
    assert stalls([(2.0, 1.0)], detector, avg10=0.7) == ["CRITICAL"]


def test_without_stalls_there_is_no_level_of_them() -> None:
    """None, and not LOW."""
    assert PressureDetector().assess(at(100)).stalls is None


def test_the_raw_level_shows_the_bare_number() -> None:
    """While the judged one waits."""
    detector = settled(100)
    assessment = detector.assess(at(850, 1.0))
    assert (assessment.raw, assessment.level) == (HIGH, LOW)


def test_since_is_when_the_level_was_entered() -> None:
    """On the monotonic clock, and it stays while the level does."""
    detector = PressureDetector()
    assert [detector.assess(at(used, now)).since for now, used in ((5.0, 750), (6.0, 750), (7.0, 960), (9.0, 960))] == [
        5.0,
        5.0,
        7.0,
        7.0,
    ]


@pytest.mark.contract("W1-10")
def test_where_nothing_could_be_read_nothing_is_invented() -> None:
    """The last level stays, with no figure; the next figure at the start is still the first one."""
    detector = PressureDetector()
    empty = detector.assess(Sample(0.0, 50.0))
    assert (empty.level, empty.binding, empty.effective, empty.available, empty.ratio) == (LOW, None, None, None, None)
    assert empty.since == 50.0
    assert detector.assess(at(850, 51.0)).level is HIGH
    assert detector.assess(Sample(0.0, 52.0)).level is HIGH
    assert detector.assess(Sample(0.0, 99.0)).since == 51.0


@pytest.mark.contract("W1-11", "V-26", "S1-14", "S1-2")
@pytest.mark.parametrize(
    ("build", "source", "effective", "available", "ratio"),
    [
        pytest.param(container_v1, "cgroup /docker/4f1a5c8e9b2d", 512 * MIB, 312 * MIB, 200 / 512, id="v1"),
        pytest.param(container_v2, "cgroup /", 512 * MIB, 332 * MIB, 180 / 512, id="v2"),
        pytest.param(nested, "cgroup /kubepods/pod1", GIB, 124 * MIB, 900 / 1024, id="the pod around it"),
        pytest.param(limited_from_above_v1, "cgroup /docker/4f1a5c8e9b2d", 128 * MIB, 28 * MIB, 100 / 128, id="above"),
    ],
)
def test_a_container_is_judged_on_its_own_limit(
    build: object, source: str, effective: int, available: int, ratio: float, tmp_path: Path
) -> None:
    """On a machine of 64 GiB that is empty: what may still be taken is the least along the path."""
    tree = build(ProcTree(tmp_path))  # type: ignore[operator]
    sample = Sample(0.0, 0.0, **collect([MeminfoReader(tree.proc), groups_of(tree)]))
    assessment = PressureDetector().assess(sample)
    assert assessment.binding is not None
    assert assessment.effective is not None
    assert assessment.binding.limit.source == source
    assert (assessment.effective.bytes, assessment.available) == (effective, available)
    assert assessment.ratio == pytest.approx(ratio)


@pytest.mark.contract("S2-11")
def test_a_check_gives_percent_used_available_and_total() -> None:
    """All four of one constraint, and they agree."""
    assessment = PressureDetector().assess(at(850))
    assert assessment.binding is not None
    assert (assessment.ratio, assessment.binding.used, assessment.available, assessment.binding.limit.bytes) == (
        0.85,
        850,
        150,
        1000,
    )


def test_every_limit_that_is_known_counts() -> None:
    """What was asked for, each group, the address space and the machine; the nearest one is binding."""
    process = ProcessMemory(ProcessKey(1, 1), "p", 300, 900, vms_limit=2000)
    group = CgroupMemory("/a", 2, 500, 800, 100)
    sample = at(100)._replace(process=process, cgroups=(group, group._replace(limit=None)), asked=Limit(400, "asked"))
    assert [(each.limit, each.used) for each in constraints(sample)] == [
        (Limit(400, "asked"), 300),
        (Limit(800, "cgroup /a"), 400),
        (Limit(2000, "rlimit address space"), 900),
        (Limit(1000, "machine"), 100),
    ]
    assessment = PressureDetector().assess(sample)
    assert (assessment.binding, assessment.available) == (constraints(sample)[0], 100)
    assert assessment.effective == Limit(400, "asked")


def test_the_least_headroom_may_be_another_limits() -> None:
    """The binding one is nearest by share, what is available is the least in bytes."""
    big, small = CgroupMemory("/big", 2, 9000, 10000, 0), CgroupMemory("/small", 2, 100, 600, 0)
    assessment = PressureDetector().assess(Sample(0.0, 0.0, cgroups=(small, big)))
    assert assessment.binding is not None
    assert (assessment.binding.limit.source, assessment.available) == ("cgroup /big", 500)
    assert assessment.effective == Limit(600, "cgroup /small")


def test_available_is_never_negative() -> None:
    """A limit that was lowered below what is used leaves nothing, not less."""
    assert PressureDetector().assess(at(1200)).available == 0


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(at(0, total=0), id="a machine without memory"),
        pytest.param(Sample(0.0, 0.0, cgroups=(CgroupMemory("/", 2, 5, 0, 0),)), id="a group"),
        pytest.param(
            Sample(0.0, 0.0, process=ProcessMemory(ProcessKey(1, 1), "", 5), asked=Limit(0, "asked")), id="asked for"
        ),
    ],
)
def test_a_limit_of_nothing_has_no_effect(sample: Sample) -> None:
    """It cannot be judged on, and must not stop the sampling."""
    assert PressureDetector().assess(sample).binding is None


def test_a_tree_counts_against_the_limit_that_was_asked_for() -> None:
    """Of the whole tree, not of its root; without either the limit does not count."""
    assert constraints(Sample(0.0, 0.0, asked=Limit(400, "asked"))) == []
