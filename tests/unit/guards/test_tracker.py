"""``MemoryTracker``: snapshots against a baseline, and the peaks between them."""

import threading

import pytest

from memwarden.guards.measure import tracker as tracker_module
from memwarden.guards.measure.measurement import Measurement
from memwarden.guards.measure.tracker import MemoryTracker
from memwarden.model.calls import CallGrowth
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel, Reading
from memwarden.readers.gc_objects import GcObjects
from support.kernel import MIB, Kernel

GIB = 1 << 30


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def world(kernel):
    """Makes trackers of a process in a machine of 4 GiB, with 1000 objects, at second 50."""
    process = ProcessMemory(ProcessKey(1, 1), "it", 100 * MIB, 200 * MIB, None, None, None, None, None)
    system = SystemMemory(4 * GIB, 3 * GIB, 3 * GIB, 0, GIB, GIB)
    limit = Limit(4 * GIB, "machine")
    assessment = Assessment(PressureLevel.LOW, PressureLevel.LOW, Constraint(limit, GIB), limit, 3 * GIB, 0.0)
    reading = Reading(Sample(wall=50.0, monotonic=5.0, late=0.0, system=system, process=process), assessment)

    scopes = kernel.scopes()

    def make(after_count=lambda: None, **options):
        def count():
            kernel.spike(900 * MIB)  # the list of objects
            after_count()
            return 1000

        census = GcObjects(count=count, monotonic=lambda: 0.0)
        return MemoryTracker(read=lambda: reading, objects=census, wall=lambda: 50.0, scopes=scopes, **options)

    make.scopes = scopes
    return make


@pytest.mark.contract("S3-2", "S3-3", "S3-4", "S3-6", "S3-7")
def test_snapshots_against_a_baseline(kernel, world):
    """Resident and virtual size, the objects with the age of their count, what is left, and the growth."""
    tracker = world()
    baseline = tracker.set_baseline()
    kernel.hold(130 * MIB)
    snapshot = tracker.take_snapshot("loaded")
    assert (baseline.rss, baseline.delta, tracker.baseline) == (100 * MIB, 0, baseline)
    assert tracker.snapshots == (snapshot,)
    assert (snapshot.label, snapshot.rss, snapshot.delta, snapshot.vms) == ("loaded", 130 * MIB, 30 * MIB, 200 * MIB)
    assert (snapshot.available, snapshot.limit, snapshot.source) == (3 * GIB, 4 * GIB, "machine")
    assert (snapshot.objects, snapshot.objects_age, snapshot.wall) == (1000, 0.0, 50.0)
    assert tracker.growth == tracker.delta() == 30 * MIB
    kernel.hold(140 * MIB)
    tracker.set_baseline()
    assert tracker.growth == 0


@pytest.mark.contract("S3-5", "S3-2")
def test_a_peak_between_snapshots_is_a_spike(kernel, world):
    """Also one that no sample at any point could have seen, and without a thread that samples."""
    tracker = world()
    tracker.set_baseline()
    threads = threading.active_count()
    tracker.take_snapshot("before")
    kernel.spike(400 * MIB)
    tracker.take_snapshot("after")
    tracker.take_snapshot("later")
    analysis = tracker.analyze()
    assert [each.label for each in analysis.spikes] == ["after"]
    assert [each.peak // MIB for each in tracker.snapshots] == [100, 400, 100]
    assert (analysis.peak, tracker.peak) == (400 * MIB, 400 * MIB)
    assert threading.active_count() == threads


@pytest.mark.contract("S3-8")
def test_the_analysis(kernel, world):
    """Average, growth for each step, current, and nothing for fewer than two."""
    tracker = world()
    assert tracker.analyze() is None
    for size in (100, 110, 150):
        kernel.hold(size * MIB)
        tracker.take_snapshot(f"{size}")
    analysis = tracker.analyze()
    assert (analysis.snapshots, analysis.baseline, analysis.current) == (3, None, 150 * MIB)
    assert (analysis.average, analysis.growth_per_snapshot) == (120 * MIB, 25 * MIB)
    assert (analysis.objects, tracker.growth) == (1000, None)


@pytest.mark.contract("S3-47")
def test_the_analysis_has_advice_from_measured_functions(kernel, world, monkeypatch):
    """By what stayed of their calls; the snapshots have a trend of their own."""
    points = tuple((number, number * MIB) for number in range(1, 41))
    monkeypatch.setattr(tracker_module, "growths", lambda: [CallGrowth("load", 40, points)])
    tracker = world()
    for size in range(100, 140):
        kernel.hold(size * MIB)
        tracker.take_snapshot()
    analysis = tracker.analyze()
    assert analysis.trend.readings == 1  # the clock of this test is stopped
    assert analysis.advice[0].startswith("load grows by 1.0 MiB per call, 40.0 MiB over 40 calls")


@pytest.mark.contract("W3-9")
def test_counting_objects_makes_no_peak(kernel, world):
    """The list that counting makes is in no snapshot, and in no call that runs meanwhile."""
    tracker = world()
    with Measurement("load", scopes=world.scopes) as load:
        tracker.set_baseline()
        tracker.take_snapshot("one")
    assert tracker.peak == load.peak == 100 * MIB


def test_memory_that_counting_objects_keeps_is_no_growth(kernel, world):
    """The allocator keeps the memory of the first count's list: the baseline is read after it."""
    tracker = world(after_count=lambda: kernel.hold(105 * MIB))
    tracker.set_baseline()
    assert (tracker.take_snapshot("one").delta, tracker.growth) == (0, 0)


def test_growth_since_a_point(kernel, world):
    """By its name, the newest of that name; a name that is none is an error."""
    tracker = world()
    for size in (110, 120):
        kernel.hold(size * MIB)
        tracker.take_snapshot("step")
    kernel.hold(150 * MIB)
    assert tracker.delta("step") == 30 * MIB
    with pytest.raises(KeyError, match="stop"):
        tracker.delta("stop")
    with pytest.raises(KeyError, match="baseline"):
        tracker.delta()


@pytest.mark.contract("S3-7")
def test_the_newest_thousand_are_kept(world):
    """The oldest go first."""
    tracker = world()
    for number in range(1005):
        tracker.take_snapshot(f"{number}")
    assert len(tracker.snapshots) == 1000
    assert tracker.snapshots[0].label == "5"


def test_it_ends_and_may_go_on(kernel, world):
    """Closed nothing measures; what was kept stays, and asking begins again."""
    with world() as tracker:
        tracker.set_baseline()
        tracker.take_snapshot("one")
    assert world.scopes.open_scopes == []
    kernel.spike(300 * MIB)
    assert (tracker.peak, tracker.growth, len(tracker.snapshots)) == (100 * MIB, 0, 1)
    tracker.close()


def test_one_that_is_forgotten_measures_no_longer(world):
    """Nothing keeps it."""
    tracker = world()
    tracker.take_snapshot()
    del tracker
    with Measurement("load", scopes=world.scopes):
        assert len(world.scopes.open_scopes) == 1


def test_a_child_is_not_held_up_by_a_lock_of_its_parent(world):
    """After a fork the tracker goes on."""
    tracker = world()
    holder = threading.Thread(target=tracker._lock.acquire)
    holder.start()
    holder.join()
    tracker.after_fork()
    assert tracker.take_snapshot().rss == 100 * MIB
