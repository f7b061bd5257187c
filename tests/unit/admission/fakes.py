"""Stand-ins for what the scheduling of an executor uses: pool, workers, ledger and group, without processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from memwarden.admission.executor.batch_report import BatchStats
from memwarden.admission.executor.memory_control import MemoryControl
from memwarden.admission.executor.reservations import ReservationClient
from memwarden.admission.executor.task_queue import TaskQueue
from memwarden.admission.executor.task_scheduler import Limits, TaskScheduler
from memwarden.admission.footprints.predictors import FunctionPredictor
from memwarden.admission.pool.connection import READY, RESULT, ResultItem
from memwarden.admission.pool.task import WorkItem
from memwarden.admission.pool.worker_handle import WorkerHandle
from memwarden.admission.pool.worker_pool import WorkerPool
from memwarden.contain.worker_cgroup import WorkerCgroup
from memwarden.model.footprints import TaskKey
from memwarden.testing import FakeClock

MIB = 1 << 20


class FakeReservation:
    """A reservation in a :class:`FakeLedger`."""

    def __init__(self, ledger: FakeLedger, size: int) -> None:
        self._ledger, self.bytes, self.pid, self.used = ledger, size, 0, 0
        ledger.reservations.append(self)

    def grow(self, size: int, *, in_turn: bool = False) -> bool:
        if size > self._ledger.free:
            return False
        self.bytes += size
        return True

    def shrink(self, size: int) -> None:
        self.bytes -= size

    def assign(self, pid: int) -> None:
        self.pid = pid

    def report_usage(self, used: int) -> None:
        self.used = used

    def release(self) -> None:
        if self in self._ledger.reservations:
            self._ledger.reservations.remove(self)
        self.bytes = 0


class FakePending:
    """A request in a :class:`FakeLedger`; granted when ``ledger.grant`` is set."""

    def __init__(self, ledger: FakeLedger, size: int) -> None:
        self._ledger, self._size, self.left = ledger, size, False

    def poll(self) -> FakeReservation | None:
        return FakeReservation(self._ledger, self._size) if self._ledger.grant else None

    def cancel(self) -> None:
        self.left = True


class FakeLedger:
    """A budget in MiB, of which other programs have reserved ``others``."""

    def __init__(self, budget: float, others: float = 0) -> None:
        self.budget, self.others = int(budget * MIB), int(others * MIB)
        self.reservations: list[FakeReservation] = []
        self.pending: list[FakePending] = []
        self.contended = self.grant = False

    @property
    def free(self) -> int:
        return self.budget - self.others - sum(max(each.bytes, each.used) for each in self.reservations)

    def account(self) -> Any:
        return SimpleNamespace(committed=self.budget - self.free, free=self.free, capacity=self.budget)

    def try_reserve(self, size: int, *, label: str) -> FakeReservation | None:
        return FakeReservation(self, size) if size <= self.free else None

    def enqueue(self, size: int, *, label: str) -> FakePending:
        self.pending.append(FakePending(self, size))
        return self.pending[-1]


class FakeConnection:
    """Takes what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def send(self, number: int, payload: bytes = b"") -> bool:
        self.sent.append((number, payload))
        return True

    def close(self) -> None: ...


class FakeWorker(WorkerHandle):
    """A worker with the memory that a test gives it; signals are listed."""

    def __init__(self) -> None:
        super().__init__(FakeConnection(), None)  # type: ignore[arg-type]
        self.memory = 0
        self.signals: list[int] = []

    def on_ready(self, item: ResultItem) -> None:
        self.pid = item.number

    def sample(self) -> int:
        self.used = self.memory
        if self.reservation is not None:
            self.reservation.report_usage(self.used)
        return self.used

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def waits_in_kernel(self) -> bool:
        return True


class FakePool(WorkerPool):
    """Workers without processes."""

    def __init__(self) -> None:
        super().__init__(None, None, None)  # type: ignore[arg-type]
        self.spawn_error: OSError | None = None

    def spawn(self) -> FakeWorker:
        if self.spawn_error is not None:
            raise self.spawn_error
        self._handles.append(worker := FakeWorker())
        return worker

    def send(self, handle: WorkerHandle, number: int, payload: bytes) -> None:
        handle.connection.send(number, payload)

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__()

    def end(self, handle: WorkerHandle, code: int | None) -> None:
        """The worker has ended and is reaped."""
        self._handles.remove(handle)
        handle.release()
        self.on_exit(handle, code)


class FakeCgroup(WorkerCgroup):
    """A group that blocks, kills and refuses as a test sets it."""

    kind = "cgroup1"
    event_fd = 99

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []
        self.blocked = self.refuses = False
        self.kills = 0

    def set_limit(self, limit: int) -> None:
        self.limits.append(limit)

    def stuck(self) -> bool:
        return self.blocked

    def refused(self) -> bool:
        return self.refuses

    def kernel_kills(self) -> int:
        return self.kills


class Outcomes:
    """Stands for result thread and footprint thread: lists what they get, and sets the futures."""

    def __init__(self) -> None:
        self.learned: list[Any] = []

    def put(self, completed: Any) -> None:
        self.learned.append(completed)

    def put_result(self, future: Future[Any], payload: bytes) -> None:
        future.set_result(payload)

    def put_error(self, future: Future[Any], error: BaseException | bytes) -> None:
        future.set_exception(error if isinstance(error, BaseException) else RuntimeError(error))


class Machine:
    """A task scheduler with fakes around it, and short calls for tests."""

    def __init__(
        self,
        budget: float = 100,
        *,
        workers: int = 2,
        attempts: int = 3,
        per_child: int | None = None,
        others: float = 0,
        enforced: bool = True,
        predict: Callable[[TaskKey, float | None], float | None] = lambda kind, size: (size or 0) * MIB,
    ) -> None:
        self.clock = FakeClock()
        self.ledger, self.pool, self.stats = FakeLedger(budget, others), FakePool(), BatchStats()
        self.cgroup = FakeCgroup()
        self.gate: Any = SimpleNamespace(closed=False)
        self.outcomes = Outcomes()
        self.queue = TaskQueue(FunctionPredictor(predict))
        group = self.cgroup if enforced else WorkerCgroup()
        ledger: Any = self.ledger
        self.reservations = ReservationClient(ledger, "test", enforced=enforced)
        self.memory = MemoryControl(self.pool, self.reservations, group, self.stats)
        outcomes: Any = self.outcomes
        self.scheduler = TaskScheduler(
            Limits(attempts, per_child), workers, self.gate, self.queue, self.pool, self.reservations, self.memory,
            self.stats, outcomes, outcomes, self.clock.monotonic,
        )  # fmt: skip
        self._numbers = iter(range(1, 1000))
        self.clock.advance(1000.0)

    def submit(self, mib: float, *, requested: float = 0) -> WorkItem:
        """A task that is predicted to need so much, of a call that can be pickled."""
        item = WorkItem(next(self._numbers), TaskKey("kind"), mib, len, ("x",), requested=int(requested * MIB))
        self.queue.add(item)
        return item

    def tick(self, seconds: float = 0.03) -> None:
        """So much time passes; then one round."""
        self.clock.advance(seconds)
        self.scheduler.tick()

    def ready(self) -> list[FakeWorker]:
        """All workers that were spawned report that they are ready; the workers."""
        for number, handle in enumerate(self.pool, 1):
            if not handle.ready:
                message = ResultItem(READY, 1000 + number, 0.0, 0, 0, 0, b"")
                handle.on_ready(message)
                self.scheduler.on_message(handle, message)
        return list(self.pool)

    def finish(self, handle: WorkerHandle, kind: int = RESULT, seconds: float = 0.1, payload: bytes = b"done") -> None:
        """The worker's task returns."""
        assert handle.run is not None
        number = handle.run.item.number
        self.scheduler.on_message(handle, ResultItem(kind, number, seconds, 0, 0, 0, payload))

    def running(self) -> list[int]:
        """Numbers of the tasks that workers have."""
        return [handle.run.item.number for handle in self.pool if handle.run is not None]
