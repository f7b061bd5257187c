"""The manager thread with workers that are threads: no process is started."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from memwarden.actions.gate import Gate
from memwarden.admission.executor.manager_thread import ExecutorManager
from memwarden.admission.executor.task_scheduler import Limits
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.pool.connection import NOT_STARTED, READY, RESULT, ResultItem, receive_call, send_result
from memwarden.admission.pool.task import WorkItem
from memwarden.admission.pool.worker import pickle_error
from memwarden.contain.worker_cgroup import WorkerCgroup
from memwarden.model.footprints import TaskKey
from support import chores

from .fakes import FakeLedger

#: A pid that no process has: such a worker cannot be signalled.
NO_PID = 1 << 30


class ThreadSpawner:
    """Workers that are threads. ``first`` is their first message."""

    def __init__(self) -> None:
        self.first = ResultItem(READY, NO_PID, 0.0, 0, 0, 0, b"")
        self.closed = False
        self.threads: list[threading.Thread] = []

    def start(self, sock: socket.socket) -> None:
        self.threads.append(threading.Thread(target=self._work, args=(sock.dup(),)))
        self.threads[-1].start()

    def _work(self, sock: socket.socket) -> None:
        with sock:
            send_result(sock, self.first)
            while self.first.kind == READY:
                try:
                    number, payload = receive_call(sock)
                except (EOFError, OSError):
                    return
                if not number:
                    return
                fn, args, kwargs = pickle.loads(payload)
                send_result(sock, ResultItem(RESULT, number, 0.0, 0, 0, 0, pickle.dumps(fn(*args, **kwargs))))

    def reap(self, pid: int) -> int | None:
        return 0

    def close(self) -> None:
        for thread in self.threads:
            thread.join(10)
        self.closed = True


@pytest.fixture
def spawner() -> ThreadSpawner:
    return ThreadSpawner()


@pytest.fixture
def manager(spawner: ThreadSpawner) -> Iterator[ExecutorManager]:
    ledger: Any = FakeLedger(100)
    made = ExecutorManager(
        Limits(3, None), workers=2, ledger=ledger, predictor=Footprints(budget=1 << 26, slots=2),
        owns_predictor=False, cgroup=WorkerCgroup(), spawner=spawner, gate=Gate(), name="test",
    )  # fmt: skip
    made.start()
    yield made
    made.close(cancel=True, kill=True)
    made.join()


def submit(manager: ExecutorManager, fn: Callable[..., Any], *args: Any) -> Future[Any]:
    item = WorkItem(1 + manager.report().submitted, TaskKey("kind"), 1.0, fn, args)
    manager.submit(item)
    return item.future


def test_what_was_submitted_is_done_before_the_end(manager: ExecutorManager, spawner: ThreadSpawner) -> None:
    """Then the workers exit, the spawner is closed, and all threads and descriptors are gone."""
    futures = [submit(manager, chores.same, each) for each in range(50)]
    manager.close()
    manager.join()
    assert [future.result(0) for future in futures] == list(range(50))
    assert spawner.closed
    assert len(spawner.threads) <= 2
    assert manager.report().finished == 50
    assert not [each.name for each in threading.enumerate() if each.name.startswith("memwarden-")]


def test_descriptors_are_closed(manager: ExecutorManager) -> None:
    """Connections, wakeup and loop."""
    submit(manager, chores.same, 1).result(10)
    during = len(os.listdir("/proc/self/fd"))
    manager.close()
    manager.join()
    assert len(os.listdir("/proc/self/fd")) < during


def test_pending_tasks_are_cancelled(manager: ExecutorManager, tmp_path: Any) -> None:
    """The running ones finish."""
    running = [submit(manager, chores.attend, str(tmp_path), name) for name in "ab"]
    for name in "ab":
        chores.started(tmp_path, name)
    pending = [submit(manager, chores.same, each) for each in range(20)]
    manager.close(cancel=True)
    wait(pending, 10)
    chores.go(tmp_path)
    manager.join()
    assert all(future.cancelled() for future in pending)
    assert all(future.result(0) for future in running)
    assert manager.report().cancelled == 20


def test_a_worker_that_cannot_start_breaks_all(manager: ExecutorManager, spawner: ThreadSpawner) -> None:
    """Futures and later calls get the initializer's error."""
    spawner.first = ResultItem(NOT_STARTED, 0, 0.0, 0, 0, 0, pickle_error(chores.Refusal("no disk")))
    futures = [submit(manager, chores.same, each) for each in range(5)]
    for future in futures:
        error = future.exception(10)
        assert isinstance(error, BrokenProcessPool)
        assert "no disk" in str(error)
        assert isinstance(error.__cause__, chores.Refusal)
    assert isinstance(submit(manager, chores.same, 1).exception(10), BrokenProcessPool)


def test_a_fault_of_the_manager_leaves_no_future_waiting(
    manager: ExecutorManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails all of them, and join() returns."""

    def fail() -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(manager._scheduler, "tick", fail)
    error = submit(manager, chores.same, 1).exception(10)
    assert isinstance(error, BrokenProcessPool)
    assert "ZeroDivisionError: a fault" in str(error)
    manager.join()


def test_joining_from_a_callback_does_not_wait_for_itself(manager: ExecutorManager, tmp_path: Any) -> None:
    """The callback runs in the result thread, which the manager waits for."""
    joined = threading.Event()

    def close(_: Future[Any]) -> None:
        manager.close()
        manager.join()
        joined.set()

    future = submit(manager, chores.attend, str(tmp_path))
    future.add_done_callback(close)
    chores.go(tmp_path)
    assert joined.wait(10)
    manager.join()


def test_the_number_of_workers_can_be_lowered(manager: ExecutorManager, spawner: ThreadSpawner) -> None:
    """An idle one exits."""
    for future in [submit(manager, time.sleep, 0.05) for _ in range(4)]:
        future.result(10)
    manager.max_workers = 1
    chores.until(lambda: sum(thread.is_alive() for thread in spawner.threads) == 1)


def test_a_child_of_a_fork_takes_nothing(manager: ExecutorManager) -> None:
    """Its copies of the connections are closed; the parent goes on."""
    submit(manager, chores.same, 1).result(10)
    child = os.fork()
    if not child:
        broken = isinstance(manager.broken, BrokenProcessPool)
        os._exit(0 if broken and manager._wakeup == -1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert submit(manager, chores.same, 2).result(10) == 2
