"""The interval of the polling ceiling, and false alarms."""

from __future__ import annotations

from pathlib import Path

import pytest

from memwarden.contain import polling
from memwarden.contain.polling import LONGEST, SHORTEST, PollingCeiling
from memwarden.model.units import MIB
from memwarden.readers.linux.tree import TreeReader
from memwarden.testing import FakeClock, ProcTree


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A tree of one process, 10 MiB, under a ceiling of 1000 MiB, on a clock of the test."""
    world, clock = ProcTree(tmp_path), FakeClock()
    world.process(50, rss=10 * MIB)
    ceiling = PollingCeiling(1000 * MIB, monotonic=clock.monotonic)
    ceiling._reader = TreeReader(50, world.proc)
    shares = {"pss": 0}
    monkeypatch.setattr(polling, "read_pss", lambda pid: shares["pss"])
    return world, clock, ceiling, shares


def test_while_the_tree_grows_it_is_looked_at_each_millisecond(held) -> None:
    """With 2 MiB pages a tree fills faster than any rate foretells."""
    world, clock, ceiling, _ = held
    assert not ceiling.reached()
    assert ceiling.pace() == SHORTEST
    clock.advance(1.0)
    assert ceiling.pace() == LONGEST, "it has stood still for a second, far from the limit"
    world.process(50, rss=11 * MIB)
    ceiling.reached()
    assert ceiling.pace() == SHORTEST


def test_the_pace_shortens_with_the_headroom(held) -> None:
    """Half of what is left, at 16 GB/s."""
    world, clock, ceiling, _ = held
    world.process(50, rss=900 * MIB)
    ceiling.reached()
    clock.advance(1.0)
    assert ceiling.pace() == pytest.approx(100 * MIB / 2 / 16e9, rel=0.01)
    clock.advance(polling.REST_AFTER)
    assert ceiling.pace() == pytest.approx(100 * MIB / 2 / 4e9, rel=0.01), "it has come to rest"


def test_a_false_alarm_is_not_counted_again_until_it_can_matter(held, monkeypatch) -> None:
    """Resident sizes count shared pages twice: after a count the bound must grow by what was left."""
    world, clock, ceiling, shares = held
    stopped: list[int] = []
    monkeypatch.setattr(ceiling, "_freeze", lambda: stopped.append(1))
    world.process(50, rss=1200 * MIB)
    shares["pss"] = 700 * MIB
    assert not ceiling.reached()
    assert not ceiling.reached()
    assert len(stopped) == 1, "one count answers both samples"
    world.process(50, rss=1500 * MIB)
    assert not ceiling.reached()
    assert len(stopped) == 2, "300 MiB more could have been private"
    clock.advance(polling.RECOUNT_SECONDS + 0.01)
    assert not ceiling.reached()
    assert len(stopped) == 3, "sharing may have ended without growth: copy on write"
    shares["pss"] = 1001 * MIB
    clock.advance(polling.RECOUNT_SECONDS + 0.01)
    assert ceiling.reached()
    assert ceiling.used() == (1001 * MIB, "pss")
