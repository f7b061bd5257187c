"""The old ``src.utils.memory_init``: start-up of memory management, in its old names."""

from __future__ import annotations

import logging
import os
from typing import Any

from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.errors import MemwardenError, ReadError
from memwarden.guards.budget.processing_config import safe_processing_config
from memwarden.guards.budget.profiles import Profile
from memwarden.guards.budget.reclaim import clear_caches
from memwarden.guards.resources.managed import force_memory_cleanup as release_all
from memwarden.guards.resources.resource_scope import held_counts
from memwarden.model.units import MIB
from memwarden.model.verdicts import PressureLevel

#: The processing modes, under their old name.
ProcessingMode = Profile

_log = logging.getLogger("memwarden")


def setup_memory_management() -> bool:
    """Begin to watch. False, with a warning, where nothing can be watched; the program goes on either way.

    Unlike the original it replaces no signal handler and registers nothing at exit: the monitor's threads
    end with the program.
    """
    monitor = get_memory_monitor()
    try:
        monitor.get_current_stats()
        monitor.start_monitoring()
    except (MemwardenError, RuntimeError) as error:
        _log.warning("Memory management not available: %s", error)
        return False
    return True


def is_memory_management_available() -> bool:
    """Whether set-up has succeeded, and watching goes on."""
    return get_memory_monitor().monitoring


def get_memory_status() -> dict[str, Any]:
    """Memory, what is held and the FFmpeg processes, measured now; before set-up, too. All of it is safe for JSON.

    ``memory``: ``total_mb``, ``available_mb``, ``used_percent``, ``pressure_level``, ``process_memory_mb``,
    ``limit_source``. ``resources``: counts of what is tracked or managed. ``ffmpeg``: ``active_processes`` and
    ``total_memory_mb``. Besides ``initialized`` and ``memory_management_available``. Where something cannot be read
    its values are None, and ``error`` is a sentence that says what and why.
    """
    monitor = get_memory_monitor()
    memory: dict[str, Any] = dict.fromkeys(
        ("total_mb", "available_mb", "used_percent", "pressure_level", "process_memory_mb", "limit_source")
    )
    status: dict[str, Any] = {
        "initialized": monitor.monitoring,
        "memory_management_available": monitor.monitoring,
        "memory": memory,
    }
    reading = monitor.look()
    try:
        stats = monitor.stats_of(reading)
        memory |= {
            "total_mb": stats.total_mb,
            "available_mb": stats.available_mb,
            "used_percent": round(stats.percent_used, 1),
            "pressure_level": stats.pressure_level.value,
            "limit_source": stats.limit_source,
        }
    except ReadError as error:
        status["error"] = f"{error}; nothing is known of memory"
    if reading.sample.process is not None:
        memory["process_memory_mb"] = round(reading.sample.process.rss / MIB, 1)
    processes = monitor.get_tracked_processes()
    ffmpeg = [each for each in processes if each.is_ffmpeg]
    held = held_counts()
    status["resources"] = {
        "tracked_processes": len(processes) + held.get("process", 0),
        "tracked_files": held.get("file", 0),
        "temp_directories": held.get("directory", 0),
        "opencv_objects": held.get("capture", 0),
    }
    status["ffmpeg"] = {
        "active_processes": len(ffmpeg),
        "total_memory_mb": round(sum(each.memory_mb for each in ffmpeg), 1),
    }
    return status


def shutdown_memory_management_system() -> None:
    """Stop watching; nothing happens where nothing was watched."""
    get_memory_monitor().stop_monitoring()


def get_safe_processing_config(video_path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """How to process something with the memory that is left: ``max_workers``, ``chunk_size_mb``, ``quality_preset``.

    Besides ``max_concurrent_ffmpeg``, ``buffer_size`` (bytes), ``enable_hardware_accel``, ``processing_mode``,
    ``use_chunked_processing``, ``available_mb``, ``limit_source``, ``reasons``, and each further reduction of the mode
    as True (``reduce_resolution``). It asks for nothing to be set up. An input that cannot be read is told in
    ``error``, and the rest goes by memory alone.
    """
    error = None
    try:
        config = safe_processing_config(video_path)
    except ReadError as failed:
        error, config = str(failed), safe_processing_config()
    told: dict[str, Any] = {
        "max_workers": config.max_workers,
        "chunk_size_mb": config.chunk_bytes // MIB,
        "quality_preset": config.quality_preset,
        "enable_hardware_accel": config.hardware,
        "buffer_size": config.buffer_bytes,
        "max_concurrent_ffmpeg": config.max_encoders,
        "processing_mode": config.mode.value,
        "use_chunked_processing": config.chunked,
        "available_mb": None if config.available is None else config.available * 10 // MIB / 10,
        "limit_source": config.source,
        "reasons": list(config.reasons),
        **dict.fromkeys(config.reduced, True),
    }
    return told if error is None else told | {"error": error}


def force_memory_cleanup() -> dict[str, Any]:
    """Let go of what the current job holds, clear every registered cache, collect garbage, and trim the allocator.

    The native registry's caches and the monitor's. It is safe inside an ``except`` block and may be called again.
    What other jobs hold stays. Returns ``objects_collected``, ``freed_mb`` (what really left the process; None where
    that could not be measured), ``steps``, what was done in words, and ``failed``, what could not be.
    """
    critical = PressureLevel.CRITICAL
    cleared = [clear_caches(critical), clear_caches(critical, registry=get_memory_monitor().caches)]
    done = release_all()
    steps = [outcome.message for outcome in cleared if outcome.done]
    released = {"file": done.files, "directory": done.directories, "process": done.processes, "capture": done.captures}
    steps += [f"{count} of kind {what} released" for what, count in released.items() if count]
    steps.append(f"{done.objects} objects collected, allocator trimmed")
    freed = None if done.returned is None else round(done.returned / MIB, 1)
    return {"objects_collected": done.objects, "freed_mb": freed, "steps": steps, "failed": list(done.failed)}
