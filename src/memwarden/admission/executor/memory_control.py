"""Sampling of the workers' memory, and what follows: larger leases, pauses and kills."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memwarden.admission.executor import leasing
from memwarden.admission.executor.leasing import Directive, DirectiveKind
from memwarden.model.log import debug
from memwarden.model.units import MIB, size_text

if TYPE_CHECKING:
    from memwarden.admission.executor.batch_report import BatchStats
    from memwarden.admission.executor.reservations import ReservationClient
    from memwarden.admission.pool.worker_handle import WorkerHandle
    from memwarden.admission.pool.worker_pool import WorkerPool
    from memwarden.contain.worker_cgroup import WorkerCgroup

#: Seconds between samples: with a group of the kernel's, without one, and without one while a task grows.
ENFORCED_SECONDS, POLLED_SECONDS, GROWING_SECONDS = 0.02, 0.01, 0.002
#: Seconds between readings of the budget.
BUDGET_SECONDS = 0.1
#: A task is killed when the kernel blocks all running tasks for so long, or some of them while no task ends; and when
#: more than the budget is used for so long.
ALL_BLOCKED_SECONDS, SOME_BLOCKED_SECONDS, OVER_BUDGET_SECONDS = 0.06, 5.0, 1.0
#: The kernel's limit follows the budget in steps of this size; and it is larger, for page tables and stacks.
_LIMIT_STEP, KERNEL_HEADROOM = 2 * MIB, 8 * MIB
_UNLIMITED = 1 << 62


class MemoryControl:
    """Keeps the running tasks within the budget. Used by the manager thread alone."""

    def __init__(
        self, pool: WorkerPool, reservations: ReservationClient, cgroup: WorkerCgroup, stats: BatchStats
    ) -> None:
        self._pool, self._reservations, self._cgroup, self._stats = pool, reservations, cgroup, stats
        #: Whether the kernel enforces a limit beside the sampling.
        self.enforced = cgroup.event_fd >= 0
        self.next_sample = self._next_budget = 0.0
        self._limit = 0
        self._blocked_since: float | None = None
        self._over_since: float | None = None
        #: When a task ended last, when a system call may have found no memory, and when the budget was used up.
        self.progress_at = self.refused_at = self.full_at = 0.0
        self.kernel_kills = 0

    def on_limit_reached(self, now: float) -> None:
        """Handle the kernel's event: the limit was reached."""
        self.next_sample = 0.0
        if self._cgroup.stuck():
            self._blocked_since = self._blocked_since or now

    def check_refused(self, now: float) -> None:
        """Remember whether the kernel may have failed system calls of the workers since the last check."""
        if self._cgroup.refused():
            self.refused_at = now

    def new_kernel_kills(self) -> bool:
        """Return whether the kernel has killed in the group since the last call."""
        before, self.kernel_kills = self.kernel_kills, max(self.kernel_kills, self._cgroup.kernel_kills())
        return self.kernel_kills > before

    def refresh_budget(self, now: float) -> None:
        """Read the budget when that is due, and set the kernel's limit."""
        if self._reservations.budget and now < self._next_budget:
            return
        self._next_budget = now + BUDGET_SECONDS
        self._reservations.refresh(self._pool.held)
        if abs(self._reservations.budget - self._limit) >= _LIMIT_STEP:
            self._limit = self._reservations.budget
            self._cgroup.set_limit(max(self._limit, MIB) + KERNEL_HEADROOM)

    def expire_budget(self) -> None:
        """Read the budget in the next sample."""
        self._next_budget = 0.0

    def sample(self, now: float, pending: int) -> None:
        """Sample all workers and apply what `leasing` decides."""
        self.check_refused(now)
        for handle in self._pool:
            # Idle workers return memory, and killed ones do before they are reaped: old figures would count twice.
            handle.sample()
            if handle.main_thread_ended and not handle.dying:
                handle.kill("its main thread ended, which runs the tasks")
        running = self._pool.running
        for handle in running:
            if handle.run is not None and not handle.run.paused:
                handle.run.update(handle.used, now)
        self._reservations.shrink_idle(self._pool)  # running and pending tasks may need it
        self.refresh_budget(now)
        handles = {id(handle.run): handle for handle in running}
        runs = [handle.run for handle in running if handle.run is not None]
        if runs:
            stuck = self._is_stuck(now, running)
            free = self._reservations.budget - self._pool.held
            for directive in leasing.schedule(runs, free, now, grace=self._grace(now), stuck=stuck):
                self._apply(directive, handles[id(directive.run)], now)
        budget, used = self._reservations.budget, self._pool.used
        if used >= leasing.FULL * budget and self.enforced:
            self.full_at = now
        held = sum(handle.held for handle in running)
        self._stats.record_point(now, len(runs), sum(run.paused for run in runs), pending, held, used, budget)
        interval = ENFORCED_SECONDS if self.enforced else POLLED_SECONDS
        if not self.enforced and any(run.rate > 0 and not run.paused and now - run.grew_at < 0.1 for run in runs):
            interval = GROWING_SECONDS
        self.next_sample = now + interval

    def _grace(self, now: float) -> int:
        """Return by how much the use may exceed the budget before a task is killed.

        Without a limit of the kernel's, by the margin. With one it cannot exceed it by much, except after the budget
        was lowered: then by the kernel's headroom, after a while.
        """
        if not self.enforced:
            return self._reservations.margin
        if self._pool.used <= self._reservations.budget + KERNEL_HEADROOM:
            self._over_since = None
            return _UNLIMITED
        self._over_since = self._over_since or now
        return KERNEL_HEADROOM if now - self._over_since >= OVER_BUDGET_SECONDS else _UNLIMITED

    def _is_stuck(self, now: float, running: list[WorkerHandle]) -> bool:
        """Return whether a task must be killed because the kernel blocks all running tasks, or some for very long."""
        if self._blocked_since is None or not self._cgroup.stuck():
            self._blocked_since = None
            return False
        unpaused = [handle for handle in running if handle.run is not None and not handle.run.paused]
        patience = ALL_BLOCKED_SECONDS if all(each.waits_in_kernel() for each in unpaused) else SOME_BLOCKED_SECONDS
        if now - max(self._blocked_since, self.progress_at) < patience:
            return False
        self.progress_at = now
        return True

    def _apply(self, directive: Directive, handle: WorkerHandle, now: float) -> None:
        run = directive.run
        if directive.kind is DirectiveKind.KILL:
            if self._pool.dying:
                return  # what that one frees may be enough
            self._stats.kills += 1
            debug("executor: task %d is killed with %s: %s", run.item.number, size_text(run.used), directive.reason)
            handle.kill(directive.reason, for_memory=True)
        elif directive.kind is DirectiveKind.PAUSE:
            self._stats.pauses += 1
            handle.pause()
        else:
            granted = self._reservations.lease(handle, directive.lease, in_turn=False)
            if not granted:
                run.lease = handle.reserved
            if directive.kind is DirectiveKind.RESUME:
                run.paused = not granted
                if granted:
                    handle.resume()
                    run.grew_at = now
