"""The old ``src.utils.memory_init``: start-up of memory management, in its old names.

The processing configuration comes with the parts that it speaks of (video).
"""

from __future__ import annotations

import logging
from typing import Any

from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.errors import MemwardenError, ReadError
from memwarden.guards.jobs import held_counts
from memwarden.model.units import MIB

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
