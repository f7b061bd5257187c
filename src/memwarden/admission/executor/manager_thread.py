"""The manager thread of an executor: one event loop over workers, kernel events and wakeups.

It never waits for anything but its loop: results are set in one thread and footprints learned in another, and workers
are written to and read from without blocking.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from memwarden.admission.executor.batch_report import BatchReport, BatchStats
from memwarden.admission.executor.footprint_thread import FootprintThread
from memwarden.admission.executor.memory_control import MemoryControl
from memwarden.admission.executor.progress import ProgressCallback, progress_thread
from memwarden.admission.executor.reservations import ReservationClient
from memwarden.admission.executor.result_thread import ResultThread
from memwarden.admission.executor.task_queue import TaskQueue
from memwarden.admission.executor.task_scheduler import IDLE_SECONDS, Limits, TaskScheduler
from memwarden.admission.pool.event_loop import EventLoop
from memwarden.admission.pool.worker_pool import WorkerPool
from memwarden.errors import MemwardenError
from memwarden.model.log import warn
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.readers.linux.identity import ProcProbe

if TYPE_CHECKING:
    from memwarden.actions.gate import Gate
    from memwarden.admission.ledger.ledger import Ledger
    from memwarden.admission.pool.fork_server import ForkServer
    from memwarden.admission.pool.task import WorkItem
    from memwarden.contain.worker_cgroup import WorkerCgroup
    from memwarden.protocols import Predictor


class ExecutorManager:
    """Owns the workers of one executor. Its public methods may be called from any thread."""

    def __init__(
        self,
        limits: Limits,
        *,
        workers: int,
        ledger: Ledger,
        predictor: Predictor,
        owns_predictor: bool,
        cgroup: WorkerCgroup,
        spawner: ForkServer,
        gate: Gate,
        name: str,
        progress: bool | ProgressCallback = False,
    ) -> None:
        from concurrent.futures.process import BrokenProcessPool  # imports multiprocessing

        self._broken_error = BrokenProcessPool
        self._cgroup = cgroup
        self._submitted: deque[WorkItem] = deque()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._asleep = False
        self._closing = self._cancelling = self._killing = False
        #: The error of which each future and further call gets a copy; None while the executor works.
        self.broken: BaseException | None = None
        self._stats = BatchStats()
        self._queue = TaskQueue(predictor)
        self._loop = EventLoop()
        self._loop.register(self._wakeup, self._on_wakeup)
        if cgroup.event_fd >= 0:
            self._loop.register(cgroup.event_fd, lambda _: self._memory.on_limit_reached(time.monotonic()))
        self._pool = WorkerPool(spawner, self._loop, ProcProbe())
        self._reservations = ReservationClient(ledger, name, enforced=cgroup.event_fd >= 0)
        self._memory = MemoryControl(self._pool, self._reservations, cgroup, self._stats)
        self._results, self._footprints = ResultThread(), FootprintThread(predictor, owned=owns_predictor)
        self._scheduler = TaskScheduler(
            limits, workers, gate, self._queue, self._pool, self._reservations, self._memory, self._stats,
            self._results, self._footprints,
        )  # fmt: skip
        self._progress = progress_thread(progress, name, self.report)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memwarden-executor", daemon=True)
        self._pid = os.getpid()
        reset_after_fork(self)

    # --- from other threads -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads."""
        self._results.start()
        self._footprints.start()
        self._thread.start()
        if self._progress is not None:
            self._progress.start()

    @property
    def enforcement(self) -> str:
        """Enforcement of the budget between samples."""
        return self._cgroup.kind

    @property
    def max_workers(self) -> int:
        """Largest number of workers."""
        return self._scheduler.max_workers

    @max_workers.setter
    def max_workers(self, workers: int) -> None:
        self._scheduler.max_workers = workers
        self._wake(always=True)

    def submit(self, item: WorkItem) -> None:
        """Take an item."""
        self._stats.submitted += 1
        self._submitted.append(item)
        self._wake()
        if self.broken is not None:  # the thread may have ended meanwhile
            self._fail_submitted(self.broken)

    def _fail_submitted(self, error: BaseException) -> None:
        """Fail the items that were not taken; from any thread, and from several at once."""
        with contextlib.suppress(IndexError):
            while True:
                item = self._submitted.popleft()
                if item.future.set_running_or_notify_cancel():
                    item.future.set_exception(copy_error(error))

    def close(self, *, cancel: bool = False, kill: bool = False) -> None:
        """End when all is done. ``cancel``: cancel the tasks that have not started; ``kill``: kill those that have."""
        self._cancelling = self._cancelling or cancel
        self._killing = self._killing or kill
        self._closing = True
        self._wake(always=True)

    def join(self) -> None:
        """Wait until the manager has ended; nothing in its own threads, and where it never started."""
        own = (self._thread, self._results.thread)
        if self._pid != os.getpid() or threading.current_thread() in own or self._thread.ident is None:
            return
        # An interrupted join() takes the thread for ended in Python 3.11: the next one would not wait.
        self._ended.wait()
        self._thread.join()

    def report(self) -> BatchReport:
        """Return the report until now."""
        budget, kills = self._reservations.budget, self._memory.kernel_kills
        return self._stats.report(budget, self._cgroup.kind, self.max_workers, kills)

    def after_fork(self) -> None:
        """In a child: neither threads nor workers are its own. Its copies of the connections are closed, so that the
        workers notice the end of the parent."""
        if self.broken is None:
            self.broken = self._broken_error("this executor belongs to the process that this one was forked from")
        with contextlib.suppress(OSError):
            os.close(self._wakeup)
        self._wakeup = -1
        self._pool.close_connections()

    def _wake(self, *, always: bool = False) -> None:
        if (self._asleep or always) and self._wakeup >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(self._wakeup, 1)

    # --- the manager thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            while not self._is_done():
                self._run_once()
        except BaseException as error:  # noqa: BLE001 - no future may wait for ever
            failure = error
            warn("executor: failed: %s: %s", type(error).__name__, error)
        finally:
            try:
                self._shut_down(failure)
            finally:
                self._ended.set()

    def _run_once(self) -> None:
        timeout = self._timeout()
        self._asleep = True
        if self._submitted or (self._closing and timeout is None):
            timeout = 0.0
        try:
            ready = self._loop.run_once(timeout)
        finally:
            self._asleep = False
        if timeout == IDLE_SECONDS and not ready:
            self._reservations.shrink_idle(self._pool)
        while self._submitted:
            self._queue.add(self._submitted.popleft())
        if self._cancelling:
            self._scheduler.cancel_pending()
        if self._killing:
            self._scheduler.kill_all()
        self._scheduler.tick()
        self._results.flush()
        if self._scheduler.broken is not None and self.broken is None:
            self.broken = self._broken(*self._scheduler.broken)

    def _timeout(self) -> float | None:
        if not self._queue and not self._pool.working:
            if self._closing:
                return 0.0
            return IDLE_SECONDS if self._pool.overreserved else None
        return max(0.0, self._memory.next_sample - time.monotonic())

    def _is_done(self) -> bool:
        if self.broken is not None:
            return True
        return self._closing and not self._submitted and not self._queue and not self._pool.working

    def _on_wakeup(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wakeup)

    def _broken(self, reason: str, pickled: bytes | None) -> BaseException:
        error = self._broken_error(reason)
        if pickled is not None:
            with contextlib.suppress(Exception):
                cause, lines = pickle.loads(pickled)
                error = self._broken_error(f"{reason}: {lines.strip().splitlines()[-1]}")
                error.__cause__ = pickle.loads(cause)
        return error

    def _shut_down(self, failure: BaseException | None) -> None:
        """Stop the workers and threads, and fail the futures that are left."""
        with contextlib.suppress(MemwardenError):
            self._reservations.withdraw()
        if failure is not None and self.broken is None:
            self.broken = self._broken_error(f"the executor failed: {type(failure).__name__}: {failure}")
            self.broken.__cause__ = failure
        self._pool.on_message, self._pool.on_exit = lambda *_: None, lambda *_: None
        if self.broken is not None:
            self._fail_submitted(self.broken)
            for item in [*(handle.run.item for handle in self._pool if handle.run is not None), *self._queue]:
                if item.running or item.future.set_running_or_notify_cancel():
                    self._results.put_error(item.future, copy_error(self.broken))
        self._pool.close(kill=self.broken is not None)
        self._loop.close()
        self._results.stop()
        if self._progress is not None:
            self._progress.stop()
        self._footprints.stop()
        self._cgroup.close()
        if self._wakeup >= 0:
            os.close(self._wakeup)
            self._wakeup = -1


def copy_error(error: BaseException) -> BaseException:
    """Return an equal exception: each ``raise`` adds its traceback to the object."""
    copied = type(error)(*error.args)
    copied.__cause__ = error.__cause__
    return copied
