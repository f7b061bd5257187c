"""The decrease of the resident size, where it is more than noise."""

from __future__ import annotations

import os
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.model.units import MIB

#: Returns the resident size of this process in bytes; may raise :class:`ReadError`.
Resident = Callable[[], int]


def noise() -> int:
    """Return the smallest significant difference of resident sizes, in bytes.

    At least 1 MiB, because other threads allocate and free meanwhile. From Linux 6.2 until the fix of 2025 each
    processor counts up to ``max(32, 2 * processors)`` pages before ``statm`` shows them.
    """
    every = os.cpu_count() or 1
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else every
    page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
    return max(MIB, ours * max(32, 2 * every) * page)


class RssDelta:
    """Decrease of the resident size since its construction."""

    def __init__(self, resident: Resident | None) -> None:
        self._resident = resident
        self._before = self._read()

    def _read(self) -> int | None:
        try:
            return None if self._resident is None else self._resident()
        except ReadError:
            return None

    def bytes(self) -> int | None:
        """Return the decrease in bytes; 0 if it is noise, None if it could not be measured."""
        after = self._read()
        if self._before is None or after is None:
            return None
        back = self._before - after
        return back if back >= noise() else 0


def as_text(back: int | None) -> str:
    """Return that number as text for an outcome."""
    if back is None:
        return "what came back was not measured"
    return f"{back / MIB:.1f} MiB came back" if back else "nothing measurable came back"
