"""How many objects Python's cycle collector knows, counted so rarely that nobody feels it.

Counting means making a list of them: 31 ms and 8 MB for a million. So what was counted last stands, with its age,
until counting anew takes no more than a thousandth of the time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

#: The share of time that counting may take.
SHARE = 0.001


def _count() -> int:
    return sum(len(gc.get_objects(generation=generation)) for generation in range(3))


class GcObjects:
    """The last count and its age. What ``gc.freeze()`` set aside is not in it."""

    def __init__(
        self, share: float = SHARE, count: Callable[[], int] = _count, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._share, self._count, self._monotonic = share, count, monotonic
        self._last: tuple[int, float] | None = None
        self._due = 0.0

    @property
    def due(self) -> bool:
        """Whether asking now would count."""
        return self._last is None or self._monotonic() >= self._due

    def objects(self) -> tuple[int, float]:
        """How many there are, and how many seconds ago that was counted."""
        if self._last is None or self.due:
            begun = self._monotonic()
            found = self._count()
            ended = self._monotonic()
            self._last, self._due = (found, ended), ended + (ended - begun) / self._share
        return self._last[0], max(0.0, self._monotonic() - self._last[1])


#: That of this process: all who ask share its ration.
census = GcObjects()
