"""Advice is computed from measurements; there is none where nothing stands out."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from memwarden.guards.measure.tracker import advice
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


def leak(name: str, each: int, calls: int = 100) -> CallGrowth:
    """Growth of a function that leaks so many bytes per call."""
    return CallGrowth(name, calls, tuple((number, number * each) for number in range(1, calls + 1)))


def test_nothing_is_suggested_where_nothing_stands_out() -> None:
    """No trend, no leak, no spike."""
    assert advice(steady(100, 101, 100), [], STABLE, [leak("load", 0), leak("tiny", 10)]) == ()


@pytest.mark.contract("S3-47")
def test_functions_that_leak_are_named_with_figures() -> None:
    """The largest first, three at most; not those that kept little of all that grew."""
    growths = [leak("small", 20_000), leak("large", 500_000), leak("other", 200_000), leak("more", 100_000)]
    found = advice(steady(100, 120, 180), [], RISING, growths)
    assert [sentence.split()[0] for sentence in found] == ["large", "other", "more"]
    assert found[0].startswith("large grows by 488.3 KiB per call, 47.7 MiB over 100 calls: ")


@pytest.mark.contract("S3-47")
def test_growth_that_no_measured_function_accounts_for() -> None:
    """A rising trend is reported, with a way to find its cause; a stable one is not."""
    (found,) = advice(steady(100, 120, 140), [], RISING, [])
    assert found.startswith("memory grew by 40.0 MiB over 3 snapshots, and no measured function accounts for it: ")
    assert advice(steady(100, 120, 140), [], STABLE, []) == ()
    assert advice(steady(100, 100, 100), [], RISING, []) == ()


@pytest.mark.contract("S3-47")
def test_bottlenecks_are_spikes_and_little_available_memory() -> None:
    """The highest first, by the label of the snapshot after it; little available memory with the limit's source."""
    peaks = [Point("load", 100 * MIB, 300 * MIB), Point("", 100 * MIB, 500 * MIB)]
    last = Point("end", 100 * MIB, 100 * MIB, available=300 * MIB, limit=2 * GIB)
    found = advice([*peaks, last], peaks, STABLE, [])
    assert found[0].startswith("300.0 MiB of 2.00 GiB (container) are available: ")
    assert found[1].startswith("before a snapshot memory peaked at 500.0 MiB, and 100.0 MiB of it remained")
    assert found[2].startswith("before 'load' memory peaked at 300.0 MiB")
    nothing_known = last._replace(available=None, limit=None)
    assert advice([nothing_known], [], STABLE, []) == ()
