"""The transcript program's settings: what is read, and what is in effect."""

import gc
import os
import threading

import pytest

from memwarden.actions.collect import Collect
from memwarden.compat import optimizer_service
from memwarden.compat.config import VARIABLES, Config
from memwarden.compat.optimizer_service import MemoryMonitoringService, MemoryOptimizer, autostart
from memwarden.errors import SettingsError
from memwarden.guards.budget.reclaim import CollectEvery
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory
from memwarden.model.units import GIB, MIB
from memwarden.testing import FakeClock, ScriptedReader


@pytest.mark.contract("S3-55", "X-15")
def test_the_production_settings_are_read_as_written():
    """Those of the seed; what they leave out keeps its default."""
    config = Config(
        environment={
            "ENABLE_MEMORY_MONITORING": "true",
            "MEMORY_LIMIT_MB": "2048",
            "STREAMING_THRESHOLD_MB": "5",
            "GC_FREQUENCY": "500",
        }
    )
    assert config.as_dict() == {
        "enable_memory_monitoring": True,
        "memory_limit_mb": 2048,
        "streaming_threshold_mb": 5,
        "gc_frequency": 500,
        "enable_memory_profiling": False,
        "max_file_size": 52428800,
        "chunk_size": 500,
        "chunk_overlap": 100,
    }
    assert Config(environment={}).memory_limit_mb == 1024


def test_a_file_of_lines_is_read_below_the_environment(tmp_path):
    """With comments, quotes and ``export``; the environment wins."""
    path = tmp_path / ".env"
    path.write_text('# memory\nexport GC_FREQUENCY="250"\n\nMAX_FILE_SIZE=1000  # bytes\nOTHER=x\n')
    config = Config(path, environment={"GC_FREQUENCY": "300"})
    assert (config.gc_frequency, config.max_file_size) == (300, 1000)
    assert Config(path, environment={}).gc_frequency == 250


def test_making_one_makes_nothing_else(tmp_path, monkeypatch):
    """No folder, no file, no thread."""
    monkeypatch.chdir(tmp_path)
    before = threading.active_count()
    Config.get_default()
    assert os.listdir(tmp_path) == []
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MEMORY_LIMIT_MB", "1GB"),
        ("MEMORY_LIMIT_MB", "0"),
        ("MEMORY_LIMIT_MB", "1.5"),
        ("GC_FREQUENCY", "-5"),
        ("GC_FREQUENCY", "often"),
        ("ENABLE_MEMORY_MONITORING", "maybe"),
        ("CHUNK_OVERLAP", "500"),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(variable, value):
    """At once, and not a crash of ``int()`` somewhere."""
    with pytest.raises(SettingsError, match=variable) as caught:
        Config(environment={variable: value})
    assert value in str(caught.value)


@pytest.mark.parametrize("text", [None, "no equals sign\n"])
def test_a_bad_file_is_an_error_that_names_it(tmp_path, text):
    """Whether it is missing or no such file."""
    path = tmp_path / ".env"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=r"\.env"):
        Config(path)


def test_every_attribute_has_a_variable():
    """And is declared for type checkers."""
    assert set(VARIABLES) == set(Config.__annotations__)


@pytest.mark.contract("S3-22")
@pytest.mark.parametrize(("word", "runs"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_the_switch_starts_the_service(word, runs):
    """And leaves it where it is off, or not set."""
    service = autostart(Config(environment={"ENABLE_MEMORY_MONITORING": word}))
    try:
        assert (service is not None and service.running) is runs
    finally:
        optimizer_service.stop_memory_monitoring()


def sample_of(rss):
    system = SystemMemory(16 * GIB, 8 * GIB, 0, 0, 0, 0)
    return {"process": ProcessMemory(ProcessKey(1, 1), "python", rss * MIB), "system": system}


@pytest.mark.contract("S3-23", "V-26")
@pytest.mark.parametrize(("limit", "alerts"), [("1024", 1), ("2048", 0)])
def test_the_limit_is_what_alerts_go_by(limit, alerts, caplog):
    """900 MB are above 80 % of 1024 and below that of 2048, on a machine with 16 GB."""
    clock = FakeClock()
    config = Config(environment={"MEMORY_LIMIT_MB": limit})
    service = MemoryMonitoringService(
        config, 1, readers=[ScriptedReader([sample_of(850), sample_of(900)])], clock=clock
    )
    service.start()
    clock.advance(5)
    reported = service.analyze()
    service.stop()
    assert sum("usage warning" in record.getMessage() for record in caplog.records) == alerts
    assert (reported["baseline_memory_mb"], reported["peak_memory_mb"], reported["memory_spikes"]) == (850.0, 900.0, 0)
    assert reported["memory_growth_rate_mb"] == pytest.approx(50 / (reported["snapshots_count"] - 1), abs=0.001)


@pytest.mark.contract("S3-25", "V-23")
@pytest.mark.parametrize(("frequency", "collections"), [("1000", 2), ("500", 4), ("5000", 0)])
def test_the_frequency_is_what_garbage_is_collected_by(frequency, collections):
    """So often in 2000 operations."""
    now = [0.0]
    optimizer = MemoryOptimizer(Config(environment={"GC_FREQUENCY": frequency}))
    optimizer._every = CollectEvery(optimizer._every.operations, collect=Collect(monotonic=lambda: now[0]))
    outcomes = [optimizer.operation_done() for _ in range(2000)]
    assert sum(outcome is not None and outcome.done for outcome in outcomes) == collections


def test_large_files_are_collected_more_often():
    """Ten times, and at once."""
    optimizer = MemoryOptimizer(Config(environment={"GC_FREQUENCY": "1000"}))
    optimizer.optimize_for_large_files()
    assert optimizer._every.operations == 100
    assert optimizer.last_freed is not None
    assert gc.isenabled()


@pytest.mark.contract("W3-8")
def test_a_second_start_reports_what_it_does(caplog):
    """The same arguments give the same service; others replace it, and the log says so."""
    first = optimizer_service.start_memory_monitoring(Config(environment={}), interval=60)
    try:
        assert optimizer_service.start_memory_monitoring(Config(environment={}), interval=60) is first
        assert caplog.text == ""
        second = optimizer_service.start_memory_monitoring(Config(environment={}), interval=90)
        assert (first.running, second.running) == (False, True)
        assert "restarting memory monitoring with interval 90 s" in caplog.text
    finally:
        optimizer_service.stop_memory_monitoring()


def test_a_text_is_read_in_pieces(tmp_path):
    """With a mark at its beginning, and bytes that are no UTF-8; nothing is lost but the mark."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "häuser".encode() * 3000 + b"\xff")
    pieces = list(MemoryOptimizer().get_memory_efficient_reader(path, chunk_size=1000))
    assert "".join(pieces) == "häuser" * 3000 + "\ufffd"
    assert {len(piece) for piece in pieces[:-1]} == {1000}
    with pytest.raises(SettingsError):
        next(MemoryOptimizer().get_mmap_reader(path, chunk_size=0))
