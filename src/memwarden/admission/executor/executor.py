"""An executor for tasks that would not fit into memory all at once.

:class:`BudgetedExecutor` is a :class:`concurrent.futures.Executor` over processes, as the standard library's
``ProcessPoolExecutor`` is. It begins a task when there is memory for what such tasks have been seen to need, watches
the workers, and does something before the kernel does.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from memwarden.actions.gate import Gate
from memwarden.admission.executor.batch_report import BatchStats
from memwarden.admission.executor.scheduler import PendingTask
from memwarden.admission.executor.supervisor import TRIM, Supervisor
from memwarden.admission.footprints.footprint import Footprints
from memwarden.admission.footprints.input_size import usual_size
from memwarden.admission.footprints.task_key import kind_of
from memwarden.admission.ledger.ledger import Ledger
from memwarden.admission.pool.fork_server import spawner
from memwarden.admission.pool.worker import WorkerConfig
from memwarden.admission.pool.worker_handle import Task
from memwarden.contain.worker_cgroup import NoWorkerCgroup, WorkerCgroup, worker_cgroup
from memwarden.errors import DoesNotFit, SettingsError
from memwarden.model.footprints import TaskKey
from memwarden.model.units import MIB, parse_size, size_text

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from memwarden.admission.executor.batch_report import BatchReport
    from memwarden.admission.executor.progress import ProgressCallback
    from memwarden.protocols import Predictor

T = TypeVar("T")

#: How often a task is begun at most, when it or its worker was ended; the last time alone.
ATTEMPTS = 3
#: A claim of another process that has waited for so long is passed by no more tasks of ours.
PATIENCE_SECONDS = 3.0


class BudgetedExecutor(Executor):
    """Runs calls in worker processes, as many at once as there is memory for.

    ``max_workers``: processes, by default one for each processor; may be changed later. ``budget``: bytes or
    ``"4GiB"`` or ``"80%"`` of the effective limit, for all tasks together, beyond what the workers hold when they
    begin; by default the effective headroom. All executors and :func:`admit` of this user in this host or container
    share what there is; ``ledger`` is the name of another ledger, or one, for those that shall not.

    What a task needs is foreseen by its ``predictor`` (by default learned from earlier tasks of its kind, and kept for
    the next run); its kind is the function, its size what ``size_of(*args, **kwargs)`` says (by default the first
    ``int`` among the arguments, else the bytes of the first path or buffer). :meth:`hinted` says them.

    A task may be begun more than once: when it had to be ended to make room, or its worker was killed; ``attempts``
    times at most, the last time alone. One that had the whole budget and wanted more raises :class:`TaskTooLarge` (a
    ``MemoryError``); one whose worker ended by itself raises :class:`WorkerLost`, and the others go on.

    ``initializer``, ``initargs``, ``mp_context`` and ``max_tasks_per_child`` mean what they do in the standard library.
    ``cgroup`` is a group to hold the workers in, where none may be made otherwise (``False``: none). ``gate``: while it
    is shut nothing new begins. ``progress``: ``True`` draws a line where standard error is a terminal; a function is
    called with the :class:`BatchReport` four times a second, in its own thread.
    Linux only.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        budget: int | str | None = None,
        size_of: Callable[..., float | None] | None = None,
        predictor: Predictor | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        attempts: int = ATTEMPTS,
        ledger: Ledger | str | None = None,
        cgroup: str | bool | None = None,
        gate: Gate | None = None,
        progress: bool | ProgressCallback = False,
        name: str = "executor",
    ) -> None:
        if sys.platform != "linux":
            raise SettingsError("BudgetedExecutor needs Linux; use concurrent.futures.ProcessPoolExecutor here")
        self._workers = _whole("max_workers", max_workers if max_workers is not None else _processors())
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            _whole("max_tasks_per_child", max_tasks_per_child)
        _whole("attempts", attempts)
        if isinstance(ledger, Ledger):
            if budget is not None:
                raise SettingsError("budget and a ledger: the ledger has its own budget; give its name, or no budget")
            self._ledger = ledger
        else:
            self._ledger = Ledger(budget, ledger or "default", patience=PATIENCE_SECONDS)
        self._alone = self._ledger.account().alone
        self._owns_predictor = predictor is None
        self._predictor = predictor if predictor is not None else _usual_predictor(self._alone, self._workers)
        self._size_of = size_of if size_of is not None else usual_size
        self._context, self._orders = mp_context, WorkerConfig(initializer, tuple(initargs), (), TRIM, 0)
        self._cgroup, self._attempts, self._name = cgroup, attempts, name
        self._tasks_per_child, self._progress = max_tasks_per_child, progress
        self._kinds: dict[Any, TaskKey] = {}
        self._numbers = itertools.count(1)
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._shut = False
        #: Shut it, or have a warden shut it, and nothing new begins.
        self.gate = gate if gate is not None else Gate()
        #: What does it all, from the first task on.
        self._core: Supervisor | None = None

    def _begin(self) -> Supervisor:
        """Make what the first task needs. In the thread that submits it, because that forks."""
        held: WorkerCgroup = NoWorkerCgroup()
        if self._cgroup is not False:
            held = worker_cgroup(max(self._alone, MIB), self._cgroup if isinstance(self._cgroup, str) else None)
        try:
            workers = spawner(self._context, self._orders._replace(joins=tuple(held.joins)))
        except BaseException:
            held.close()
            raise
        core = self._core = Supervisor(
            workers=self._workers,
            ledger=self._ledger,
            predictor=self._predictor,
            owns_predictor=self._owns_predictor,
            backstop=held,
            nursery=workers,
            gate=self.gate,
            attempts=self._attempts,
            tasks_per_child=self._tasks_per_child,
            label=self._name,
            progress=self._progress,
        )
        _living.add(core)
        #: A program that forgets its executor has its tasks done, and the workers sent home.
        self._forgotten = weakref.finalize(self, core.close)
        self._forgotten.atexit = False
        core.start()
        return core

    # --- what the standard library has -----------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` done; returns its future.

        Raises ``RuntimeError`` after :meth:`shutdown`, ``BrokenProcessPool`` where workers cannot begin.
        """
        return self._submit(fn, args, kwargs, None, None, 0)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """As ``ProcessPoolExecutor.map``. A chunk is one task, whose size is the largest of its calls."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        kind, sizes = self._kind(fn), partial(self._size, fn)
        chunks = _chunks(chunksize, *iterables)
        until = None if timeout is None else time.monotonic() + timeout
        futures = [
            self._submit(
                _each, (fn, chunk), {}, kind._replace(name=f"{kind.name} x{chunksize}"), _most(sizes, chunk), 0
            )
            for chunk in chunks
        ]
        return _unfold(futures, until)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. ``wait``: return when all is done and the workers are gone."""
        self._end(wait, cancel_futures, at_once=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Shut down. After Ctrl-C (or ``SystemExit``), also one that comes while this waits, what has not begun is
        cancelled, and what has is ended."""
        hurried = kind is not None and not issubclass(kind, Exception)
        try:
            self._end(True, hurried, at_once=hurried)
        except (KeyboardInterrupt, SystemExit):
            self._end(True, cancel=True, at_once=True)
            raise

    def _end(self, wait: bool, cancel: bool, *, at_once: bool) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            self._shut = True
            core = self._core
        if core is not None:
            self._forgotten.detach()
            core.close(cancel=cancel, at_once=at_once)
            if wait:
                core.join()
        elif self._owns_predictor and isinstance(self._predictor, Footprints):
            self._predictor.close()

    # --- what it has not ------------------------------------------------------------------------------

    def hinted(
        self,
        *,
        kind: str | None = None,
        size: float | None = None,
        reserve: int | str | None = None,
        name: str = "",
    ) -> TaskOptions:
        """An executor that submits here and says what these tasks are: a ``kind`` to learn them as, an input ``size``
        in any unit, the bytes to ``reserve`` (taken at its word, and not given back before the end), or a ``name`` to
        call them by in messages and reports."""
        return TaskOptions(self, kind, size, 0 if reserve is None else parse_size(reserve), name)

    @property
    def max_workers(self) -> int:
        """Worker processes at most; with less than there are, idle ones leave and busy ones finish."""
        return self._workers

    @max_workers.setter
    def max_workers(self, count: int) -> None:
        self._workers = _whole("max_workers", count)
        if self._core is not None:
            self._core.resize(count)

    @property
    def worker_cgroup(self) -> str:
        """What holds the workers while nobody looks: ``"cgroup2"``, ``"cgroup1"``, or ``"polling"`` (nothing); empty
        before the first task."""
        return "" if self._core is None else self._core.backstop

    def report(self) -> BatchReport:
        """What has happened until now: times, memory, setbacks."""
        return BatchStats().report(self._alone, "", self._workers, 0) if self._core is None else self._core.report()

    # --- inside ---------------------------------------------------------------------------------------

    def _submit(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        kind: TaskKey | None,
        size: float | None,
        reserve: int,
        name: str = "",
    ) -> Future[T]:
        if self._pid != os.getpid():
            raise RuntimeError("cannot schedule new futures: this executor belongs to the process it was forked from")
        if size is None:
            size = self._size(function, *args, **kwargs)
        if reserve > self._alone and reserve > (account := self._ledger.account()).alone:
            raise DoesNotFit(
                f"{size_text(reserve)} asked for: can never fit, {account.source} leaves {size_text(account.alone)};"
                " ask for less, or give the executor a larger budget",
                asked=reserve,
                budget=account.alone,
                source=account.source,
            )
        future: Future[T] = Future()
        job = PendingTask(next(self._numbers), kind or self._kind(function), size, reserve, name)
        job.prediction = self._predictor.predict(job.kind, size)
        with self._lock:
            core = self._core
            if core is not None and core.broken is not None:
                raise core.broken
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _ended:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            (core or self._begin()).submit(Task(job, future, function, args, kwargs))
        return future

    def _kind(self, function: Callable[..., Any]) -> TaskKey:
        """What kind of task a call of this makes; looked up once for each function."""
        key = function.func if isinstance(function, partial) else function
        try:
            known = self._kinds.get(key)
        except TypeError:  # not hashable
            return kind_of(function)
        if known is None:
            if len(self._kinds) > 1024:
                self._kinds.clear()
            known = self._kinds[key] = kind_of(function)
        return known

    def _size(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> float | None:
        if isinstance(function, partial):
            args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        return self._size_of(*args, **kwargs)


class TaskOptions(Executor):
    """Submits to a :class:`BudgetedExecutor`, saying what the tasks are. It need not be shut down."""

    def __init__(
        self, executor: BudgetedExecutor, kind: str | None, size: float | None, reserve: int, name: str
    ) -> None:
        self._executor, self._size, self._reserve, self._name = executor, size, reserve, name
        self._kind = None if kind is None else TaskKey(kind)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As :meth:`BudgetedExecutor.submit`. Raises :class:`DoesNotFit` for a reservation that can never be had."""
        return self._executor._submit(fn, args, kwargs, self._kind, self._size, self._reserve, self._name)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing: the executor behind it goes on."""


def _whole(name: str, value: int) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < 1:
        raise SettingsError(f"{name} must be greater than 0, not {value}")
    return value


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _usual_predictor(budget: int, workers: int) -> Predictor:
    from memwarden.admission.footprints.store import FootprintStore

    return Footprints(budget=max(1, budget), slots=workers, store=FootprintStore())


def _chunks(count: int, *iterables: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], ...]]:
    calls = zip(*iterables, strict=False)
    while chunk := tuple(itertools.islice(calls, count)):
        yield chunk


def _each(function: Callable[..., T], calls: tuple[tuple[Any, ...], ...]) -> list[T]:
    return [function(*args) for args in calls]


def _most(size: Callable[..., float | None], calls: tuple[tuple[Any, ...], ...]) -> float | None:
    return max((known for args in calls if (known := size(*args)) is not None), default=None)


def _unfold(futures: list[Future[list[T]]], until: float | None) -> Iterator[T]:
    try:
        futures.reverse()
        while futures:
            left = None if until is None else until - time.monotonic()
            yield from futures.pop().result(left)
    finally:
        for future in futures:
            future.cancel()


_living: weakref.WeakSet[Supervisor] = weakref.WeakSet()
_ended = False


def _end_of_program() -> None:
    """The program ends: what was submitted is done first, as the standard library's pools do it."""
    global _ended
    _ended = True
    cores = list(_living)
    for core in cores:
        core.close()
    for core in cores:
        core.join()


# Before threads are joined, where Python offers that (3.9, not documented); threads of ours are no daemons for nothing.
getattr(threading, "_register_atexit", atexit.register)(_end_of_program)
