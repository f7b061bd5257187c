"""Collecting by hand, every so many operations, and caches by level."""

import functools
import gc

import pytest

from memwarden.actions.caches import Caches
from memwarden.actions.collect import Collect
from memwarden.errors import ReadError, SettingsError
from memwarden.guards.budget import reclaim
from memwarden.guards.budget.reclaim import CollectEvery, clear_caches, force_garbage_collection
from memwarden.model.units import MIB
from memwarden.model.verdicts import PressureLevel


class Node:
    """Can be part of a cycle."""


def cycles(count):
    """Garbage that only the collector frees."""
    for _ in range(count):
        node = Node()
        node.itself = node


@pytest.mark.contract("S4-38", "W4-5")
def test_what_was_freed_is_reported_by_generation():
    """Young garbage counts as young, garbage that was old as old."""
    gc.collect()
    gc.disable()
    try:
        cycles(100)
        young = force_garbage_collection(trim=False)
        node = Node()
        node.itself = node
        old = [Node() for _ in range(50)]
        for each in old:
            each.itself = each
        gc.collect()
        del each, old, node
        aged = force_garbage_collection(trim=False)
    finally:
        gc.enable()
    assert young.generations[0] >= 100
    assert young.generations[2] < 100
    assert aged.generations[2] >= 51
    assert aged.objects == sum(aged.generations)
    assert young.untrimmed == "not asked for"


def test_many_young_objects_are_passed_once():
    """A program without a collector pays for one pass, and not for three."""
    passes = []

    def see(phase, info):
        if phase == "start":
            passes.append(info["generation"])

    gc.collect()
    gc.disable()
    kept = [[] for _ in range(120_000)]
    gc.callbacks.append(see)
    try:
        force_garbage_collection(trim=False)
    finally:
        gc.callbacks.remove(see)
        gc.enable()
    assert passes == [2]
    assert len(kept) == 120_000


@pytest.mark.contract("V-10")
def test_what_really_left_is_measured():
    """Before, after and their difference; noise is 0, and what could not be measured is None."""
    sizes = iter([900 * MIB, 900 * MIB, 300 * MIB, 300 * MIB])
    freed = force_garbage_collection(resident=lambda: next(sizes))
    assert (freed.before, freed.after, freed.returned) == (900 * MIB, 300 * MIB, 600 * MIB)
    assert force_garbage_collection(resident=lambda: 900 * MIB).returned == 0


def test_a_size_that_cannot_be_read_stops_no_collection():
    """It is None, and the garbage is collected all the same."""

    def resident():
        raise ReadError("statm", "/proc/self/statm", "denied")

    gc.collect()
    cycles(100)
    freed = force_garbage_collection(resident=resident)
    assert (freed.before, freed.after, freed.returned) == (None, None, None)
    assert freed.objects >= 100


def test_caches_are_cleared_by_level():
    """The cheap ones from MODERATE on, the dear ones at CRITICAL; an lru_cache by its function."""
    registry, cleared = Caches(), []

    @functools.cache
    def squares(number):
        return number**2

    squares(3)
    registry.register(lambda: cleared.append("cheap"), "cheap", level=PressureLevel.MODERATE)
    registry.register_lru(squares, level=PressureLevel.HIGH)
    registry.register(lambda: cleared.append("dear"), "dear", level=PressureLevel.CRITICAL)
    assert "cheap" in clear_caches(PressureLevel.MODERATE, registry=registry).message
    assert (cleared, squares.cache_info().currsize) == (["cheap"], 1)
    assert "squares" in clear_caches(PressureLevel.HIGH, registry=registry).message
    assert squares.cache_info().currsize == 0
    clear_caches(registry=registry)
    assert cleared == ["cheap", "cheap", "cheap", "dear"]
    assert not clear_caches(PressureLevel.LOW, registry=registry).done


def test_the_process_has_one_registry():
    """What is registered there is what a call without a registry clears."""
    cleared = []
    take_off = reclaim.caches.register(lambda: cleared.append(1), "mine")
    try:
        clear_caches()
    finally:
        take_off()
    assert cleared == [1]


@pytest.mark.contract("V-23")
def test_one_collection_in_so_many_operations():
    """After 1000, not before; counts may come several at a time."""
    clock = [0.0]
    every = CollectEvery(1000, collect=Collect(monotonic=lambda: clock[0]))
    outcomes = [every.done() for _ in range(999)]
    assert not any(outcomes)
    assert every.done().done
    clock[0] += 1000
    assert every.done(999) is None
    assert every.done(5).done
    assert every.done() is None


@pytest.mark.contract("S3-36")
def test_pressure_brings_it_forward():
    """When the level rises the next operation collects; while it stays nothing more comes of it."""
    clock, level = [0.0], [PressureLevel.LOW]
    every = CollectEvery(1000, level=lambda: level[0], collect=Collect(monotonic=lambda: clock[0]))
    assert every.done() is None
    level[0] = PressureLevel.HIGH
    assert every.done().done
    clock[0] += 1000
    assert every.done() is None
    level[0] = PressureLevel.CRITICAL
    assert every.done().done


def test_it_is_rationed_and_leaves_a_switched_off_collector_alone():
    """Each operation asks for one, and the ration says no; and so does a program that wants none."""
    every = CollectEvery(1, collect=Collect(monotonic=iter([0, 0, 1, 1, 2, 2, 3]).__next__))
    assert every.done().done
    assert "rests" in every.done().message
    gc.disable()
    try:
        assert "disabled the collector" in CollectEvery(1).done().message
    finally:
        gc.enable()


def test_items_are_passed_on_and_counted():
    """All of them, in order; one that the loop does not finish is not counted."""
    counted = []
    every = CollectEvery(2)
    every.done = lambda count=1: counted.append(count)
    assert list(every.over("abc")) == ["a", "b", "c"]
    assert len(counted) == 3


@pytest.mark.parametrize("bad", [0, -1, 1.5, "10", True, None])
def test_a_bad_number_of_operations_is_refused(bad):
    """With a good one in the message."""
    with pytest.raises(SettingsError, match="1000"):
        CollectEvery(bad)
