"""Collecting garbage, rationed: the remedy may not eat the program."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from memwarden.actions.rss_delta import Resident, RssDelta, told
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision, Outcome

#: The share of time that collections may take.
SHARE = 0.01
#: After so many collections in a row that freed nothing an episode gets no more of them.
_FRUITLESS = 3
_FULL = 2


def by_level(decision: Decision) -> int:
    """The generation to collect: the young ones (1) where ``details["level"]`` says LOW or MODERATE, else all (2)."""
    return 1 if str((decision.details or {}).get("level", "")).upper() in ("LOW", "MODERATE") else _FULL


class Collect:
    """Runs Python's cycle collector, for at most ``share`` of the time: after 0.2 s it rests for 20 s.

    ``generation`` is what to collect (0, 1, 2 for all), or a function of the decision that says so. ``resident``
    gives the resident size of this process in bytes, so that the outcome can say what came back: the collector
    frees objects, and only blocks that are empty as a whole leave the process.

    It is skipped, with an outcome that says so, when the ration is used up; in the same episode after three
    collections in a row that freed nothing; and where the program has switched the collector off (in a worker
    that was forked a collection copies the pages that it shared with its parent, so that memory grows) unless
    ``when_disabled``. What was set aside by ``gc.freeze()`` stays untouched.

    While it runs no other thread of the program does: the collector holds the interpreter, some 0.1 s for a
    million objects. Finalizers run on the thread that calls actions.
    """

    name = "collect"
    harms = False

    def __init__(
        self,
        *,
        share: float = SHARE,
        generation: int | Callable[[Decision], int] = by_level,
        resident: Resident | None = None,
        when_disabled: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < share <= 1:
            raise SettingsError(f"share {share!r}: must be more than 0 and at most 1, such as 0.01")
        if isinstance(generation, int) and generation not in (0, 1, 2):
            raise SettingsError(f"generation {generation!r}: must be 0, 1 or 2, which is all of them")
        self._share, self._generation, self._resident = share, generation, resident
        self._when_disabled, self._monotonic = when_disabled, monotonic
        self._rested = float("-inf")  # from then on it may run again
        self._fruitless = 0

    def run(self, decision: Decision) -> Outcome:
        if why := self._held_back(decision):
            return Outcome(decision=decision, done=False, message=f"not collected: {why}")
        generation = self._generation if isinstance(self._generation, int) else self._generation(decision)
        returned = RssDelta(self._resident)
        begun = self._monotonic()
        freed = gc.collect(generation)
        ended = self._monotonic()
        took = ended - begun
        self._rested = begun + took / self._share
        back = returned.bytes()
        self._fruitless = 0 if freed or back else self._fruitless + 1
        which = "all generations" if generation >= _FULL else f"generations up to {generation}"
        message = f"{freed} objects freed ({which}), {told(back)}"
        return Outcome(decision=decision, done=True, message=message, seconds=took)

    def _held_back(self, decision: Decision) -> str:
        if not gc.isenabled() and not self._when_disabled:
            return "this program has switched the collector off"
        if (wait := self._rested - self._monotonic()) > 0:
            return f"it may take {self._share:.2%} of the time, and rests for {wait:.1f} s more"
        if decision.repeat and self._fruitless >= _FRUITLESS:
            return f"the last {self._fruitless} freed nothing"
        return ""
