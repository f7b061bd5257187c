"""Memory that a program reports about itself."""

from __future__ import annotations

import gc
from functools import cache, lru_cache
from typing import Any

import pytest

from memwarden.actions.caches import Caches
from memwarden.errors import SettingsError
from memwarden.model.facts import CacheFill, ProgramMemory
from memwarden.protocols import Reader
from memwarden.readers.self_report import SelfReportReader


def test_it_is_a_reader() -> None:
    """It reads and closes."""
    reader = SelfReportReader(None, list)
    assert isinstance(reader, Reader)
    assert reader.read() == {}
    reader.close()


def test_a_report_is_read_and_collections_are_counted() -> None:
    """Full ones; a number in the report stands."""
    report = ProgramMemory(active=2, calls=30)
    reader = SelfReportReader(lambda: report, list)
    before = reader.read()["program"].collections
    gc.collect()
    assert reader.read() == {"program": report._replace(collections=before + 1)}
    report = report._replace(collections=7)
    assert reader.read() == {"program": report}


def test_nothing_to_report_now() -> None:
    """None is no fault."""
    assert SelfReportReader(lambda: None, list).read() == {}


def test_registered_caches_are_read_as_some_of_all() -> None:
    """With their bounds; a cache without one explains nothing, one that is gone neither. What is report comes first."""

    @lru_cache(maxsize=4)
    def bounded(number: int) -> int:
        return number

    @cache
    def endless(number: int) -> int:
        return number

    caches, store = Caches(), {1: "one"}
    reader = SelfReportReader(None, caches.fills)
    assert reader.read() == {}
    caches.register(store.clear, "no bound", size=store.__len__)
    caches.register_lru(endless)
    assert reader.read() == {}
    caches.register_lru(bounded)
    caches.register(store.clear, "store", size=store.__len__, most=10)
    bounded(1)
    bounded(2)
    found = reader.read()["program"]
    assert (found.caches, found.all_caches) == ((CacheFill(2, 4), CacheFill(1, 10)), False)
    mine = SelfReportReader(lambda: ProgramMemory((CacheFill(1, 2),)), caches.fills).read()["program"]
    assert (mine.caches, mine.all_caches) == ((CacheFill(1, 2),), True)
    calls = SelfReportReader(lambda: ProgramMemory(calls=1), caches.fills).read()["program"]
    assert (calls.calls, len(calls.caches)) == (1, 2)
    del bounded
    gc.collect()
    assert reader.read()["program"].caches == (CacheFill(1, 10),)


@pytest.mark.parametrize("report", [3, {"calls": 1}, (None,)])
def test_another_value_is_an_error(report: Any) -> None:
    """The message shows it."""
    with pytest.raises(SettingsError, match="must return ProgramMemory"):
        SelfReportReader(lambda: report, list).read()


def test_what_cannot_be_called_is_refused() -> None:
    """At once, with the way out."""
    with pytest.raises(SettingsError, match="pass a function"):
        SelfReportReader(ProgramMemory(), list)  # type: ignore[arg-type]


@pytest.mark.parametrize(("most", "size"), [(5, None), (0, list), (-1, list)])
def test_a_bound_needs_a_size_and_a_number_above_0(most: int, size: Any) -> None:
    """Else the registration is refused."""
    with pytest.raises(SettingsError, match="cache 'c': most="):
        Caches().register({}.clear, "c", size=size, most=most)
