"""The thread behind an executor: it admits tasks, watches the workers, and keeps them within the budget.

It never waits for anything but its own poll: results go to their futures in one thread and are learned from in
another, workers are written to and read from as far as goes at once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from memwarden.admission.executor import scheduler
from memwarden.admission.executor.batch_report import BatchReport, BatchStats
from memwarden.admission.executor.footprint_thread import CompletedTask, FootprintThread
from memwarden.admission.executor.progress import ProgressCallback, progress_thread
from memwarden.admission.executor.reservations import ReservationClient
from memwarden.admission.executor.result_thread import ResultThread
from memwarden.admission.executor.scheduler import Directive, DirectiveKind, PendingTask, RunningTask
from memwarden.admission.executor.task_queue import TaskQueue
from memwarden.admission.pool.connection import PROGRAM, READY, REFUSED, RESULT, UNFIT, Answer
from memwarden.admission.pool.worker_handle import Task, WorkerHandle
from memwarden.admission.pool.worker_pool import WorkerPool
from memwarden.errors import MemwardenError, TaskTooLarge, WorkerLost
from memwarden.model.log import debug, warn
from memwarden.model.units import MIB, size_text
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.readers.linux.identity import ProcProbe

if TYPE_CHECKING:
    from memwarden.actions.gate import Gate
    from memwarden.admission.ledger.ledger import Ledger
    from memwarden.admission.pool.fork_server import Spawner
    from memwarden.contain.worker_cgroup import WorkerCgroup
    from memwarden.protocols import IdentityProbe, Predictor

#: The workers are looked at so often: with a kernel that holds them, and without, where what grows is looked at more.
HELD_SECONDS, POLLED_SECONDS, GROWING_SECONDS = 0.02, 0.01, 0.002
#: The ledger is asked for what others do so often.
ACCOUNT_SECONDS = 0.1
#: One is ended to make room when all who run are held by the kernel for so long, or some of them for so long without
#: that any task ends meanwhile; and more than there is may be used for so long.
HELD_STILL_SECONDS, STUCK_SECONDS, LASTING_SECONDS = 0.06, 5.0, 1.0
#: The kernel's limit is moved when the budget has changed by so much; beyond the budget it leaves room for what the
#: kernel itself needs for the workers (page tables, stacks).
_MOVED, KERNEL_ROOM = 2 * MIB, 8 * MIB
#: Idle workers keep their leases for so long when nothing waits: the next task may be there at once.
LINGER_SECONDS = 0.05
#: Tasks that take no longer than that are handed to a worker before it has ended the one before, so many seconds ahead.
SHORT_SECONDS, MOST_AHEAD = 0.02, 16
#: Where such a task takes so many times as long after all, those behind it go to others.
LONGER = 3
#: A worker that keeps so much more after a task than after its first one is replaced; and it is asked to give back
#: what it has freed when it holds more than that.
KEPT, TRIM = 64 * MIB, 8 * MIB


class Supervisor:
    """Owns the workers of one executor. Its methods may be called from any thread, except where said."""

    def __init__(
        self,
        *,
        workers: int,
        ledger: Ledger,
        predictor: Predictor,
        owns_predictor: bool,
        backstop: WorkerCgroup,
        nursery: Spawner,
        gate: Gate,
        attempts: int,
        tasks_per_child: int | None,
        label: str,
        progress: bool | ProgressCallback = False,
    ) -> None:
        self.workers = workers
        from concurrent.futures.process import BrokenProcessPool  # brings multiprocessing

        self._broken_pool = BrokenProcessPool
        self._backstop, self._gate = backstop, gate
        self._probe: IdentityProbe = ProcProbe()
        self._attempts, self._tasks_per_child = attempts, tasks_per_child
        self.chronicle = BatchStats()
        self._inbox: deque[Task] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._asleep = False
        self._closing = self._cancelling = self._at_once = False
        #: Why it takes nothing any more; None while it does.
        self.broken: BaseException | None = None
        self._queue = TaskQueue(predictor)
        self._poll = select.poll()
        self._staff = WorkerPool(nursery, self._poll, self._probe)
        self._poll.register(self._wake_fd, select.POLLIN)
        self._events = {fd for fd, _ in backstop.watched()}
        self._purse = ReservationClient(ledger, label, self._poll, held_by_kernel=bool(self._events))
        for fd, mask in backstop.watched():
            self._poll.register(fd, mask)
        self._next_look = self._next_account = 0.0
        self._limit = 0
        self._stuck_since: float | None = None
        self._moved = self._within = self._refused_at = self._full_at = 0.0
        self._kernel_kills = self._stillborn = 0
        self._seconds = 1.0
        self._delivery, self._scholar = ResultThread(), FootprintThread(predictor, owned=owns_predictor)
        self._label = label
        self._progress = progress_thread(progress, label, self.report)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="memwarden-executor", daemon=True)
        self._pid = os.getpid()
        reset_after_fork(self)

    # --- from other threads ---------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._delivery.start()
        self._scholar.start()
        self._thread.start()
        if self._progress is not None:
            self._progress.start()

    @property
    def backstop(self) -> str:
        """What holds the workers beside looking."""
        return self._backstop.kind

    def resize(self, workers: int) -> None:
        """So many workers at most from now on."""
        self.workers = workers
        self._wake(always=True)

    def submit(self, task: Task) -> None:
        """Take a task in."""
        self.chronicle.submitted += 1
        self._inbox.append(task)
        self._wake()
        if self.broken is not None:  # perhaps it has ended meanwhile, and nobody would look there any more
            self._refuse(self.broken)

    def _refuse(self, error: BaseException) -> None:
        """Nothing will become of what nobody has taken in yet. From any thread, and by several at once."""
        while True:
            try:
                task = self._inbox.popleft()
            except IndexError:
                return
            if task.future.set_running_or_notify_cancel():
                task.future.set_exception(error)

    def close(self, *, cancel: bool = False, at_once: bool = False) -> None:
        """Take nothing more; end when all is done. ``cancel``: what has not begun never will. ``at_once``: what has
        begun is ended, too."""
        self._cancelling = self._cancelling or cancel
        self._at_once = self._at_once or at_once
        self._closing = True
        self._wake(always=True)

    def join(self) -> None:
        """Wait until it has ended; nothing where called from its own threads, or where it never began."""
        if self._pid != os.getpid() or threading.current_thread() in self._own_threads():
            return
        if self._thread.ident is not None:
            # An interrupted join() takes the thread for ended in Python 3.11: the next one would not wait.
            self._over.wait()
            self._thread.join()

    def _own_threads(self) -> tuple[threading.Thread, ...]:
        return (self._thread, self._delivery.thread)

    def report(self) -> BatchReport:
        """What has happened until now."""
        kills = self._kernel_kills
        return self.chronicle.report(self._purse.whole, self._backstop.kind, self.workers, kills)

    def after_fork(self) -> None:
        """In a child: neither threads nor workers are its own. Its copies of the connections are closed, so that the
        workers notice when the parent ends."""
        if self.broken is None:
            self.broken = self._broken_pool("this executor belongs to the process that this one was forked from")
        with contextlib.suppress(OSError):
            os.close(self._wake_fd)
        self._wake_fd = -1
        self._staff.forget()

    def _wake(self, *, always: bool = False) -> None:
        if (self._asleep or always) and self._wake_fd >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(self._wake_fd, 1)

    # --- its own thread -------------------------------------------------------------------------------

    def _live(self) -> None:
        trouble: BaseException | None = None
        try:
            while not self._is_over():
                self._turn()
        except BaseException as error:  # noqa: BLE001 - nobody may wait for ever for a future of ours
            trouble = error
            warn("executor: failed: %s: %s", type(error).__name__, error)
        finally:
            try:
                self._shut(trouble)
            finally:
                self._over.set()

    def _turn(self) -> None:
        wait = self._sleep_seconds()
        self._asleep = True
        if self._inbox or (self._closing and wait is None):
            wait = 0.0
        try:
            ready = self._poll.poll(None if wait is None else max(0, round(wait * 1000)))
        finally:
            self._asleep = False
        now = time.monotonic()
        if wait == LINGER_SECONDS and not ready:
            self._purse.give_back_idle(self._staff)
        self._staff.polled()
        for fd, mask in ready:
            if (seat := self._staff.speaker(fd)) is not None:
                if mask & select.POLLOUT:
                    self._staff.flush(seat)
                if mask & ~select.POLLOUT:
                    self._hear(seat, now)
            elif (seat := self._staff.ended(fd)) is not None:
                self._hear(seat, now, ended=True)
            elif fd in self._events:
                self._next_look = 0.0
                if self._backstop.stuck():
                    self._stuck_since = self._stuck_since or now
            elif fd == self._wake_fd:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)
            else:
                self._purse.rang(fd)
        while self._inbox:
            self._queue.add(self._inbox.popleft())
        if self._cancelling:
            for task in self._queue:
                if task.future.cancel():
                    self._set_running(task)
        if self._at_once:
            self._end_all()
        for seat in self._staff.idle[: max(0, self._staff.staying - self.workers)]:
            self._retire(seat)
        if now >= self._next_look:
            self._look(now)
        if self._queue:
            self._admit(now)

    def _sleep_seconds(self) -> float | None:
        if not self._queue and not self._staff.working:
            if self._closing:
                return 0.0
            return LINGER_SECONDS if self._staff.lends else None
        return max(0.0, self._next_look - time.monotonic())

    def _is_over(self) -> bool:
        if self.broken is not None:
            return True
        if not self._closing or self._inbox or self._queue:
            return False
        return not self._staff.working

    # --- workers --------------------------------------------------------------------------------------

    def _hear(self, seat: WorkerHandle, now: float, *, ended: bool = False) -> None:
        """What a worker said; ``ended``: its process is gone, and what it had said is all there."""
        for said in seat.line.read(whole=ended):
            if said.what == READY:
                self._welcome(seat, said, now)
            elif said.what == UNFIT:
                seat.leaving = True
                self._break("a worker could not begin; its initializer failed", said.payload)
            else:
                self._finish(seat, said, now)
        if seat.line.ended or ended:
            self._bury(seat, now)

    def _welcome(self, seat: WorkerHandle, said: Answer, now: float) -> None:
        if not self._staff.meet(seat, said):
            return
        self._stillborn = 0
        self._purse.assign(seat)
        if seat.run is not None:
            seat.run.begun = seat.run.grew = seat.run.seen_at = now

    def _bury(self, seat: WorkerHandle, now: float) -> None:
        """A worker has ended: what becomes of its tasks."""
        here, code = self._staff.bury(seat)
        if not here:
            return
        tasks, run = list(seat.tasks), seat.run
        self._moved = now
        begun = seat.key is not None and self.broken is None
        self._queue.put_back(tasks[1:] if begun else tasks)
        if begun and tasks:
            self._judge(seat, tasks[0], run, code, now)
        elif seat.key is None and self.broken is None and not seat.leaving:
            self._stillborn += 1
            if self._stillborn >= self._attempts:
                self._break(f"workers ended before they were ready, {self._stillborn} in a row", None)

    def _judge(self, seat: WorkerHandle, task: Task, run: RunningTask | None, code: int | None, now: float) -> None:
        """What becomes of the task whose worker has ended."""
        job = task.job
        job.attempts += 1
        peak = run.peak if run is not None else 0
        kills = self._backstop.kernel_kills()
        of_memory = bool(seat.ended_for) or (code == -9 and kills > self._kernel_kills)
        self._kernel_kills = max(kills, self._kernel_kills)
        given = run.lease if run is not None else 0
        if of_memory:
            why = seat.ended_for or "ended by the kernel for want of memory"
            job.seen = max(job.seen, peak)
            self._learn(task, peak, now - run.begun if run is not None else 0.0, "killed_at")
            # One that had everything; not one that was ended alone because others took the memory from outside.
            whole = peak >= 0.9 * self._purse.alone
            again = not whole and job.attempts < self._attempts * (2 if job.alone else 1)
            job.alone = job.alone or job.attempts >= self._attempts - 1
            if not again:
                self._fail(task, self._too_large(task, peak))
        else:
            why = f"its worker ended with {_ending(code)}"
            again = code in (-9, -15, None) and job.attempts < self._attempts and not self._at_once
            if not again:
                words = f"{task.name}: {why}; attempt {job.attempts} of {self._attempts}. The other tasks go on"
                self._fail(task, WorkerLost(words, code=code))
        self.chronicle.setback(now, job.number, job.name, job.kind.name, peak, given, why, again=again)
        if again:
            self._queue.put_back([task])

    def _too_large(self, task: Task, peak: int) -> TaskTooLarge:
        job = task.job
        foreseen = job.prediction.reserve if job.prediction is not None else job.given
        return TaskTooLarge(
            f"{task.name}: took {size_text(peak)} and wanted more, alone in a budget of {size_text(self._purse.alone)}"
            f" ({size_text(foreseen)} were foreseen; {job.attempts} attempts). Give the executor a larger budget, or"
            " the task a smaller input",
            predicted=foreseen,
            used=max(peak, job.seen),
            limit=self._purse.alone,
            attempts=job.attempts,
        )

    def _retire(self, seat: WorkerHandle) -> None:
        """Let an idle worker go."""
        self._staff.retire(seat)
        self.chronicle.retired += 1

    # --- tasks ----------------------------------------------------------------------------------------

    def _finish(self, seat: WorkerHandle, said: Answer, now: float) -> None:
        """A task has an answer."""
        if not seat.tasks or seat.tasks[0].job.number != said.number:
            seat.kill(self._probe, "it answered what it was not asked")
            return
        task = seat.tasks.popleft()
        run, job = seat.run, task.job
        seat.done += 1
        peak = max(0, seat.peak(said.peak, said.other))
        self.chronicle.run_seconds += said.seconds
        self._seconds += (said.seconds - self._seconds) / min(32, self.chronicle.finished + 1)
        if said.what in (REFUSED, PROGRAM) and (why := self._for_want_of_memory(said.what, job, now)):
            job.attempts += 1
            job.seen = max(job.seen, peak)
            job.alone = job.alone or job.attempts >= self._attempts - 1 or said.what == PROGRAM
            given = run.lease if run is not None else 0
            self.chronicle.setback(now, job.number, job.name, job.kind.name, peak, given, why, again=True)
            self._queue.put_back([task])
        elif said.what != RESULT:
            self.chronicle.failed += 1
            self._delivery.failure(task.future, said.payload)
        else:
            self.chronicle.finished += 1
            self._delivery.result(task.future, said.payload)
        self._learn(task, peak, said.seconds, "finished" if said.what == RESULT else "killed_at")
        seat.other, self._moved = 0, now
        if run is not None and run.paused:
            seat.go(self._probe)  # it had finished before it was stopped
        if seat.tasks:
            seat.run = RunningTask(seat.tasks[0].job, run.lease if run is not None else 0, now)
            return
        seat.run = None
        if said.seconds >= SHORT_SECONDS or peak > TRIM:
            seat.look()
        if seat.kept is None:
            seat.kept = seat.used
        worn = self._tasks_per_child is not None and seat.done >= self._tasks_per_child
        if worn or seat.used > seat.kept + KEPT or len(self._staff) > self.workers:
            self._retire(seat)
        elif self._purse.contended or job.alone:
            self._purse.give_back(seat)

    def _for_want_of_memory(self, what: int, job: PendingTask, now: float) -> str:
        """Why a task that failed gets another attempt: the workers' memory was used up meanwhile. Empty: it gets none.

        Since it was sent, and not since we know that it began: it may have failed before its worker was heard at all.
        """
        if self._backstop.refused():
            self._refused_at = now
        if what == REFUSED and self._refused_at >= job.sent:
            again = job.attempts + 1 < self._attempts * (2 if job.alone else 1)
            return "it failed while the kernel had no memory for it" if again else ""
        if what == PROGRAM and self._events and self._full_at >= job.sent and self._attempts > 1 and not job.doubted:
            job.doubted = True
            return "a program that it started failed while the memory was used up"
        return ""

    def _learn(self, task: Task, peak: int, seconds: float, outcome: Any) -> None:
        self._scholar.tell(CompletedTask(task.job.kind, task.job.size, peak, max(0.0, seconds), outcome))

    def _fail(self, task: Task, error: BaseException) -> None:
        self.chronicle.failed += 1
        self._delivery.failure(task.future, error)

    def _begin(self, seat: WorkerHandle, task: Task, now: float) -> bool:
        """Send a task to a worker; False where it cannot be sent at all."""
        try:
            payload = pickle.dumps((task.function, task.args, task.kwargs), protocol=pickle.HIGHEST_PROTOCOL)
        except BaseException as error:  # noqa: BLE001 - any __reduce__ may run; the caller gets to hear of it
            self._fail(task, error)
            return False
        seat.tasks.append(task)
        task.job.sent = now
        self._staff.send(seat, task.job.number, payload)
        self.chronicle.begin(now)
        return True

    # --- memory ---------------------------------------------------------------------------------------

    def _take_stock(self, now: float) -> None:
        """What there is, for us and for the kernel to hold the workers to."""
        self._next_account = now + ACCOUNT_SECONDS
        self._purse.take_stock(self._staff.held)
        if abs(self._purse.whole - self._limit) >= _MOVED:
            self._limit = self._purse.whole
            self._backstop.hold(max(self._limit, MIB) + KERNEL_ROOM)

    def _look(self, now: float) -> None:
        """Look at the workers, and do what must be done."""
        if self._backstop.refused():
            self._refused_at = now
        busy = self._staff.watched
        for seat in busy:
            assert seat.run is not None
            seat.look()
            if not seat.run.paused:
                seat.run.see(seat.used, now)
            if len(seat.tasks) > 1 and not seat.leaving and now - seat.run.begun > LONGER * SHORT_SECONDS:
                self._queue.put_back(seat.take_back(now, self._probe))
        self._purse.give_back_idle(self._staff)  # those who run, or wait, may need it
        if now >= self._next_account:
            self._take_stock(now)
        runs = [seat.run for seat in busy if seat.run is not None]
        if runs:
            stuck = self._is_stuck(now, busy)
            by_run = {id(seat.run): seat for seat in busy}
            for step in scheduler.schedule(
                runs, self._purse.room(self._staff.held), now, grace=self._grace(now), stuck=stuck
            ):
                self._do(step, by_run[id(step.run)], now)
        paused, used = sum(run.paused for run in runs), self._staff.used
        if used >= scheduler.FULL * self._purse.whole:
            self._full_at = now
        held = sum(seat.held for seat in busy)
        self.chronicle.note(now, len(runs), paused, len(self._queue), held, used, self._purse.whole)
        pace = HELD_SECONDS if self._events else POLLED_SECONDS
        if not self._events and any(run.rate > 0 and not run.paused and now - run.grew < 0.1 for run in runs):
            pace = GROWING_SECONDS
        self._next_look = now + pace

    def _grace(self, now: float) -> int:
        """How far what is used may be beyond the budget before somebody is ended for it.

        Without a kernel that holds them, as far as the margin goes. With one it cannot go far, unless the budget has
        become smaller: that is seen when it lasts.
        """
        if not self._events:
            return self._purse.margin
        if self._staff.used <= self._purse.whole + KERNEL_ROOM:
            self._within = now
        return KERNEL_ROOM if now - self._within > LASTING_SECONDS else 1 << 62

    def _is_stuck(self, now: float, busy: list[WorkerHandle]) -> bool:
        """Whether one must be ended because the kernel holds all who run, or holds some for very long."""
        if self._stuck_since is None or not self._backstop.stuck():
            self._stuck_since = None
            return False
        running = [seat for seat in busy if seat.run is not None and not seat.run.paused]
        patience = HELD_STILL_SECONDS if all(seat.held_by_kernel() for seat in running) else STUCK_SECONDS
        if now - max(self._stuck_since, self._moved) < patience:
            return False
        self._moved = now
        return True

    def _do(self, step: Directive, seat: WorkerHandle, now: float) -> None:
        run = step.run
        if step.act is DirectiveKind.KILL:
            if self._staff.dying:
                return  # what that one frees may be enough
            self.chronicle.kills += 1
            debug("executor: task %d is ended with %s: %s", run.job.number, size_text(run.used), step.why)
            seat.kill(self._probe, step.why)
            return
        if step.act is DirectiveKind.PAUSE:
            self.chronicle.pauses += 1
            seat.stop(self._probe)
            return
        granted = self._purse.lease(seat, step.lease, in_turn=False)
        if not granted:
            run.lease = seat.reserved
        if step.act is DirectiveKind.RESUME:
            if granted:
                seat.go(self._probe)
                run.grew = now
            else:
                run.paused = True

    # --- admission ------------------------------------------------------------------------------------

    def _admit(self, now: float) -> None:
        if self._gate.closed or self.broken is not None:
            return
        if not self._purse.whole:
            self._take_stock(now)
        while self._queue:
            idle = self._staff.idle
            if not idle and self._staff.staying >= self.workers:
                if not self._hand_ahead(now):
                    return
                continue
            self._purse.ask(now)
            task = self._queue.first if self._purse.granted else self._choose(idle, now)
            if task is not None and not self._set_running(task):
                continue
            if task is None or not self._seat(task, idle, now):
                if self._queue:
                    self._purse.stand_in_line(self._queue.first.job, now)
                return

    def _seat(self, task: Task, idle: list[WorkerHandle], now: float) -> bool:
        """Give a task a worker and its memory; False where it must wait after all."""
        job = task.job
        seat = min(idle, key=lambda each: abs(each.reserved - job.reserve)) if idle else None
        if seat is None:
            try:
                seat = self._staff.spare or self._staff.hire()
            except OSError as error:
                if not len(self._staff):
                    self._break(f"no worker could be started: {error}", None)
                return False
        size = job.reserve
        first = task is self._queue.first
        if first and self._purse.granted:
            self._purse.hand_over(seat)
        if seat.reserved < size or seat.reserved > size + MIB + size // 4:
            self._purse.give_back_idle(other for other in idle if other is not seat)
            if job.alone:
                size = min(size, self._purse.room(self._staff.held) + seat.held)
            if not self._purse.lease(seat, size):
                self._next_account = 0.0
                return False
        if first:
            self._purse.leave_line()
        self._queue.take(task)
        if not self._begin(seat, task, now):
            return True
        seat.run = RunningTask(job, seat.reserved, now)
        return True

    def _set_running(self, task: Task) -> bool:
        """Whether it may begin; one that was cancelled is taken out."""
        if not task.running:
            if not task.future.set_running_or_notify_cancel():
                self._queue.take(task)
                self.chronicle.cancelled += 1
                return False
            task.running = True
        return True

    def _choose(self, idle: list[WorkerHandle], now: float) -> Task | None:
        busy = self._staff.working
        paused = scheduler.spoken_for(seat.run for seat in self._staff if seat.run is not None)
        # What idle workers have reserved and do not use can be had; and a task's peak counts the little that its worker
        # keeps.
        keeps = [self._purse.keeps(seat) for seat in idle]
        had = sum(max(0, seat.held - kept) for seat, kept in zip(idle, keeps, strict=True))
        own = min(MIB, max(keeps, default=0))
        room = self._purse.room(self._staff.held) + had + own - max(0, paused)
        if any(seat.run is not None and seat.run.job.alone for seat in self._staff):
            return None
        task = self._queue.choose(room, self._purse.alone, now, scheduler.patience(self._seconds), busy=busy)
        if task is None and not busy and idle:
            self._make_way(idle, room, now)
        return task

    def _make_way(self, idle: list[WorkerHandle], room: int, now: float) -> None:
        """Nothing runs and nothing fits: the worker that keeps most lets it go, where that helps.

        What idle workers keep may be all that is in the way, of the first who waits here, or of one in another program:
        both might wait for each other's last kilobytes.
        """
        first = self._queue.first.job
        seat = max(idle, key=lambda each: each.used)
        in_the_way = first.reserve <= room + sum(map(self._purse.keeps, idle))
        waited = first.first is not None and now - first.first >= LINGER_SECONDS
        if seat.used > MIB or in_the_way or waited:
            self._retire(seat)

    def _hand_ahead(self, now: float) -> bool:
        """Give a short task to a worker that is about to end one; whether one was given."""
        if self._purse.contended:
            return False
        task = self._queue.first
        self._queue.foresee(task.job, self._purse.alone, now)
        known = task.job.prediction
        if task.job.alone or known is None or known.n < 3 or known.seconds > SHORT_SECONDS:
            return False
        ahead = min(MOST_AHEAD, 1 + int(SHORT_SECONDS / max(known.seconds, 1e-4)))
        best: WorkerHandle | None = None
        for seat in self._staff:
            run = seat.run
            if run is None or run.paused or seat.leaving or run.lease < task.job.reserve or seat.line.full:
                continue
            if self._tasks_per_child is not None and seat.done + len(seat.tasks) >= self._tasks_per_child:
                continue
            first = run.job.prediction
            if first is None or first.seconds > SHORT_SECONDS or now - run.begun > SHORT_SECONDS:
                continue
            if len(seat.tasks) <= ahead and (best is None or len(seat.tasks) < len(best.tasks)):
                best = seat
        if best is None or not self._set_running(task):
            return best is not None
        self._queue.take(task)
        self._begin(best, task, now)
        return True

    # --- the end --------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        while self._queue:  # what was put back, or had been handed to a worker ahead of its time
            task = self._queue.first
            self._queue.take(task)
            self._fail(task, WorkerLost(f"{task.name}: the executor was ended before it had finished", code=None))
        for seat in self._staff:
            if seat.tasks and seat.ready and not seat.leaving:
                seat.tasks[0].job.attempts = self._attempts
                seat.kill(self._probe, "")

    def _break(self, words: str, told: bytes | None) -> None:
        """Nothing can go on: every future hears why."""
        error = self._broken_pool(words)
        if told is not None:
            with contextlib.suppress(Exception):
                whole, lines = pickle.loads(told)
                error = self._broken_pool(f"{words}: {lines.strip().splitlines()[-1]}")
                error.__cause__ = pickle.loads(whole)
        self.broken = error

    def _shut(self, trouble: BaseException | None) -> None:
        """Let the workers go, and tell whoever still waits."""
        with contextlib.suppress(MemwardenError):
            self._purse.leave_line()
        if trouble is not None and self.broken is None:
            self.broken = self._broken_pool(f"the executor failed: {type(trouble).__name__}: {trouble}")
            self.broken.__cause__ = trouble
        left = [task for seat in self._staff for task in seat.tasks] + [*self._queue]
        if self.broken is not None:
            self._refuse(self.broken)
            for task in left:
                if task.running or task.future.set_running_or_notify_cancel():
                    self._delivery.failure(task.future, self.broken)
        self._staff.close(at_once=self.broken is not None)
        self._delivery.stop()
        if self._progress is not None:
            self._progress.stop()
        self._scholar.stop()
        self._backstop.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1


def _ending(code: int | None) -> str:
    if code is None:
        return "nobody knows what"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
