"""Snippets of the seed S3 about tracking and profiling, with only the import lines changed.

What a snippet leaves open (its processing code, ``text``, ``analyze_text``) is given by the few lines around it.
"""

import logging

import pytest

from memwarden.guards.measure.peak_rss import peak_scopes
from memwarden.guards.measure.profile import profile_report

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_descriptor_is_kept():
    """Other tests count them."""
    yield
    peak_scopes.release()


@pytest.mark.contract("S3-1", "S3-2", "S3-6", "S3-7", "S3-8")
def test_tracking_example():
    """Baseline, two snapshots around the processing, and an analysis of them."""
    from memwarden.compat.memory_optimizer import MemoryTracker

    tracker = MemoryTracker()
    tracker.set_baseline()
    tracker.take_snapshot("Processing start")
    # ... your processing code ...
    held = bytearray(64 * MIB)
    tracker.take_snapshot("Processing end")
    analysis = tracker.analyze_memory_usage()

    assert [each["label"] for each in tracker.snapshots] == ["Processing start", "Processing end"]
    assert analysis["snapshots_count"] == 2
    assert analysis["memory_growth_rate_mb"] == pytest.approx(64, abs=4)
    assert analysis["peak_memory_mb"] >= analysis["current_memory_mb"] - 2
    del held
    tracker.native.close()


@pytest.mark.contract("S3-1", "S3-16")
def test_profiling_example(caplog):
    """The function is profiled by itself: its growth is reported, and a call that keeps 64 MiB is a warning."""

    def analyze_text(text):
        return bytearray(64 * MIB)

    caplog.set_level(logging.INFO, "memwarden")
    from memwarden.compat.memory_optimizer import memory_profile

    @memory_profile
    def process_transcript(text):
        # Function will be automatically profiled
        return analyze_text(text)

    result = process_transcript("text")

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.memwarden["growth"] == pytest.approx(len(result), abs=4 * MIB)
    (summary,) = [each for each in profile_report() if each.name.endswith("process_transcript")]
    assert summary.calls == 1
