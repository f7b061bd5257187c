"""The old tracker and profile decorator."""

import io
import json
import logging
import threading

import pytest

from memwarden.compat import memory_optimizer
from memwarden.compat.memory_optimizer import MemoryMetrics, MemoryTracker, memory_profile
from memwarden.errors import SettingsError
from memwarden.guards.measure import profile, tracker
from memwarden.guards.measure.measurement import Measurement
from memwarden.model.facts import SystemMemory
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
def old(kernel):
    """The old tracker over a process in a container of 1 GiB, with 1000 objects."""
    limit = Limit(GIB, "cgroup /box")
    assessment = Assessment(PressureLevel.LOW, PressureLevel.LOW, Constraint(limit, GIB // 4), limit, 768 * MIB, 0.0)
    system = SystemMemory(4 * GIB, 3 * GIB, 3 * GIB, 0, GIB, GIB - MIB)
    reading = Reading(Sample(wall=50.0, monotonic=5.0, late=0.0, system=system), assessment)
    census = GcObjects(count=lambda: 1000, monotonic=lambda: 0.0)
    return MemoryTracker(
        tracker.MemoryTracker(read=lambda: reading, objects=census, wall=lambda: 50.0, scopes=kernel.scopes())
    )


@pytest.mark.contract("S3-3", "S3-4", "S3-7")
def test_a_snapshot_has_its_record(kernel, old):
    """Label, figures in MiB, growth; objects with the age of their count; the container's limit, not the host's."""
    kernel.hold(128 * MIB)
    old.set_baseline()
    kernel.spike(512 * MIB)
    kernel.hold(256 * MIB)
    entry = old.take_snapshot("Processing start")
    metrics = entry["metrics"]
    assert (entry["label"], entry["delta_from_baseline"]) == ("Processing start", 128.0)
    assert (metrics.rss_mb, metrics.peak_mb, metrics.percent, metrics.limit_source) == (256, 512, 25.0, "cgroup /box")
    assert (metrics.available_mb, metrics.swap_used_mb, metrics.vms_mb) == (768.0, 1.0, None)
    assert (metrics.gc_objects, metrics.gc_objects_age) == (1000, 0.0)
    assert metrics.timestamp.startswith("19")
    assert metrics.timestamp[-6] in "+-"
    assert old.snapshots == [entry]
    assert json.dumps(entry)


@pytest.mark.contract("S3-2", "S3-6")
def test_growth_and_peak_in_between(kernel, old):
    """Asked for at any moment, against the baseline."""
    assert old.get_memory_growth() is None
    old.set_baseline()
    kernel.spike(300 * MIB)
    kernel.hold(110 * MIB)
    assert (old.get_memory_growth(), old.get_peak_memory()) == (10.0, 300.0)
    now = old.get_current_metrics()
    assert isinstance(now, MemoryMetrics)
    assert (now.rss_mb, now.peak_mb, old.snapshots) == (110.0, 300.0, [])
    assert old.take_snapshot()["metrics"].peak_mb == 300.0, "what was only looked at is not taken from it"


@pytest.mark.contract("S3-8", "S3-5")
def test_the_analysis_has_its_keys(kernel, old):
    """With one snapshot only an error; a spike between two points counts."""
    old.set_baseline()
    old.take_snapshot("one")
    assert list(old.analyze_memory_usage()) == ["error"]
    kernel.spike(400 * MIB)
    kernel.hold(120 * MIB)
    old.take_snapshot("two")
    analysis = old.analyze_memory_usage()
    assert analysis.pop("analysis_timestamp")[10] == "T"
    # Functions that other tests measured may stand before it.
    assert analysis.pop("recommendations")[-1] == (
        "before 'two' memory peaked at 400.0 MiB, and 120.0 MiB of it remained: process less at a time there"
    )
    assert analysis == {
        "snapshots_count": 2,
        "baseline_memory_mb": 100.0,
        "current_memory_mb": 120.0,
        "peak_memory_mb": 400.0,
        "average_memory_mb": 110.0,
        "memory_growth_rate_mb": 20.0,
        "memory_spikes": 1,
        "gc_objects_current": 1000,
        "memory_trend": "stable",
    }


@pytest.mark.parametrize(("size", "verdict"), [(400, "normal"), (501, "moderate"), (1000, "moderate"), (1001, "high")])
def test_the_report_has_a_verdict(kernel, old, capsys, size, verdict):
    """On the resident size, in the old steps."""
    kernel.hold(size * MIB)
    for label in ("one", "two"):
        old.take_snapshot(label)
    out = io.StringIO()
    old.print_memory_report(out)
    assert capsys.readouterr().out == ""
    old.print_memory_report()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(out.getvalue().splitlines())
    assert f"  current memory: {size}.0 MB" in lines
    assert "  baseline memory: -" in lines
    assert lines[-1] == f"  verdict: {verdict}"


@pytest.mark.contract("S3-26")
def test_profiling_can_be_switched_by_its_variable(kernel, monkeypatch, caplog):
    """No: the function stays as it is. Not set: it is profiled, as the decorator asks. Nonsense is refused."""
    monkeypatch.setattr(profile, "Measurement", lambda *arguments: Measurement(*arguments, scopes=kernel.scopes()))
    caplog.set_level(logging.INFO, "memwarden")

    def work():
        kernel.hold(111 * MIB)
        return 1

    monkeypatch.setenv("ENABLE_MEMORY_PROFILING", "false")
    assert memory_profile(work) is work
    monkeypatch.setenv("ENABLE_MEMORY_PROFILING", "perhaps")
    with pytest.raises(SettingsError, match="ENABLE_MEMORY_PROFILING: 'perhaps'"):
        memory_profile(work)
    monkeypatch.delenv("ENABLE_MEMORY_PROFILING")
    assert memory_profile(work)() == 1
    (record,) = caplog.records
    assert (record.levelname, record.memwarden["growth"]) == ("WARNING", 11 * MIB)


def test_making_one_does_nothing():
    """No thread, and nothing is measured, until the first call."""
    threads = threading.active_count()
    made = memory_optimizer.MemoryTracker()
    assert threading.active_count() == threads
    assert made.native._whole is None
