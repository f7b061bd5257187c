"""The machine's memory, from ``/proc/meminfo``."""

from __future__ import annotations

from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import SystemMemory
from memwarden.readers.files import KeptFile

_KEYS = (
    b"MemTotal:",
    b"\nMemAvailable:",
    b"\nMemFree:",
    b"\nBuffers:",
    b"\nCached:",
    b"\nShmem:",
    b"\nSwapTotal:",
    b"\nSwapFree:",
)


class MeminfoReader:
    """Reads :class:`SystemMemory`. Only the wanted lines are parsed: the whole file costs ten times as much.

    Where each number stands is remembered. The kernel pads numbers to eight digits and writes larger ones wider, so
    that lines move on machines with more than 95 GiB: then what is read is no number, or the same one (a colon or a
    unit comes into the slice), and all lines are looked for again.
    """

    name = "meminfo"

    def __init__(self, proc: str = "/proc") -> None:
        self._file = KeptFile("meminfo", f"{proc}/meminfo")
        self._length = -1
        self._places: tuple[slice, ...] = ()

    def read(self) -> dict[str, Any]:
        """``{"system": SystemMemory}``; raises :class:`ReadError`."""
        return {"system": self.memory()}

    def memory(self) -> SystemMemory:
        """The fact alone."""
        data = self._file.read()
        if len(data) != self._length:
            self._find(data)
        try:
            total, available, free, buffers, cached, shared, swap_total, swap_free = self._numbers(data)
        except ValueError:
            self._find(data)
            total, available, free, buffers, cached, shared, swap_total, swap_free = self._numbers(data)
        cached += buffers - shared  # Cached counts shared memory, which cannot be dropped
        return SystemMemory(
            total << 10,
            available << 10,
            free << 10,
            cached << 10 if cached > 0 else 0,
            swap_total << 10,
            swap_free << 10,
        )

    def _numbers(self, data: bytes) -> list[int]:
        return [int(data[place]) for place in self._places]

    def _find(self, data: bytes) -> None:
        """Where the numbers stand: from behind the colon up to the unit."""
        places = []
        for key in _KEYS:
            at = data.find(key)
            end = data.find(b" kB", at)
            try:
                if at < 0 or end < 0:
                    raise ValueError
                int(data[at + len(key) : end])
            except ValueError:
                line = key.strip().decode()
                raise ReadError("meminfo", self._file.path, "malformed", f"no number after {line}") from None
            places.append(slice(at + len(key), end))
        self._places, self._length = tuple(places), len(data)

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()
