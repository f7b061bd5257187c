"""Start of tasks on workers, and the outcome of each attempt."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from memwarden.admission.executor import leasing
from memwarden.admission.executor.failures import Attempts, Cause, Verdict, WorkerExit, classify_error, classify_exit
from memwarden.admission.executor.footprint_thread import CompletedTask
from memwarden.admission.pool.connection import NOT_STARTED, READY, RESULT
from memwarden.admission.pool.task import RunningTask
from memwarden.errors import TaskTooLarge, WorkerLost
from memwarden.model.units import MIB, size_text

if TYPE_CHECKING:
    from memwarden.actions.gate import Gate
    from memwarden.admission.executor.batch_report import BatchStats
    from memwarden.admission.executor.footprint_thread import FootprintThread
    from memwarden.admission.executor.memory_control import MemoryControl
    from memwarden.admission.executor.reservations import ReservationClient
    from memwarden.admission.executor.result_thread import ResultThread
    from memwarden.admission.executor.task_queue import TaskQueue
    from memwarden.admission.pool.connection import ResultItem
    from memwarden.admission.pool.task import WorkItem
    from memwarden.admission.pool.worker_handle import WorkerHandle
    from memwarden.admission.pool.worker_pool import WorkerPool
    from memwarden.model.footprints import TaskOutcome

#: An idle worker keeps its reservation for so long while nothing is pending: the next task may come at once.
IDLE_SECONDS = 0.05
#: A shorter task with a smaller peak does not need a sample at its end.
SHORT_SECONDS = 0.02
#: A worker that keeps so much more after a task than after its first one is replaced; and it returns freed memory to
#: the system when it uses more than that.
KEPT, TRIM = 64 * MIB, 8 * MIB


def _matches(reserved: int, size: int) -> bool:
    """Return whether a reservation is large enough for a task, and not much larger."""
    return size <= reserved <= size + MIB + size // 4


class Limits(NamedTuple):
    """Options of an executor."""

    attempts: int
    tasks_per_child: int | None


class TaskScheduler:
    """Gives pending tasks to workers and handles what the workers report. Used by the manager thread alone."""

    def __init__(
        self,
        limits: Limits,
        workers: int,
        gate: Gate,
        queue: TaskQueue,
        pool: WorkerPool,
        reservations: ReservationClient,
        memory: MemoryControl,
        stats: BatchStats,
        results: ResultThread,
        footprints: FootprintThread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._gate, self._queue, self._pool = limits, gate, queue, pool
        self._reservations, self._memory, self._stats = reservations, memory, stats
        self._results, self._footprints = results, footprints
        self.max_workers = workers
        #: All tasks are killed.
        self.stopping = False
        #: Reason for which the executor cannot continue, and the worker's pickled error behind it.
        self.broken: tuple[str, bytes | None] | None = None
        self._failed_starts = 0
        self._mean_seconds = 1.0
        self._clock = clock
        pool.on_message, pool.on_exit = self.on_message, self.on_exit

    # --- start ------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Stop workers that are too many, sample when that is due, and start what fits."""
        now = self._clock()
        if (surplus := self._pool.staying - self.max_workers) > 0:
            for handle in self._pool.idle[:surplus]:
                self._retire(handle)
        if now >= self._memory.next_sample:
            self._memory.sample(now, len(self._queue))
        if self._queue and not self._gate.closed and self.broken is None:
            self._start_pending(now)

    def _start_pending(self, now: float) -> None:
        self._memory.refresh_budget(now)
        while self._queue:
            idle = self._pool.idle
            if not idle and self._pool.staying >= self.max_workers:
                return
            self._reservations.check(now)
            first = self._queue.first
            item = first if self._reservations.granted or self._fits_idle(first, idle) else self._choose(idle, now)
            if item is not None and not self.set_running(item):
                continue
            if item is None or not self._start(item, idle, now):
                if self._queue:
                    self._reservations.enqueue(self._queue.first, now)
                return

    def set_running(self, item: WorkItem) -> bool:
        """Set the future to running; False for a cancelled one, which is removed."""
        if not item.running:
            if not item.future.set_running_or_notify_cancel():
                self._queue.remove(item)
                self._stats.cancelled += 1
                return False
            item.running = True
        return True

    def _fits_idle(self, item: WorkItem, idle: list[WorkerHandle]) -> bool:
        """Return whether an idle worker has the reservation that an item needs: the case of many equal tasks."""
        runs = [handle.run for handle in self._pool if handle.run is not None]
        if not idle or item.future.cancelled() or any(run.paused or run.item.exclusive for run in runs):
            return False
        self._queue.estimate(item, self._reservations.alone, self._clock())
        return not item.exclusive and any(_matches(handle.reserved, item.reserve) for handle in idle)

    def _choose(self, idle: list[WorkerHandle], now: float) -> WorkItem | None:
        if any(handle.run is not None and handle.run.item.exclusive for handle in self._pool):
            return None
        # Idle workers return what they reserve and do not use; and a peak includes the little that its worker keeps.
        kept = [self._reservations.kept(handle) for handle in idle]
        returned = sum(max(0, handle.held - keep) for handle, keep in zip(idle, kept, strict=True))
        free = self._reservations.budget - self._pool.held + returned + min(MIB, max(kept, default=0))
        free -= max(0, leasing.set_aside(handle.run for handle in self._pool if handle.run is not None))
        busy, patience = self._pool.working, leasing.patience(self._mean_seconds)
        item = self._queue.choose(free, self._reservations.alone, now, patience, busy=busy)
        if item is None and idle and not busy:
            self._retire_largest(idle, free + sum(kept), now)
        return item

    def _retire_largest(self, idle: list[WorkerHandle], free: int, now: float) -> None:
        """Nothing runs and nothing fits: stop the worker that uses most, where that may help.

        Its memory may be what the first pending task lacks, or a task in another program that waits for ours.
        """
        item = self._queue.first
        largest = max(idle, key=lambda handle: handle.used)
        waited = item.blocked_since is not None and now - item.blocked_since >= IDLE_SECONDS
        if largest.used > MIB or item.reserve <= free or waited:
            self._retire(largest)

    def _start(self, item: WorkItem, idle: list[WorkerHandle], now: float) -> bool:
        """Give an item a worker and its memory; False where it must wait."""
        if idle:
            handle = min(idle, key=lambda each: abs(each.reserved - item.reserve))
        else:
            try:
                handle = self._pool.unready or self._pool.spawn()
            except OSError as error:
                if not len(self._pool):
                    self.broken = f"no worker could be started: {error}", None
                return False
        first = item is self._queue.first
        if first and self._reservations.granted:
            self._reservations.transfer(handle)
        size = item.reserve
        if not _matches(handle.reserved, size):
            self._reservations.shrink_idle(each for each in idle if each is not handle)
            if item.exclusive:
                size = min(size, self._reservations.budget - self._pool.held + handle.held)
            if not self._reservations.lease(handle, size):
                self._memory.expire_budget()
                return False
        if first:
            self._reservations.withdraw()
        self._queue.remove(item)
        try:
            payload = pickle.dumps((item.fn, item.args, item.kwargs), protocol=pickle.HIGHEST_PROTOCOL)
        except BaseException as error:  # noqa: BLE001 - any __reduce__ may run; the future raises it
            self._fail(item, error)
            return True
        handle.run = RunningTask(item, handle.reserved, now)
        item.sent_at = now
        self._pool.send(handle, item.number, payload)
        self._stats.start(now)
        return True

    def _retire(self, handle: WorkerHandle) -> None:
        handle.stop()
        self._stats.retired += 1

    # --- outcome ----------------------------------------------------------------------------------------

    def on_message(self, handle: WorkerHandle, message: ResultItem) -> None:
        """Handle a worker's message."""
        if message.kind == READY:
            self._failed_starts = 0
            self._reservations.assign(handle)
            if handle.run is not None:
                handle.run.restart(self._clock())
        elif message.kind == NOT_STARTED:
            handle.leaving = True
            self.broken = "a worker could not start; its initializer failed", message.payload
        elif handle.run is None or handle.run.item.number != message.number:
            handle.kill("its worker sent a result of another task")
        else:
            self._finish(handle, handle.run, message)

    def _finish(self, handle: WorkerHandle, run: RunningTask, message: ResultItem) -> None:
        """Handle the result of a task."""
        item, now = run.item, self._clock()
        peak = handle.finish(message)
        self._memory.progress_at = now
        self._stats.run_seconds += message.seconds
        self._mean_seconds += (message.seconds - self._mean_seconds) / min(32, self._stats.finished + 1)
        if message.kind == RESULT:
            self._stats.finished += 1
            self._results.put_result(item.future, message.payload)
        else:
            self._retry_or_raise(run, message, peak)
        self._learn(item, peak, message.seconds, "finished" if message.kind == RESULT else "killed_at")
        if message.seconds >= SHORT_SECONDS or peak > TRIM:
            handle.sample()
        if handle.baseline is None:
            handle.baseline = handle.used
        worn = self._limits.tasks_per_child is not None and handle.tasks_done >= self._limits.tasks_per_child
        # Workers that are leaving do not count: one may hang at its exit.
        if worn or handle.used > handle.baseline + KEPT or self._pool.staying > self.max_workers:
            self._retire(handle)
        elif item.exclusive or self._reservations.contended(now):
            self._reservations.shrink_idle([handle])

    def _retry_or_raise(self, run: RunningTask, message: ResultItem, peak: int) -> None:
        item = run.item
        self._memory.check_refused(self._clock())
        attempts = Attempts(item.attempts + 1, self._limits.attempts, item.exclusive)
        # Since it was sent: it may have failed before its worker reported anything.
        verdict = classify_error(
            message.kind,
            attempts,
            refused=self._memory.refused_at >= item.sent_at,
            full=self._memory.enforced and self._memory.full_at >= item.sent_at,
            program_failed_before=item.program_failed,
        )
        if verdict.retry:
            item.program_failed = item.program_failed or verdict.cause is Cause.PROGRAM
            self._record_failure(run, verdict, attempts, peak)
        else:
            self._stats.failed += 1
            self._results.put_error(item.future, message.payload)

    def on_exit(self, handle: WorkerHandle, code: int | None) -> None:
        """Handle the end of a worker, which was reaped."""
        self._memory.progress_at = now = self._clock()
        run = handle.run
        if self.broken is not None:
            if run is not None:
                self._queue.requeue(run.item)  # its future gets the reason with all others
            return
        if not handle.ready and not handle.leaving:
            self._failed_starts += 1
            if self._failed_starts >= self._limits.attempts:
                self.broken = f"{self._failed_starts} workers in a row ended before they were ready", None
        if run is None:
            return
        item, peak = run.item, run.peak
        attempts = Attempts(item.attempts + handle.ready, self._limits.attempts, item.exclusive)
        kernel_kill, limit = self._memory.new_kernel_kills(), self._reservations.alone
        end = WorkerExit(code, handle.ready, handle.killed_for, handle.killed_for_memory, kernel_kill, peak, limit)
        verdict = classify_exit(end, attempts, stopping=self.stopping)
        if verdict.cause is Cause.NOT_READY:
            self._queue.requeue(item)
            return
        if verdict.for_memory:
            self._learn(item, peak, now - run.started, "killed_at")
        self._record_failure(run, verdict, attempts, peak)
        if not verdict.retry:
            self._fail(item, self._error(item, verdict, attempts, code, peak))

    def _record_failure(self, run: RunningTask, verdict: Verdict, attempts: Attempts, peak: int) -> None:
        """Record a failed attempt, and requeue the task where it gets another."""
        item = run.item
        item.attempts, item.exclusive = attempts.made, verdict.exclusive
        if verdict.for_memory:
            item.peak = max(item.peak, peak)
        self._stats.record_incident(self._clock(), item, peak, run.lease, verdict.reason, retried=verdict.retry)
        if verdict.retry:
            self._queue.requeue(item)

    def _error(self, item: WorkItem, verdict: Verdict, attempts: Attempts, code: int | None, peak: int) -> Exception:
        """Return the error of a task that is not retried after the end of its worker."""
        limit = self._reservations.alone
        if verdict.cause is not Cause.TOO_LARGE:
            after = f" after {attempts.made} attempts" if attempts.made > 1 else ""
            return WorkerLost(f"{item.label}: {verdict.reason}{after}. Other tasks continue", code=code)
        prediction = item.prediction
        predicted = prediction.reserve if prediction is not None else item.requested
        return TaskTooLarge(
            f"{item.label}: exceeded the budget of {size_text(limit)} while running exclusively"
            f" (peak {size_text(peak)}, predicted {size_text(predicted)}, {attempts.made} attempts);"
            " raise budget= or split the input",
            predicted=predicted,
            used=max(peak, item.peak),
            limit=limit,
            attempts=attempts.made,
        )

    def _learn(self, item: WorkItem, peak: int, seconds: float, outcome: TaskOutcome) -> None:
        self._footprints.put(CompletedTask(item.kind, item.size, peak, max(0.0, seconds), outcome))

    def _fail(self, item: WorkItem, error: BaseException) -> None:
        self._stats.failed += 1
        self._results.put_error(item.future, error)

    # --- end --------------------------------------------------------------------------------------------

    def cancel_pending(self) -> None:
        """Cancel all tasks that have not started."""
        for item in self._queue:
            if item.future.cancel():
                self.set_running(item)

    def kill_all(self) -> None:
        """Kill all tasks, and fail those that were to be retried."""
        self.stopping = True
        for item in self._queue:
            self._queue.remove(item)
            self._fail(item, WorkerLost(f"{item.label}: the executor was shut down before it had finished", code=None))
        for handle in self._pool:
            if handle.run is not None and handle.ready and not handle.leaving:
                handle.kill("the executor was shut down")
