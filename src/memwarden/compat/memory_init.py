"""The old ``src.utils.memory_init``: start-up of memory management, in its old names.

Built so far: starting, ending and asking. The processing configuration and the status dictionaries come
with the parts that they speak of (video).
"""

from __future__ import annotations

import logging

from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.errors import MemwardenError

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


def shutdown_memory_management_system() -> None:
    """Stop watching; nothing happens where nothing was watched."""
    get_memory_monitor().stop_monitoring()
