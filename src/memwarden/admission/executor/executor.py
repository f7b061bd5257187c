"""An executor for tasks that do not fit into memory all at once.

:class:`BudgetedExecutor` is a :class:`concurrent.futures.Executor` over processes like ``ProcessPoolExecutor``. It
starts a task when there is memory for what tasks of its kind were seen to need, and samples the workers.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from memwarden.actions.gate import Gate
from memwarden.admission.executor.batch_report import BatchStats
from memwarden.admission.executor.manager_thread import ExecutorManager, copy_error
from memwarden.admission.executor.task_scheduler import TRIM, Limits
from memwarden.admission.footprints.input_size import usual_size
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.footprints.task_key import task_key_of
from memwarden.admission.ledger.ledger import Ledger
from memwarden.admission.pool.fork_server import ForkServer
from memwarden.admission.pool.task import WorkItem
from memwarden.admission.pool.worker import WorkerConfig
from memwarden.contain.worker_cgroup import WorkerCgroup, worker_cgroup
from memwarden.errors import DoesNotFit, SettingsError
from memwarden.model.footprints import TaskKey
from memwarden.model.units import MIB, parse_size, size_text

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from memwarden.admission.executor.batch_report import BatchReport
    from memwarden.admission.executor.progress import ProgressCallback
    from memwarden.protocols import Predictor

T = TypeVar("T")

#: Maximum attempts per task. The last attempt runs exclusively.
ATTEMPTS = 3
#: A smaller budget is a mistake, such as a number without its unit.
LEAST_BUDGET = MIB
#: Tasks of this executor overtake a request of another process for so long.
PATIENCE_SECONDS = 3.0


class BudgetedExecutor(Executor):
    """Runs calls in worker processes, as many at once as there is memory for.

    ``max_workers``: processes, by default one for each processor; may be changed later. ``budget``: bytes, ``"4GiB"``
    or ``"80%"`` of the effective limit, for all tasks together beyond what idle workers use; by default the effective
    headroom. All executors and :func:`admit` calls of this user in this host or container share it; ``ledger`` is
    another ledger, or its name, for those that shall not.

    ``predictor`` estimates each task's peak memory, by default from earlier tasks of its kind, kept for the next run.
    The kind is the function, the size is ``size_of(*args, **kwargs)`` (by default the first ``int`` among the
    arguments, else the bytes of the first path or buffer); :meth:`with_options` sets them.

    A task is retried when it was killed to free memory, or its worker was killed: ``attempts`` in all, the last one
    exclusively. A task that exceeds the whole budget raises :class:`TaskTooLarge` (a ``MemoryError``); after a crash of
    its worker it raises :class:`WorkerLost`. The others continue.

    ``initializer``, ``initargs``, ``mp_context`` and ``max_tasks_per_child`` are those of the standard library.
    ``cgroup``: a group for the workers, where none can be made otherwise (``False``: none). ``gate``: while it is
    closed no task starts. ``progress``: ``True`` draws a line where standard error is a terminal; a function is called
    with the :class:`BatchReport` four times a second, in a thread. Linux only.
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
        self._workers = _positive("max_workers", max_workers if max_workers is not None else _processors())
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            _positive("max_tasks_per_child", max_tasks_per_child)
        _positive("attempts", attempts)
        if isinstance(ledger, Ledger):
            if budget is not None:
                raise SettingsError("budget and a ledger: the ledger has its own budget; give its name, or no budget")
            self._ledger = ledger
        else:
            self._ledger = Ledger(budget, ledger or "default", patience=PATIENCE_SECONDS)
        self._alone = self._ledger.account().capacity
        if self._alone < LEAST_BUDGET:
            raise SettingsError(
                f"a budget of {size_text(self._alone)} ({self._ledger.account().source}): no task fits into less than "
                f"{size_text(LEAST_BUDGET)}; raise it, with its unit, such as budget='4GiB'"
            )
        self._owns_predictor = predictor is None
        self._predictor = predictor if predictor is not None else _usual_predictor(self._alone, self._workers)
        self._size_of = size_of if size_of is not None else usual_size
        self._context, self._config = mp_context, WorkerConfig(initializer, tuple(initargs), (), TRIM, 0)
        self._limits, self._cgroup = Limits(attempts, max_tasks_per_child), cgroup
        self._name, self._progress = name, progress
        self._kinds: dict[Any, TaskKey] = {}
        self._numbers = itertools.count(1)
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._shutdown = False
        #: While it is closed no task starts.
        self.gate = gate if gate is not None else Gate()
        #: Made for the first task.
        self._manager: ExecutorManager | None = None

    def _start(self) -> ExecutorManager:
        """Make the manager, in the thread that submits, because that forks."""
        group = WorkerCgroup()
        if self._cgroup is not False:
            group = worker_cgroup(max(self._alone, MIB), self._cgroup if isinstance(self._cgroup, str) else None)
        try:
            workers = ForkServer(self._context, self._config._replace(cgroup_procs=tuple(group.joins)))
        except BaseException:
            group.close()
            raise
        manager = self._manager = ExecutorManager(
            self._limits,
            workers=self._workers,
            ledger=self._ledger,
            predictor=self._predictor,
            owns_predictor=self._owns_predictor,
            cgroup=group,
            spawner=workers,
            gate=self.gate,
            name=self._name,
            progress=self._progress,
        )
        _managers.add(manager)
        #: An executor that is collected has its tasks done and its workers stopped.
        self._finalizer = weakref.finalize(self, manager.close)
        self._finalizer.atexit = False
        manager.start()
        return manager

    # --- the interface of concurrent.futures ---------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` in a worker and return its future.

        Raises ``RuntimeError`` after :meth:`shutdown`, ``BrokenProcessPool`` where workers cannot start.
        """
        return self._submit(fn, args, kwargs, None, None, 0)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """``ProcessPoolExecutor.map``. A chunk is one task; its size is the largest of its calls.

        With ``buffersize`` (as in Python 3.14) the input is read as results are taken: at most so many tasks are
        submitted whose results were not taken yet. Without it all of the input is read at once.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            _positive("buffersize", buffersize)
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            return _map(self, fn, calls, timeout, buffersize)
        chunks = iter(lambda: tuple(itertools.islice(calls, chunksize)), ())
        tasks = _Chunks(self, fn, chunksize)
        each = _map(tasks, partial(_run_chunk, fn), zip(chunks, strict=False), timeout, buffersize)
        return itertools.chain.from_iterable(each)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. ``wait``: return when all tasks are done and the workers have exited."""
        self._close(wait, cancel_futures, kill=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Shut down. After Ctrl-C (or ``SystemExit``), also while this waits, pending tasks are cancelled and running
        ones killed."""
        interrupted = kind is not None and not issubclass(kind, Exception)
        try:
            self._close(True, interrupted, kill=interrupted)
        except (KeyboardInterrupt, SystemExit):
            self._close(True, cancel=True, kill=True)
            raise

    def _close(self, wait: bool, cancel: bool, *, kill: bool) -> None:
        if self._pid != os.getpid():
            return
        with self._lock:
            self._shutdown = True
            manager = self._manager
        if manager is not None:
            self._finalizer.detach()
            manager.close(cancel=cancel, kill=kill)
            if wait:
                manager.join()
        elif self._owns_predictor and isinstance(self._predictor, Footprints):
            self._predictor.close()

    # --- beyond it -----------------------------------------------------------------------------------------

    def with_options(
        self,
        *,
        kind: str | None = None,
        size: float | None = None,
        reserve: int | str | None = None,
        name: str = "",
    ) -> TaskOptions:
        """Return an executor that submits here with options of the tasks.

        ``kind``: kind to learn them as; ``size``: input size in any unit; ``reserve``: bytes, kept reserved until the
        task ends; ``name``: for messages and reports.
        """
        return TaskOptions(self, kind, size, 0 if reserve is None else parse_size(reserve), name)

    @property
    def max_workers(self) -> int:
        """Largest number of worker processes. When it is lowered, idle workers exit and busy ones finish first."""
        return self._workers

    @max_workers.setter
    def max_workers(self, count: int) -> None:
        self._workers = _positive("max_workers", count)
        if self._manager is not None:
            self._manager.max_workers = count

    @property
    def enforcement(self) -> str:
        """Enforcement of the budget between samples: ``"cgroup2"``, ``"cgroup1"``, or ``"polling"`` (nothing); empty
        before the first task."""
        return "" if self._manager is None else self._manager.enforcement

    def report(self) -> BatchReport:
        """Return times, memory and incidents until now."""
        if self._manager is None:
            return BatchStats().report(self._alone, "", self._workers, 0)
        return self._manager.report()

    # --- inside --------------------------------------------------------------------------------------------

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
        if reserve > self._alone and reserve > (account := self._ledger.account()).capacity:
            raise DoesNotFit(
                f"a reservation of {size_text(reserve)} can never fit: {account.source} leaves"
                f" {size_text(account.capacity)}; reserve less, or raise budget=",
                asked=reserve,
                budget=account.capacity,
                source=account.source,
            )
        number, kind = next(self._numbers), kind or self._kind(function)
        item = WorkItem(number, kind, size, function, args, kwargs, requested=reserve, name=name)
        item.prediction, item.predicted_at = self._predictor.predict(kind, size), time.monotonic()
        with self._lock:
            manager = self._manager
            if manager is not None and manager.broken is not None:
                raise copy_error(manager.broken)
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _interpreter_shutdown:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            (manager or self._start()).submit(item)
        return item.future

    def _kind(self, function: Callable[..., Any]) -> TaskKey:
        """Return the kind of a function's tasks, from a cache."""
        key = function.func if isinstance(function, partial) else function
        try:
            known = self._kinds.get(key)
        except TypeError:  # not hashable
            return task_key_of(function)
        if known is None:
            if len(self._kinds) > 1024:
                self._kinds.clear()
            known = self._kinds[key] = task_key_of(function)
        return known

    def _size(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> float | None:
        if isinstance(function, partial):
            args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        return self._size_of(*args, **kwargs)


def _map(
    executor: Executor,
    function: Callable[..., T],
    calls: Iterator[tuple[Any, ...]],
    timeout: float | None,
    buffersize: int | None,
) -> Iterator[T]:
    """Submit now what fits into the buffer (all without one), and return the results in order."""
    end = None if timeout is None else time.monotonic() + timeout
    futures = deque(executor.submit(function, *call) for call in itertools.islice(calls, buffersize))
    return _results(executor, function, calls, futures, end)


def _results(
    executor: Executor,
    function: Callable[..., T],
    calls: Iterator[tuple[Any, ...]],
    futures: deque[Future[T]],
    end: float | None,
) -> Iterator[T]:
    try:
        while futures:
            futures[0].result(None if end is None else end - time.monotonic())
            for call in itertools.islice(calls, 1):
                futures.append(executor.submit(function, *call))
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


class TaskOptions(Executor):
    """Submits to a :class:`BudgetedExecutor` with options. It need not be shut down."""

    def __init__(
        self, executor: BudgetedExecutor, kind: str | None, size: float | None, reserve: int, name: str
    ) -> None:
        self._executor, self._size, self._reserve, self._name = executor, size, reserve, name
        self._kind = None if kind is None else TaskKey(kind)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """:meth:`BudgetedExecutor.submit`. Raises :class:`DoesNotFit` for a reservation that can never fit."""
        return self._executor._submit(fn, args, kwargs, self._kind, self._size, self._reserve, self._name)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the executor behind it continues."""


class _Chunks(Executor):
    """Submits each chunk of calls of a function as one task of :meth:`BudgetedExecutor.map`."""

    def __init__(self, executor: BudgetedExecutor, function: Callable[..., Any], count: int) -> None:
        self._executor, self._function = executor, function
        kind = executor._kind(function)
        self._kind = kind._replace(name=f"{kind.name} x{count}")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a chunk; its size is the largest of its calls."""
        sizes = [self._executor._size(self._function, *each) for each in args[0]]
        size = max((each for each in sizes if each is not None), default=None)
        return self._executor._submit(fn, args, kwargs, self._kind, size, 0)


def _positive(name: str, value: int) -> int:
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


def _run_chunk(function: Callable[..., T], calls: tuple[tuple[Any, ...], ...]) -> list[T]:
    return [function(*args) for args in calls]


_managers: weakref.WeakSet[ExecutorManager] = weakref.WeakSet()
_interpreter_shutdown = False


def _at_exit() -> None:
    """Finish what was submitted when the program ends, as the standard library's pools do."""
    global _interpreter_shutdown
    _interpreter_shutdown = True
    managers = list(_managers)
    for manager in managers:
        manager.close()
    for manager in managers:
        manager.join()


# Before threads are joined, where Python offers that (3.9, not documented): our threads are daemons.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
