"""How near the effective limit is, and when a level is entered and left."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from memwarden.assess.pressure import PressureDetector, bare_level, constraints
from memwarden.model.facts import CgroupMemory, ProcessKey, ProcessMemory, SystemMemory
from memwarden.model.findings import PressureLevel
from memwarden.model.limits import Limit
from memwarden.model.sample import Sample
from memwarden.readers.collect import collect
from memwarden.readers.meminfo import MeminfoReader
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
    """A tenth of a number that floats round is still met."""
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
    """Three points under its edge for 30 s; a reading inside the band begins the 30 s anew."""
    detector = settled(before)
    assert set(levels([(now, under) for now in range(1, 31)], detector)) == {level}
    assert levels([(30.5, before - 40)], detector) == [level]
    assert levels([(31 + now, under) for now in range(30)] + [(60.9, under)], detector)[-1] is level
    assert levels([(61, under)], detector) == [then]


def test_a_figure_inside_the_band_never_leaves() -> None:
    """Exactly three points under the edge is inside."""
    assert set(levels([(now, 670) for now in range(1, 4000)], settled(750))) == {MODERATE}


@pytest.mark.contract("X-10")
def test_each_return_doubles_the_wait_and_an_hour_of_rest_forgets_it() -> None:
    """30, 60, 120, 240, 480 and then 600 s; after an hour 30 s again."""
    detector, now, waits = settled(750), 0.0, []
    for _ in range(7):
        begun = now
        while levels([(now, 100)], detector) != [LOW]:
            now += 1.0
        waits.append(now - begun)
        for _ in range(5):
            now += 1.0
            levels([(now, 750)], detector)
    assert waits == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    now += 3600.0
    levels([(now, 750)], detector)
    begun = now = now + 1.0
    while levels([(now, 100)], detector) != [LOW]:
        now += 1.0
    assert now - begun == 30.0


@pytest.mark.contract("X-10")
def test_a_return_after_five_minutes_is_no_return() -> None:
    """The wait stays 30 s."""
    detector = settled(750)
    levels([(now, 100) for now in range(1, 32)], detector)
    levels([(now, 750) for now in range(340, 345)], detector)
    assert levels([(now, 100) for now in range(400, 431)], detector)[-2:] == [MODERATE, LOW]


def test_the_raw_level_says_the_bare_number() -> None:
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
def test_a_limit_of_nothing_stops_nobody(sample: Sample) -> None:
    """It cannot be judged on, and must not end the looking."""
    assert PressureDetector().assess(sample).binding is None


def test_a_tree_counts_against_the_limit_that_was_asked_for() -> None:
    """Of the whole tree, not of its root; without either the limit does not count."""
    assert constraints(Sample(0.0, 0.0, asked=Limit(400, "asked"))) == []
