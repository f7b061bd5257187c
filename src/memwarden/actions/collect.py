"""The action that runs the garbage collector, within a share of the time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from memwarden.actions.rss_delta import Resident, RssDelta, as_text
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision, Outcome

#: Share of the time that collections may take.
SHARE = 0.01
#: Collections in a row that free nothing, after which an episode gets no more.
_FRUITLESS = 3
_FULL = 2


def by_level(decision: Decision) -> int:
    """Return the generation to collect: 1 if ``details["level"]`` is LOW or MODERATE, else all (2)."""
    return 1 if str((decision.details or {}).get("level", "")).upper() in ("LOW", "MODERATE") else _FULL


class Collect:
    """Runs Python's cycle collector for at most ``share`` of the time: after 0.2 s it rests for 20 s.

    ``generation`` is 0, 1 or 2 (all), or a function of the decision. ``resident`` returns the resident size of this
    process in bytes, for the outcome: the collector frees objects, and only entirely empty blocks leave the process.

    It is skipped, and the outcome says why, when the share is used up; in the same episode after three collections in
    a row that freed nothing; and if the program has disabled the collector (in a forked worker a
    collection copies the pages that it shares with its parent). ``gc.freeze()`` is respected.

    While it runs, no other thread of the program does: some 0.1 s for a million objects. Finalizers run on the thread
    that calls actions.
    """

    name = "collect"
    harms = False

    def __init__(
        self,
        *,
        share: float = SHARE,
        generation: int | Callable[[Decision], int] = by_level,
        resident: Resident | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < share <= 1:
            raise SettingsError(f"share {share!r}: must be above 0 and at most 1, such as 0.01")
        if isinstance(generation, int) and generation not in (0, 1, 2):
            raise SettingsError(f"generation {generation!r}: must be 0, 1 or 2, which is all of them")
        self._share, self._generation, self._resident = share, generation, resident
        self._monotonic = monotonic
        self._rested = float("-inf")  # from then on it may run again
        self._fruitless = 0

    def run(self, decision: Decision) -> Outcome:
        if why := self._skipped(decision):
            return Outcome(decision=decision, done=False, message=f"not collected: {why}")
        generation = self._generation if isinstance(self._generation, int) else self._generation(decision)
        returned = RssDelta(self._resident)
        start = self._monotonic()
        freed = gc.collect(generation)
        ended = self._monotonic()
        took = ended - start
        self._rested = start + took / self._share
        back = returned.bytes()
        self._fruitless = 0 if freed or back else self._fruitless + 1
        which = "all generations" if generation >= _FULL else f"generations up to {generation}"
        message = f"{freed} objects freed ({which}), {as_text(back)}"
        return Outcome(decision=decision, done=True, message=message, seconds=took)

    def _skipped(self, decision: Decision) -> str:
        if not gc.isenabled():
            return "this program has disabled the collector (gc.disable())"
        if (wait := self._rested - self._monotonic()) > 0:
            return f"its {self._share:.2%} of the time is used up; it rests for {wait:.1f} s more"
        if decision.repeat and self._fruitless >= _FRUITLESS:
            return f"the last {self._fruitless} collections freed nothing"
        return ""
