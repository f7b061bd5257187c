"""The old ``src.utils.memory_init``: start and stop of memory management, its status, and processing presets."""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

from memwarden.actions.rss_delta import RssDelta
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.errors import MemwardenError, ReadError
from memwarden.guards.budget.processing_config import safe_processing_config
from memwarden.guards.budget.profiles import Profile
from memwarden.guards.budget.reclaim import clear_caches
from memwarden.guards.resources.managed import force_memory_cleanup as release_all
from memwarden.guards.resources.resource_scope import open_counts
from memwarden.model.units import KIB, MIB
from memwarden.model.verdicts import PressureLevel
from memwarden.readers.factory import rss_function

#: The profiles, under their old name.
ProcessingMode = Profile


class _VideoNumbers(NamedTuple):
    """Video settings of one profile."""

    #: x264 preset, for callers that do not choose one.
    preset: str
    #: Bytes of a copy buffer.
    buffer: int
    #: Concurrent FFmpeg processes.
    encoders: int
    #: False where the graphics card is not to be used; its driver needs memory of its own.
    hardware: bool = True
    #: Further reductions, by name.
    reduced: tuple[str, ...] = ()


_VIDEO_NUMBERS = {
    Profile.FULL_QUALITY: _VideoNumbers("slow", 128 * KIB, 3),
    Profile.BALANCED: _VideoNumbers("medium", 64 * KIB, 2),
    Profile.MEMORY_OPTIMIZED: _VideoNumbers("fast", 32 * KIB, 1, reduced=("reduce_resolution",)),
    Profile.SURVIVAL: _VideoNumbers(
        "ultrafast", 16 * KIB, 1, False, ("force_low_resolution", "skip_audio_normalization")
    ),
}

_log = logging.getLogger("memwarden")


def setup_memory_management() -> bool:
    """Start monitoring; return False and log a warning where memory cannot be read.

    Unlike the original it replaces no signal handler and registers nothing at exit: the monitor's threads stop with
    the program.
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
    """Return True while monitoring runs."""
    return get_memory_monitor().monitoring


def get_memory_status() -> dict[str, Any]:
    """Return memory, managed resources and FFmpeg processes, measured now, also before set-up; safe for JSON.

    ``memory``: ``total_mb``, ``available_mb``, ``used_percent``, ``pressure_level``, ``process_memory_mb``,
    ``limit_source``. ``resources``: counts of tracked and managed resources. ``ffmpeg``: ``active_processes`` and
    ``total_memory_mb``. Also ``initialized`` and ``memory_management_available``. Where memory cannot be read the
    values are None, and ``error`` says what failed and why.
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
        status["error"] = f"{error}; memory cannot be read"
    if reading.sample.process is not None:
        memory["process_memory_mb"] = round(reading.sample.process.rss / MIB, 1)
    processes = monitor.get_tracked_processes()
    ffmpeg = [each for each in processes if each.is_ffmpeg]
    counts = open_counts()
    status["resources"] = {
        "tracked_processes": len(processes) + counts.get("process", 0),
        "tracked_files": counts.get("file", 0),
        "temp_directories": counts.get("directory", 0),
        "opencv_objects": counts.get("capture", 0),
    }
    status["ffmpeg"] = {
        "active_processes": len(ffmpeg),
        "total_memory_mb": round(sum(each.memory_mb for each in ffmpeg), 1),
    }
    return status


def shutdown_memory_management_system() -> None:
    """Stop monitoring; nothing happens where it does not run."""
    get_memory_monitor().stop_monitoring()


def get_safe_processing_config(video_path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Return settings for the available memory: ``max_workers``, ``chunk_size_mb``, ``quality_preset``.

    Also ``max_concurrent_ffmpeg``, ``buffer_size`` (bytes), ``enable_hardware_accel``, ``processing_mode``,
    ``use_chunked_processing``, ``available_mb``, ``limit_source``, ``reasons``, and each further reduction of the
    profile as True (``reduce_resolution``). It needs no set-up. An input that cannot be read is reported in
    ``error``, and the settings then depend on memory alone.
    """
    error = None
    try:
        config = safe_processing_config(video_path)
    except ReadError as failed:
        error, config = str(failed), safe_processing_config()
    numbers = _VIDEO_NUMBERS[config.profile]
    if config.available is None:
        numbers = numbers._replace(encoders=1, hardware=False)
    settings: dict[str, Any] = {
        "max_workers": config.max_workers,
        "chunk_size_mb": config.chunk_bytes // MIB,
        "quality_preset": numbers.preset,
        "enable_hardware_accel": numbers.hardware,
        "buffer_size": numbers.buffer,
        "max_concurrent_ffmpeg": min(numbers.encoders, config.max_workers),
        "processing_mode": config.profile.value,
        "use_chunked_processing": config.chunked,
        "available_mb": None if config.available is None else config.available * 10 // MIB / 10,
        "limit_source": config.source,
        "reasons": list(config.reasons),
        **dict.fromkeys(numbers.reduced, True),
    }
    return settings if error is None else settings | {"error": error}


def force_memory_cleanup() -> dict[str, Any]:
    """Release the resources of the current scope, clear all registered caches, collect garbage, trim the allocator.

    The caches are those of the native registry and of the monitor. It is safe inside an ``except`` block and may be
    called again. Resources of other scopes stay. Returns ``objects_collected``, ``freed_mb`` (memory that left the
    process; None where that could not be measured), ``steps`` and ``failed``, in words.
    """
    critical, freed = PressureLevel.CRITICAL, RssDelta(rss_function())
    cleared = [clear_caches(critical), clear_caches(critical, registry=get_memory_monitor().caches)]
    done = release_all()
    steps = [outcome.message for outcome in cleared if outcome.done]
    released = {"file": done.files, "directory": done.directories, "process": done.processes, "capture": done.captures}
    steps += [f"{count} of kind {what} released" for what, count in released.items() if count]
    steps.append(f"{done.objects} objects collected, allocator trimmed")
    returned = freed.bytes()
    return {
        "objects_collected": done.objects,
        "freed_mb": None if returned is None else round(returned / MIB, 1),
        "steps": steps,
        "failed": list(done.failed),
    }
