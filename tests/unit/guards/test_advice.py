"""Advice is computed from what was measured, and silent where nothing stands out."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from memwarden.guards.measure.advice import advice
from memwarden.model.calls import CallGrowth
from memwarden.model.units import GIB, MIB
from memwarden.model.verdicts import Trend

STABLE, RISING = Trend("stable", 20, 0.9, 0.0), Trend("increasing", 20, 0.99, 1000.0)


class Point(NamedTuple):
    """A snapshot."""

    label: str
    rss: int
    peak: int
    available: int | None = 3 * GIB
    limit: int | None = 4 * GIB
    source: str = "container"


def steady(*sizes: int) -> list[Point]:
    """Snapshots of so many MiB."""
    return [Point(f"{number}", size * MIB, size * MIB) for number, size in enumerate(sizes)]


def keeps(name: str, each: int, calls: int = 100) -> CallGrowth:
    """A function of which so many bytes stay of each call."""
    return CallGrowth(name, calls, tuple((number, number * each) for number in range(1, calls + 1)))


def test_where_nothing_stands_out_nothing_is_said() -> None:
    """Nor without a snapshot."""
    assert advice(steady(100, 101, 100), [], STABLE, [keeps("load", 0), keeps("tiny", 10)]) == ()
    assert advice([], [], STABLE, []) == ()


@pytest.mark.contract("S3-47")
def test_who_keeps_memory_is_named_with_figures() -> None:
    """Who keeps most comes first; three are named; what keeps little beside all that grew is not."""
    growths = [keeps("small", 20_000), keeps("large", 500_000), keeps("other", 200_000), keeps("more", 100_000)]
    said = advice(steady(100, 120, 180), [], RISING, growths)
    assert [sentence.split()[0] for sentence in said] == ["large", "other", "more"]
    assert said[0].startswith("large keeps 488.3 KiB of each call, 47.7 MiB over 100 calls: ")


@pytest.mark.contract("S3-47")
def test_growth_that_nobody_accounts_for() -> None:
    """A trend is told with what to measure; not while it is stable."""
    (said,) = advice(steady(100, 120, 140), [], RISING, [])
    assert said.startswith("memory grew by 40.0 MiB over 3 snapshots, and no measured function accounts for it: ")
    assert advice(steady(100, 120, 140), [], STABLE, []) == ()
    assert advice(steady(100, 100, 100), [], RISING, []) == ()


@pytest.mark.contract("S3-47")
def test_bottlenecks_are_peaks_and_what_is_left() -> None:
    """The highest first, by the name of the snapshot after it; and little room, with whose limit it is."""
    peaks = [Point("load", 100 * MIB, 300 * MIB), Point("", 100 * MIB, 500 * MIB)]
    last = Point("end", 100 * MIB, 100 * MIB, available=300 * MIB, limit=2 * GIB)
    said = advice([*peaks, last], peaks, STABLE, [])
    assert said[0].startswith("300.0 MiB are left of 2.00 GiB (container): ")
    assert said[1].startswith("before a snapshot memory peaked at 500.0 MiB, and 100.0 MiB of it were there")
    assert said[2].startswith("before 'load' memory peaked at 300.0 MiB")
    nothing_known = last._replace(available=None, limit=None)
    assert advice([nothing_known], [], STABLE, []) == ()
