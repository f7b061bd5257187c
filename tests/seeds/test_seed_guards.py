"""Snippets of the seeds S1 and S3 about guards, configuration and the service, with only the import lines changed.

What a snippet leaves open (``process_video``, ``logger``) is given by the few lines around it.
"""

import gc
import json
import threading
import weakref

import pytest

from memwarden.compat import memory_manager, optimizer_service
from memwarden.guards.budget import operation, reclaim
from memwarden.model.units import MIB


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """Records and the ledger go below the test's folder, and nothing of the process is left behind."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(memory_manager, "_monitor", None)
    monkeypatch.setattr(operation, "_footprints", None)
    monkeypatch.chdir(tmp_path)
    for variable in ("ENABLE_MEMORY_MONITORING", "MEMORY_LIMIT_MB", "GC_FREQUENCY"):
        monkeypatch.delenv(variable, raising=False)
    yield
    if (footprints := operation._footprints) is not None:
        footprints.close()
    optimizer_service.stop_memory_monitoring()
    memory_manager.get_memory_monitor().stop_monitoring()
    assert not [each for each in threading.enumerate() if each.name.startswith("memwarden-")]


# --- S1 ------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S1-15")
def test_memory_guard_for_operations():
    """The block gets a monitor with current figures; one that keeps its budget ends as any block does."""
    from memwarden.compat.guarding import memory_guard

    done = []

    def process_video():
        done.append(monitor.get_current_stats().available_mb)

    # Use memory guard for operations
    with memory_guard(max_memory_mb=1024) as monitor:
        # Your memory-constrained operation here
        process_video()

    assert done[0] > 0
    assert monitor.guard.limit == 1024 * MIB


@pytest.mark.own_process
@pytest.mark.contract("S1-15", "W1-4")
def test_memory_guard_raises_without_a_check():
    """60 MB more than before under a budget of 40 is a MemoryError at the block's end; with a checkpoint, sooner."""
    from memwarden.compat.guarding import memory_guard

    kept = []
    with pytest.raises(MemoryError), memory_guard(max_memory_mb=40):
        kept.append(b"x" * (60 * MIB))
    kept.clear()
    reached = []
    with pytest.raises(MemoryError), memory_guard(max_memory_mb=40) as monitor:  # noqa: PT012 - the block is tested
        kept.append(b"x" * (60 * MIB))
        monitor.check()
        reached.append(1)
    assert reached == []


@pytest.mark.contract("S1-38", "S1-39")
def test_adaptive_configuration(tmp_path, capsys):
    """The recommendations can be printed and used, with a video and without."""
    from memwarden.compat.memory_init import get_safe_processing_config

    with open("video.mp4", "wb") as video:
        video.truncate(700 * MIB)

    config = get_safe_processing_config("video.mp4")
    print(f"Recommended workers: {config['max_workers']}")
    print(f"Chunk size: {config['chunk_size_mb']}MB")
    print(f"Quality preset: {config['quality_preset']}")

    assert config["use_chunked_processing"] is True
    config = get_safe_processing_config()
    # Use config['max_workers'] and config['chunk_size_mb'] for processing

    first, second, third = capsys.readouterr().out.splitlines()
    assert 1 <= int(first.removeprefix("Recommended workers: ")) <= 4
    assert second.removeprefix("Chunk size: ") in ("64MB", "128MB", "256MB", "512MB")
    assert third.removeprefix("Quality preset: ") in ("slow", "medium", "fast", "ultrafast")
    assert 1 <= config["max_workers"] <= 4
    assert json.loads(json.dumps(config)) == config
    assert "absent" in get_safe_processing_config("missing.mp4")["error"]


@pytest.mark.contract("S1-58", "V-10")
def test_error_handling(capsys):
    """A forced cleanup in an except block clears caches, collects garbage and says what left; it may be repeated."""

    class Node:
        """Refers to itself."""

    from memwarden.compat.memory_init import force_memory_cleanup

    frames, tries, reported = [b"x" * (64 * MIB)], [], []
    take_off = reclaim.caches.register(frames.clear, "frames", size=lambda: len(frames))

    def analyze_video(path):
        tries.append(path)
        if len(tries) < 3:
            raise OSError("not yet")
        return "result"

    result = None
    while result is None:
        try:
            # Attempt memory-optimized processing
            result = analyze_video("large_video.mp4")
        except MemoryError:
            raise
        except Exception:
            # Force cleanup and retry
            garbage = Node()
            garbage.itself, collected = garbage, weakref.ref(garbage)
            del garbage
            reported.append(force_memory_cleanup())
            assert collected() is None
    take_off()

    assert result == "result"
    assert frames == []
    assert [each["objects_collected"] > 0 for each in reported] == [True, True]
    assert reported[0]["freed_mb"] == pytest.approx(64, abs=4), "the cache, and not what was freed before"
    assert reported[1]["freed_mb"] == pytest.approx(0, abs=4)
    assert json.loads(json.dumps(reported)) == reported


@pytest.mark.contract("S1-67", "W1-4")
def test_custom_processing_function():
    """What fits is reserved, run and measured; what does not fit is a MemoryError before anything began."""
    from memwarden.compat.guarding import memory_constrained_operation

    estimated_mb, began = 100, []
    with memory_constrained_operation(estimated_mb, "custom_processing") as operation:
        kept = b"x" * (30 * MIB)
        began.append(len(kept))
    assert 29 * MIB <= operation.usage.peak <= 40 * MIB

    with pytest.raises(MemoryError):
        with memory_constrained_operation(1 << 30, "custom_processing"):
            began.append("never")
    assert began == [30 * MIB]


@pytest.mark.contract("S1-67")
def test_what_another_program_holds_is_a_memory_error_too():
    """As in the old program, whose caller catches nothing else; the message names the reservation."""
    from memwarden.admission.ledger.ledger import admit
    from memwarden.compat.guarding import memory_constrained_operation
    from memwarden.guards.budget.guard_monitor import guard_context

    free = guard_context().headroom().nearest.headroom
    with admit(free * 3 // 4, "another"), pytest.raises(MemoryError, match="not admitted"):
        with memory_constrained_operation(free // 2 / MIB, "custom_processing"):
            pytest.fail("entered")


# --- S3 ------------------------------------------------------------------------------------------------------


@pytest.mark.contract("S3-30", "X-15")
def test_configuration_in_code():
    """The three attributes are there, have the documented defaults, and can be assigned."""
    from memwarden.compat.config import Config

    config = Config()
    assert (config.memory_limit_mb, config.streaming_threshold_mb) == (1024, 10)
    config.enable_memory_monitoring = True
    config.memory_limit_mb = 1024
    config.streaming_threshold_mb = 10

    assert config.as_dict()["enable_memory_monitoring"] is True


@pytest.mark.contract("S3-19", "S3-20", "S3-21", "S3-60", "W3-8")
def test_background_monitoring():
    """Started with a configuration and without, asked, and stopped at once; its status can be sent elsewhere."""
    from memwarden.compat.config import Config
    from memwarden.compat.optimizer_service import (
        get_memory_status,
        start_memory_monitoring,
        stop_memory_monitoring,
    )

    config, sent = Config(), []
    send_to_monitoring_system = sent.append

    # Start monitoring with 30-second intervals
    service = start_memory_monitoring(config, interval=30)
    # ... your application code ...
    status = get_memory_status()
    send_to_monitoring_system(status)
    stop_memory_monitoring()

    assert not service.running
    service = start_memory_monitoring()
    assert service.running
    assert service.interval == 30
    stop_memory_monitoring()
    stop_memory_monitoring()
    send_to_monitoring_system(get_memory_status())
    assert [each["service_running"] for each in sent] == [True, False]
    assert all(each["current_memory_mb"] > 1 for each in sent)
    assert json.loads(json.dumps(sent)) == sent


@pytest.mark.contract("S3-58")
def test_custom_memory_optimizers():
    """A subclass has both methods, and they do what they say."""
    from memwarden.compat.optimizer_service import MemoryOptimizer

    class CustomOptimizer(MemoryOptimizer):
        def optimize_for_batch_processing(self):
            # Custom optimization logic
            self.force_garbage_collection()
            self.clear_caches()

    optimizer, calls = CustomOptimizer(), []

    @optimizer.cached_operation
    def double(number):
        calls.append(number)
        return 2 * number

    assert (double(2), double(2), calls) == (4, 4, [2])
    gc.collect()
    cycle = []
    cycle.append(cycle)
    del cycle
    optimizer.optimize_for_batch_processing()
    assert optimizer.last_freed.objects >= 1
    assert (double(2), calls) == (4, [2, 2])


@pytest.mark.contract("S3-59", "X-26", "W3-2")
@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_memory_mapped_files(size):
    """Bounded chunks that make up the file; an empty file has none."""
    from memwarden.compat.optimizer_service import MemoryOptimizer

    whole = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with open("huge_file.vtt", "wb") as file:
        file.write(whole)
    chunks = []
    process_chunk = chunks.append

    optimizer = MemoryOptimizer()
    for chunk in optimizer.get_mmap_reader("huge_file.vtt"):
        # Process memory-mapped chunks
        process_chunk(chunk)

    assert b"".join(chunks) == whole
    assert max(map(len, chunks), default=0) <= MIB
    assert len(chunks) == -(-size // MIB)
