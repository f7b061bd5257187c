"""Level, trend, leak verdict and time left of one watch, by the same detectors that can be had alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memwarden.assess.judge import Judge
from memwarden.assess.leak import LeakDetector
from memwarden.assess.pressure import PressureDetector
from memwarden.assess.trend import TrendDetector
from memwarden.model.facts import (
    CacheFill,
    CgroupMemory,
    Gap,
    GpuMemory,
    ProcessKey,
    ProcessMemory,
    ProgramMemory,
    SystemMemory,
    TreeMemory,
)
from memwarden.model.sample import Sample
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment, LeakStage

TOTAL = 1000
KEY = ProcessKey(10, 100)


def sample_of(
    t: float, rss: int | None, *, key: ProcessKey = KEY, others: int = 100, between: bool | None = None, **more: object
) -> Sample:
    """A sample at a process, and at a machine of 1000 MiB that holds it; sizes are MiB."""
    system = SystemMemory(TOTAL * MIB, (TOTAL - others - (rss or 0)) * MIB, 0, 0, 0, 0)
    process = None if rss is None else ProcessMemory(key, "app", rss * MIB)
    return Sample(1e9 + t, t, 0.0, system, process, between=between, **more)  # type: ignore[arg-type]


def leaking(minute: int) -> int:
    """200 MiB for 200 minutes, then two more each minute."""
    return 200 + max(0, minute - 200) * 2


def watched(judge: Judge, minutes: range, **more: object) -> Assessment:
    """The verdict after these minutes of a leak."""
    found = [judge.assess(sample_of(60.0 * minute, leaking(minute), **more)) for minute in minutes]  # type: ignore[arg-type]
    return found[-1]


@pytest.mark.contract("S2-16", "V-15", "W2-7")
def test_it_shows_what_the_detectors_say_that_can_be_had_alone() -> None:
    """Stage, reason, time left and trend, at each sample; against what the nearest limit leaves to the process."""
    judge, leak, trend, stages = Judge(), LeakDetector(), TrendDetector(), set()
    for minute in range(600):
        t, used = 60.0 * minute, min(850, leaking(minute))
        found = judge.assess(sample_of(t, used))
        stage, left = leak.update(t, float(used), 900.0)
        assert found.leak is not None
        assert found.leak.stage.rank == stage
        assert found.leak.reason == leak.reason
        assert found.leak.what == ("app[10]" if stage else None)
        assert (None if found.forecast is None else found.forecast[:3]) == left
        assert found.trend == trend.update(t, float(used * MIB))
        stages.add(found.leak.stage)
    assert stages == set(LeakStage)


def test_the_level_is_that_of_the_levels_alone() -> None:
    """What leaks changes nothing of it."""
    judge, alone = Judge(), PressureDetector()
    for minute in range(0, 540, 3):
        sample = sample_of(60.0 * minute, leaking(minute))
        assert judge.assess(sample)[:7] == alone.assess(sample)[:7]


def test_sample_between_and_sample_that_come_too_fast_are_not_fed() -> None:
    """They show what was reported last."""
    judge = Judge()
    first = judge.assess(sample_of(0.0, 200))
    assert first.trend is not None
    assert first.trend.readings == 1
    assert judge.assess(sample_of(2.0, 300, between=True)).trend is first.trend
    for early in (0.1, 1.0):
        assert judge.assess(sample_of(early, 300)).trend is first.trend
    later = judge.assess(sample_of(2.0 - 0.05, 300))  # the timer of a watch each second is a little early
    assert later.trend is not None
    assert later.trend.readings == 2


def test_nothing_is_judged_before_anything_was_read() -> None:
    """None, and not stable, no leak."""
    found = Judge().assess(Sample(1e9, 0.0, gaps=(Gap("meminfo", "/proc/meminfo", "denied"),)))
    assert (found.trend, found.leak, found.forecast) == (None, None, None)


@pytest.mark.parametrize("key", [ProcessKey(11, 100), ProcessKey(10, 101)], ids=["pid", "start"])
def test_another_process_starts_afresh(key: ProcessKey) -> None:
    """Its verdict is not that of the one before; a process is its pid and its start."""
    judge = Judge()
    found = watched(judge, range(430))
    assert found.leak is not None
    assert found.leak.stage is not LeakStage.NONE
    after = judge.assess(sample_of(60.0 * 430, 200, key=key))
    assert after.leak is not None
    assert after.leak.stage is LeakStage.NONE
    assert after.leak.reason == "the process was replaced"
    assert after.forecast is None
    assert after.trend is not None
    assert after.trend.readings == 1


def test_a_gap_keeps_the_verdict_and_an_end_takes_it_back() -> None:
    """An unreadable process may still leak; one that is gone does not."""
    judge = Judge()
    stage = watched(judge, range(430)).leak
    assert stage is not None
    unread = judge.assess(sample_of(60.0 * 430, None, gaps=(Gap("process", "/proc/10", "denied"),)))
    assert unread.leak is not None
    assert unread.leak.stage is stage.stage
    gone = judge.assess(sample_of(60.0 * 431, None))
    assert gone.leak is None or gone.leak.stage is LeakStage.NONE


def test_after_a_fork_it_starts_afresh() -> None:
    """Whatever the parent was in the middle of."""
    judge = Judge()
    watched(judge, range(430))
    judge.forget()
    found = judge.assess(sample_of(60.0 * 430, leaking(430)))
    assert found.leak is not None
    assert found.leak.stage is LeakStage.NONE
    assert found.trend is not None
    assert found.trend.readings == 1


def test_a_tree_is_judged_as_one() -> None:
    """What is watched is the sum, and it is named by its root."""
    judge = Judge()
    for minute in range(430):
        tree = TreeMemory(KEY, (KEY, ProcessKey(11, 101)), ("sh", "app"), (MIB, leaking(minute) * MIB), ())
        found = judge.assess(sample_of(60.0 * minute, leaking(minute), tree=tree))
    assert found.leak is not None
    assert found.leak.what == "tree of app[10]"


def test_a_container_is_judged_where_it_has_a_limit() -> None:
    """What fills it beside the process that is watched, too."""
    judge = Judge()
    for minute in range(430):
        group = CgroupMemory("/app", 2, (300 + leaking(minute)) * MIB, 1100 * MIB, 0)
        found = judge.assess(sample_of(60.0 * minute, 50, cgroups=(group,), others=0))
    assert found.leak is not None
    assert found.leak.what == "cgroup /app"
    assert found.trend is not None
    assert found.trend.word == "stable"  # of the process


@pytest.mark.contract("V-18")
def test_cards_have_the_same_verdict_and_time_left() -> None:
    """Against their own memory; and what a card leaves is no headroom of the process."""
    judge = Judge()
    for minute in range(430):
        used = leaking(minute) * MIB
        gpu = GpuMemory(0, "card", "GPU-0", TOTAL * MIB, used, TOTAL * MIB - used)
        found = judge.assess(sample_of(60.0 * minute, 50, gpus=(gpu,), others=0))
    assert found.leak is not None
    assert (found.leak.stage.name, found.leak.what) == ("CONFIRMED", "gpu 0")
    assert found.forecast is not None
    assert found.forecast.what == "gpu 0"


def test_the_machine_is_judged_where_nothing_else_is_watched() -> None:
    """Its used memory, against its total."""
    judge = Judge()
    for minute in range(430):
        found = judge.assess(sample_of(60.0 * minute, None, others=leaking(minute)))
    assert found.leak is not None
    assert found.leak.what == "machine"


def straight(judge: Judge, program: Callable[[int], ProgramMemory | None]) -> list[LeakStage]:
    """The verdicts on two minutes' calm hours and a straight rise by half of the headroom after them."""
    stages = []
    for minute in range(500):
        sample = sample_of(60.0 * minute, leaking(minute) if minute < 430 else leaking(430), program=program(minute))
        found = judge.assess(sample).leak
        assert found is not None
        stages.append(found.stage)
    return stages


def test_what_the_program_shows_confirms_early_or_acquits() -> None:
    """A rise with no cache filling and nothing in flight is confirmed before one of which nothing is known; one during
    which a bounded cache fills is none, also where that is one of others; one that did not fill shows nothing then."""

    def filling(minute: int) -> CacheFill:
        return CacheFill(float(min(460, max(0, minute - 200) * 2)), 460.0)

    def empty(minute: int) -> CacheFill:
        return CacheFill(0.0, 460.0)

    outside = straight(Judge(), lambda minute: None)
    accused = straight(Judge(), lambda minute: ProgramMemory((empty(minute),), active=0, collections=minute))
    assert accused.index(LeakStage.CONFIRMED) < outside.index(LeakStage.CONFIRMED)
    for every in (True, False):
        explained = straight(Judge(), lambda minute, every=every: ProgramMemory((filling(minute),), every))
        assert set(explained) == {LeakStage.NONE}
    assert straight(Judge(), lambda minute: ProgramMemory((empty(minute),), False)) == outside
