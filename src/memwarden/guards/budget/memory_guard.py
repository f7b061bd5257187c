"""A budget for a block: what it may take, children included.

Three faces limit memory here, and each says against what, when, and what happens:

* :func:`memory_guard`: what the block has taken (:mod:`memwarden.guards.budget.tree_usage`) against its budget, and what the
  container and the machine leave; at each :meth:`Guard.check` and at the end. Over it, memory is freed step by step,
  measuring after each; then :class:`LimitExceeded` is raised in the block's own thread.
* ``memory_constrained_operation`` (:mod:`memwarden.guards.budget.operation`): before the block its estimate against what may
  be taken here, reserved in the ledger that all programs share; after it what it really took, which the next estimate
  is checked against.
* ``memory_limit``: one call's growth, enforced while it runs.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from memwarden.actions.caches import Caches
from memwarden.actions.collect import Collect
from memwarden.actions.trim import Trim
from memwarden.errors import LimitExceeded, SettingsError
from memwarden.guards.budget import reclaim
from memwarden.guards.budget.guard_monitor import GuardContext, Watched, guard_context
from memwarden.guards.budget.tree_usage import TreeUsage
from memwarden.model.limits import Constraint, Limit
from memwarden.model.units import MIB, parse_size, size_text
from memwarden.model.verdicts import PressureLevel
from memwarden.readers.factory import rss_function

if TYPE_CHECKING:
    from memwarden.protocols import Action

#: Without a number, a block may take so much of what is there when it begins.
SHARE = 0.8
#: What is left to the container and the machine: a part of the limit, in these bounds. Below it the kernel is about
#: to reclaim in earnest and then to kill.
RESERVE, LEAST_RESERVE, MOST_RESERVE = 1 / 32, 4 * MIB, 256 * MIB
#: The surroundings are looked at after so long, and whenever half of what they left was taken since.
SURROUNDINGS_SECONDS = 0.05
#: Whether pages are still shared is found out again so much later, and so many times later than that took.
RECOUNT_SECONDS, RECOUNT_TIMES = 0.25, 20
#: How long another thread's look is waited for.
PATIENCE_SECONDS = 0.1
#: Who says so, where it is the block's own budget.
_OWN = "this block"


def reserve_of(limit: int) -> int:
    """Bytes of a limit that a guarded block leaves alone."""
    return min(max(LEAST_RESERVE, int(limit * RESERVE)), MOST_RESERVE)


class Guard(Watched):
    """One block's budget; :func:`memory_guard` makes it, and ``with`` begins and ends it.

    For one block: a second ``with`` raises :class:`RuntimeError`. In a child after ``fork`` it does nothing: the
    child is counted by its parent's guard. ``measure``, ``here`` and ``monotonic`` are there for tests.
    """

    def __init__(
        self,
        limit: int | str | None = None,
        name: str = "",
        *,
        caches: Caches | None = None,
        measure: Callable[[], TreeUsage] = TreeUsage,
        here: GuardContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit is not None:
            parse_size(limit, of=1 << 62)  # what is wrong with it is said here, and not when the block begins
        self.name, self._asked = name, limit
        #: Bytes that the block may take; known when it begins.
        self.limit = 0
        #: The last things that were done to free memory, in order.
        self.steps: deque[str] = deque(maxlen=32)
        self._caches = reclaim.caches if caches is None else caches
        self._measure, self._monotonic = measure, monotonic
        self._here = here
        self._taken: TreeUsage | None = None
        self._lock = threading.Lock()  # over the measure; never held while memory is freed
        self._pid = 0
        self._peak = self._used = self._unshared_until = 0
        self._looked, self._looked_at, self._left = -math.inf, 0, 0
        self._recount_at = -math.inf
        self._freeing = False

    # --- the block ------------------------------------------------------------------------------------

    def __enter__(self) -> Guard:
        if self._pid:
            raise RuntimeError("a guard is for one block: make another with memory_guard()")
        self._pid = os.getpid()
        here = self._here = guard_context() if self._here is None else self._here
        self.limit = self._budget(here)
        self._taken = self._measure()
        try:
            here.overseer.join(self)
        except BaseException:  # an interrupt, too: nobody would end it
            self._end()
            raise
        return self

    def _budget(self, here: GuardContext) -> int:
        if self._asked is not None and not (isinstance(self._asked, str) and "%" in self._asked):
            return parse_size(self._asked)
        nearest, smallest = here.look()
        if nearest is None or smallest is None:
            raise SettingsError("memory_guard: nothing is known of this machine's memory; give it a limit in bytes")
        if self._asked is None:
            return max(1, int(nearest.headroom * SHARE))
        return parse_size(self._asked, of=smallest.limit.bytes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not self.active:
            return
        try:
            if error is None:  # else what went wrong is its own error
                self.check()
        finally:
            self._end()

    def _end(self) -> None:
        if self._here is not None:
            self._here.overseer.leave(self)
        held = self._lock.acquire(timeout=PATIENCE_SECONDS)
        taken, self._taken = self._taken, None
        if taken is not None:
            taken.close()
        if held:
            self._lock.release()

    @property
    def active(self) -> bool:
        """Whether the block is under way, and this is the process that it began in."""
        return self._taken is not None and self._pid == os.getpid()

    # --- what it shows --------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes that the block has taken by now, as an upper bound; what it was at the end when it is over."""
        return self.glance()

    @property
    def peak(self) -> int:
        """The most bytes that it was seen with."""
        return self._peak

    @property
    def left(self) -> int:
        """Bytes that it may still take."""
        return max(0, self.limit - self.used)

    # --- checking -------------------------------------------------------------------------------------

    def check(self) -> None:
        """A checkpoint: some microseconds where all is well.

        Over the budget, or where container and machine have nothing left but a reserve, memory is freed step by
        step; where that does not help :class:`LimitExceeded` is raised.
        """
        if not self.active or self._freeing:  # a cache that is cleared, or a finalizer, may come by here
            return
        short = self._short()
        if short is None:
            return
        self._freeing = True
        try:
            for action in self._remedies():
                outcome = action.run(reclaim.decision(action.name, PressureLevel.CRITICAL, f"guard {self.name}"))
                self.steps.append(outcome.message)
                short = self._short()
                if short is None:
                    return
        finally:
            self._freeing = False
        raise self._error(short)

    def _remedies(self) -> list[Action]:
        resident = rss_function()
        return [Collect(resident=resident, generation=2), Trim(resident=resident), self._caches]

    def _short(self) -> Constraint | None:
        """The constraint that is passed; None where there is none."""
        used = self.glance()
        now = self._monotonic()
        if used > self.limit and (used > self._unshared_until or now >= self._recount_at or self._freeing):
            exact = self._measured(lambda taken: taken.confirm(), used)
            if exact > self.limit:
                return Constraint(Limit(self.limit, _OWN), exact)
            # Shared pages made the difference: not asked again before what was left then was taken, or they may have
            # been written to, so that they are shared no more.
            self._unshared_until = used + (self.limit - exact)
            took = self._monotonic() - now
            self._recount_at = now + took + max(RECOUNT_SECONDS, RECOUNT_TIMES * took)
        fresh = now - self._looked < SURROUNDINGS_SECONDS and used - self._looked_at < self._left // 2
        if fresh and not self._freeing:
            return None
        assert self._here is not None
        nearest = self._here.look(quick=True)[0]
        if nearest is not None and nearest.headroom < reserve_of(nearest.limit.bytes):
            nearest = self._here.look()[0]
        self._looked, self._looked_at = now, used
        if nearest is None:
            return None
        reserve = reserve_of(nearest.limit.bytes)
        self._left = max(0, nearest.headroom - reserve)
        # A block that has taken next to nothing is not to blame.
        return nearest if nearest.headroom < reserve <= used else None

    def _error(self, short: Constraint) -> LimitExceeded:
        who = f"{self.name}: " if self.name else ""
        if short.limit.source == _OWN:
            what = f"{size_text(short.used)} taken, and this block may take {size_text(self.limit)}"
        else:
            what = (
                f"{short.limit.source} has {size_text(max(0, short.headroom))} left of {size_text(short.limit.bytes)},"
                f" and this block has taken {size_text(self._used)}"
            )
        done = f"; tried: {'; '.join(list(self.steps)[-3:])}" if self.steps else ""
        message = f"{who}{what}{done}. Take less at a time, or give it more"
        return LimitExceeded(message, limit=short.limit.bytes, used=short.used)

    # --- the overseer's side ---------------------------------------------------------------------------

    def glance(self) -> int:
        """See :class:`memwarden.guards.budget.guard_monitor.Watched`."""
        if not self.active:  # in a child somebody may hold the lock for ever
            return self._used
        self._used = self._measured(lambda taken: taken.look(), self._used)
        self._peak = max(self._peak, self._used)
        return self._used

    def _measured(self, figure: Callable[[TreeUsage], int], otherwise: int) -> int:
        # A signal handler or a finalizer may come by in the midst of a look on the same thread: it must not wait.
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):
            return otherwise
        try:
            return otherwise if self._taken is None else figure(self._taken)
        finally:
            self._lock.release()


def memory_guard(
    limit: int | str | None = None,
    name: str = "",
    *,
    caches: Caches | None = None,
) -> Guard:
    """A budget over a block: ``with memory_guard("1GiB") as monitor:``.

    ``limit`` is bytes, ``"1GiB"``, a share of the effective limit (``"50%"``), or by default 80 % of what may be taken
    when the block begins. Counted is what the block takes, with its children; when it began is zero.

    ``monitor.check()`` is a checkpoint, and so is the end of a block that raised nothing. There, over the budget or
    with nothing but a reserve left by container and machine, garbage is collected, the allocator trimmed and
    ``caches`` cleared (by default those registered in :data:`memwarden.guards.budget.reclaim.caches`); where that does not
    help :class:`LimitExceeded`, a ``MemoryError``, is raised.
    """
    return Guard(limit, name, caches=caches)
