"""``memory_guard``: a memory budget for a block, child processes included.

At each :meth:`Guard.check` and at the end of the block its use (:mod:`memwarden.guards.budget.tree_usage`) is compared
with its budget, and the headroom of container and machine with a reserve. Over either, memory is freed step by step,
with a measurement after each; then :class:`LimitExceeded` is raised in the block's own thread.
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
from memwarden.guards.budget.guard_monitor import GuardContext, Monitored, guard_context
from memwarden.guards.budget.tree_usage import TreeUsage
from memwarden.model.limits import Constraint, Limit
from memwarden.model.units import MIB, parse_size, size_text
from memwarden.model.verdicts import PressureLevel
from memwarden.readers.factory import rss_function

if TYPE_CHECKING:
    from memwarden.protocols import Action

#: Default budget, as a share of the headroom when the block starts.
SHARE = 0.8
#: Reserve left to container and machine: a share of the limit, within these bounds. Below it the kernel is about to
#: reclaim in earnest and then to kill.
RESERVE, LEAST_RESERVE, MOST_RESERVE = 1 / 32, 4 * MIB, 256 * MIB
#: The headroom is read again after so long, or when half of it was taken since.
HEADROOM_SECONDS = 0.05
#: Shared pages are counted again so much later, and so many times the duration of the last count later.
RECOUNT_SECONDS, RECOUNT_TIMES = 0.25, 20
#: Seconds to wait for another thread's measurement.
PATIENCE_SECONDS = 0.1
#: Source of a limit that is the block's own budget.
_OWN = "this block"


def reserve_of(limit: int) -> int:
    """Return the bytes of a limit that a guarded block leaves free."""
    return min(max(LEAST_RESERVE, int(limit * RESERVE)), MOST_RESERVE)


class Guard(Monitored):
    """Budget of one block; made by :func:`memory_guard`, used with ``with``.

    For one block: a second ``with`` raises :class:`RuntimeError`. In a child after ``fork`` it does nothing: the
    parent's guard counts the child. ``tree_usage``, ``context`` and ``monotonic`` are there for tests.
    """

    def __init__(
        self,
        limit: int | str | None = None,
        name: str = "",
        *,
        caches: Caches | None = None,
        tree_usage: Callable[[], TreeUsage] = TreeUsage,
        context: GuardContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit is not None:
            parse_size(limit, of=1 << 62)  # refuse a malformed limit here, not when the block starts
        self.name, self._asked = name, limit
        #: Bytes that the block may take; known when it starts.
        self.limit = 0
        #: The last things done to free memory, in order.
        self.steps: deque[str] = deque(maxlen=32)
        self._caches = reclaim.caches if caches is None else caches
        self._make_usage, self._monotonic = tree_usage, monotonic
        self._context = context
        self._usage: TreeUsage | None = None
        self._lock = threading.Lock()  # over the measurement; never held while memory is freed
        self._pid = 0
        self._peak = self._used = self._unshared_until = 0
        self._read_at, self._used_then, self._headroom = -math.inf, 0, 0
        self._recount_at = -math.inf
        self._freeing = False

    # --- the block ------------------------------------------------------------------------------------

    def __enter__(self) -> Guard:
        if self._pid:
            raise RuntimeError("a guard is for one block: make another with memory_guard()")
        self._pid = os.getpid()
        context = self._context = guard_context() if self._context is None else self._context
        self.limit = self._budget(context)
        self._usage = self._make_usage()
        try:
            context.monitor.add(self)
        except BaseException:  # also an interrupt: no __exit__ follows
            self._stop()
            raise
        return self

    def _budget(self, context: GuardContext) -> int:
        if self._asked is not None and not (isinstance(self._asked, str) and "%" in self._asked):
            return parse_size(self._asked)
        nearest, smallest = context.headroom()
        if nearest is None or smallest is None:
            raise SettingsError("memory_guard: the memory of this machine cannot be read; give a limit in bytes")
        if self._asked is None:
            return max(1, int(nearest.headroom * SHARE))
        return parse_size(self._asked, of=smallest.limit.bytes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not self.active:
            return
        try:
            if error is None:  # else the block's own error is raised
                self.check()
        finally:
            self._stop()

    def _stop(self) -> None:
        if self._context is not None:
            self._context.monitor.remove(self)
        locked = self._lock.acquire(timeout=PATIENCE_SECONDS)
        usage, self._usage = self._usage, None
        if usage is not None:
            usage.close()
        if locked:
            self._lock.release()

    @property
    def active(self) -> bool:
        """True while the block runs, in the process that started it."""
        return self._usage is not None and self._pid == os.getpid()

    # --- figures ----------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes that the block takes now, as an upper bound; after the block, those at its end."""
        return self.measure()

    @property
    def peak(self) -> int:
        """Highest measured use, in bytes."""
        return self._peak

    @property
    def left(self) -> int:
        """Bytes that the block may still take."""
        return max(0, self.limit - self.used)

    def measure(self) -> int:
        """Measure the use now; see :class:`memwarden.guards.budget.guard_monitor.Monitored`."""
        if not self.active:  # in a child the lock may be held for ever
            return self._used
        self._used = self._with_usage(lambda usage: usage.measure(), self._used)
        self._peak = max(self._peak, self._used)
        return self._used

    def _with_usage(self, figure: Callable[[TreeUsage], int], otherwise: int) -> int:
        # A signal handler or finalizer may interrupt a measurement on the same thread: it must not wait for ever.
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):
            return otherwise
        try:
            return otherwise if self._usage is None else figure(self._usage)
        finally:
            self._lock.release()

    # --- checking -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the use with the budget: some microseconds where it fits.

        Over the budget, or where container and machine have only a reserve left, memory is freed step by step; if
        that is not enough :class:`LimitExceeded` is raised.
        """
        if not self.active or self._freeing:  # called from a cache that is cleared, or a finalizer
            return
        exceeded = self._exceeded()
        if exceeded is None:
            return
        self._freeing = True
        try:
            for action in self._actions():
                outcome = action.run(reclaim.decision(action.name, PressureLevel.CRITICAL, f"guard {self.name}"))
                self.steps.append(outcome.message)
                exceeded = self._exceeded()
                if exceeded is None:
                    return
        finally:
            self._freeing = False
        raise self._error(exceeded)

    def _actions(self) -> list[Action]:
        resident = rss_function()
        return [Collect(resident=resident, generation=2), Trim(resident=resident), self._caches]

    def _exceeded(self) -> Constraint | None:
        """Return the limit that is exceeded; None where there is none."""
        used = self.measure()
        now = self._monotonic()
        if used > self.limit and (used > self._unshared_until or now >= self._recount_at or self._freeing):
            exact = self._with_usage(lambda usage: usage.confirm(), used)
            if exact > self.limit:
                return Constraint(Limit(self.limit, _OWN), exact)
            # The difference is shared pages. Count again when the rest of the budget was taken, or after a while,
            # because a page that is written to is no longer shared.
            self._unshared_until = used + (self.limit - exact)
            took = self._monotonic() - now
            self._recount_at = now + took + max(RECOUNT_SECONDS, RECOUNT_TIMES * took)
        fresh = now - self._read_at < HEADROOM_SECONDS and used - self._used_then < self._headroom // 2
        if fresh and not self._freeing:
            return None
        assert self._context is not None
        nearest = self._context.headroom(quick=True)[0]
        if nearest is not None and nearest.headroom < reserve_of(nearest.limit.bytes):
            nearest = self._context.headroom()[0]
        self._read_at, self._used_then = now, used
        if nearest is None:
            return None
        reserve = reserve_of(nearest.limit.bytes)
        self._headroom = max(0, nearest.headroom - reserve)
        # A block that has taken less than the reserve is not the cause.
        return nearest if nearest.headroom < reserve <= used else None

    def _error(self, exceeded: Constraint) -> LimitExceeded:
        name = f"{self.name}: " if self.name else ""
        if exceeded.limit.source == _OWN:
            what = f"took {size_text(exceeded.used)}, over its budget of {size_text(self.limit)}"
        else:
            what = (
                f"{exceeded.limit.source} has {size_text(max(0, exceeded.headroom))} left of"
                f" {size_text(exceeded.limit.bytes)}, and this block took {size_text(self._used)}"
            )
        done = f"; tried: {'; '.join(list(self.steps)[-3:])}" if self.steps else ""
        message = f"{name}{what}{done}. Process less at a time, or raise the limit"
        return LimitExceeded(message, limit=exceeded.limit.bytes, used=exceeded.used)


def memory_guard(
    limit: int | str | None = None,
    name: str = "",
    *,
    caches: Caches | None = None,
) -> Guard:
    """Give a block a memory budget: ``with memory_guard("1GiB") as guard:``.

    ``limit`` is bytes, ``"1GiB"``, a share of the effective limit (``"50%"``), or by default 80 % of the headroom when
    the block starts. It bounds what the block takes from its start on, child processes included.

    ``guard.check()`` is a checkpoint, and so is the end of a block that raised nothing. Over the budget, or where
    container and machine have only a reserve left, it collects garbage, trims the allocator and clears ``caches`` (by
    default :data:`memwarden.guards.budget.reclaim.caches`); if that is not enough it raises :class:`LimitExceeded`, a
    ``MemoryError``.
    """
    return Guard(limit, name, caches=caches)
