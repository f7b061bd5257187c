"""The machine and one process through psutil, where there is no ``/proc``: macOS and Windows.

It knows less than the Linux readers: no groups, no peak on every system, shared parts only where psutil
tells them. It can be chosen on Linux too, where psutil is installed, to be tested.
"""

from __future__ import annotations

from typing import Any

from memwarden.errors import ExtraMissing, ReadError
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory


class PortableReader:
    """Reads :class:`SystemMemory` and :class:`ProcessMemory` (the own process where no pid is given)."""

    name = "portable"

    def __init__(self, pid: int | None = None) -> None:
        try:
            import psutil
        except ImportError:
            raise ExtraMissing("the portable reader", "portable") from None
        self._psutil = psutil
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            raise ReadError("process", f"pid {pid}", "gone", "no process has this pid") from None
        # psutil's start time is a float of seconds; microseconds keep it exact enough to tell processes apart.
        self._key = ProcessKey(self._process.pid, int(self._process.create_time() * 1e6))

    def read(self) -> dict[str, Any]:
        """``{"system": …, "process": …}``; raises :class:`ReadError`."""
        psutil = self._psutil
        machine, swap = psutil.virtual_memory(), psutil.swap_memory()
        system = SystemMemory(
            machine.total,
            machine.available,
            machine.free,
            getattr(machine, "cached", 0) + getattr(machine, "buffers", 0),
            swap.total,
            swap.free,
        )
        try:
            if not self._process.is_running():  # psutil compares start times here, and not in the calls below
                raise ReadError("process", f"pid {self._key.pid}", "gone")
            memory, name = self._process.memory_info(), self._process.name()
        except psutil.NoSuchProcess:
            raise ReadError("process", f"pid {self._key.pid}", "gone") from None
        except psutil.AccessDenied:
            raise ReadError("process", f"pid {self._key.pid}", "denied") from None
        shared = getattr(memory, "shared", None)
        process = ProcessMemory(
            self._key,
            name,
            memory.rss,
            memory.vms,
            None if shared is None else memory.rss - shared,
            shared,
            None,
            getattr(memory, "peak_wset", None),
        )
        return {"system": system, "process": process}

    def close(self) -> None:
        """Nothing is kept open."""
