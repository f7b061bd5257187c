"""One suite that every executor passes which may do batches: ours, the standard library's, Dask's.

Only what they all share is asked here; so code that keeps to it may take any of them. What ours promises beyond that is
in ``tests/live/test_executor*.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("BudgetedExecutor needs Linux", allow_module_level=True)
from multiprocessing import get_context

from memwarden.admission.executor.executor import BudgetedExecutor
from support import chores

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")

WORKERS = 4


def budgeted(method: str) -> BudgetedExecutor:
    return BudgetedExecutor(WORKERS, budget="1GiB", mp_context=get_context(method))


@contextmanager
def with_options() -> Iterator[Executor]:
    with BudgetedExecutor(WORKERS, budget="1GiB") as executor:
        yield executor.with_options(kind="contract", size=1, reserve="1MiB")


@contextmanager
def dask() -> Iterator[Executor]:
    from distributed import Client

    with Client(
        processes=False, n_workers=1, threads_per_worker=WORKERS, dashboard_address=None, set_as_default=False
    ) as client:
        yield client.get_executor(pure=False)  # else a call with the same arguments is made once


MAKERS: dict[str, Callable[[], AbstractContextManager[Executor]]] = {
    "budgeted-fork": lambda: budgeted("fork"),
    "budgeted-spawn": lambda: budgeted("spawn"),
    "budgeted-forkserver": lambda: budgeted("forkserver"),
    "with_options": with_options,
    "threads": lambda: ThreadPoolExecutor(WORKERS),
}
#: Dask leaves threads behind for the life of the process, which other tests cannot bear: it has one of its own.
_ALONE = "MEMWARDEN_TEST_DASK"
if os.environ.get(_ALONE):
    MAKERS = {"dask": dask}


@pytest.mark.skipif(bool(os.environ.get(_ALONE)), reason="this is that process")
def test_dask_passes_this_suite() -> None:
    """In a process of its own; nothing is skipped there but this."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=os.environ | {_ALONE: "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " 1 skipped" in done.stdout


@pytest.fixture(scope="module", params=MAKERS)
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """One of each, with places of its own."""
    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        with MAKERS[request.param]() as made:
            yield made


def test_a_call_gives_its_result(executor: Executor) -> None:
    """With positional and named arguments, also ones that are called like our own."""
    future = executor.submit(chores.given, 1, [2], name="three")
    assert future.result(60) == ((1, [2]), {"name": "three"})
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.exception() is None


def test_other_callables_serve_too(executor: Executor) -> None:
    """Functions in C, classes, methods, partial ones."""
    calls = [executor.submit(len, "four"), executor.submit(int, "7", base=8), executor.submit("a-b".split, "-")]
    calls.append(executor.submit(partial(chores.product, 6), 7))
    assert [call.result(60) for call in calls] == [4, 7, ["a", "b"], 42]


def test_map_keeps_the_order_and_ends_with_the_shortest(executor: Executor) -> None:
    """Results come in the order of the arguments, however long each takes."""
    assert list(executor.map(chores.rest, range(4), (0.2, 0.1, 0.0, 0.0))) == [0, 1, 2, 3]
    assert list(executor.map(chores.product, [1, 2, 3], [10, 20])) == [10, 40]
    assert list(executor.map(chores.same, [])) == []


def test_map_begins_before_anybody_asks(executor: Executor, tmp_path: Path) -> None:
    """The work is under way when ``map`` returns, not when its results are read."""
    results = executor.map(chores.attend, [str(tmp_path)], ["eager"])
    assert chores.started(tmp_path, "eager")
    chores.go(tmp_path)
    assert len(list(results)) == 1


def test_map_raises_where_a_call_did(executor: Executor) -> None:
    """Results before it are given; then comes its own exception."""
    results = executor.map(chores.inverse, [1, 2, 0, 4])
    assert next(results) == 1
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_has_a_timeout(executor: Executor, tmp_path: Path) -> None:
    """Results that are there in time are returned, then ``TimeoutError`` is raised."""
    results = executor.map(chores.attend, [str(tmp_path)], timeout=0.3)
    with pytest.raises(TimeoutError):
        next(results)
    chores.go(tmp_path)


def test_a_result_has_a_timeout(executor: Executor, tmp_path: Path) -> None:
    """A caller may stop waiting, and ask again later."""
    future = executor.submit(chores.attend, str(tmp_path))
    with pytest.raises(TimeoutError):
        future.result(0.1)
    with pytest.raises(TimeoutError):
        future.exception(0)
    chores.go(tmp_path)
    assert future.result(60) > 0


def test_an_exception_is_the_tasks_own(executor: Executor) -> None:
    """Its type and its arguments, every time."""
    future = executor.submit(chores.refuse, "too late")
    error = future.exception(60)
    assert isinstance(error, chores.Refusal)
    assert error.args == ("too late",)
    for _ in range(2):
        with pytest.raises(chores.Refusal, match="too late"):
            future.result()
    assert executor.submit(chores.same, 1).result(60) == 1


def test_callbacks_are_called_once_with_the_future(executor: Executor) -> None:
    """Before the end and after it; one that raises delays no other."""
    called: list[Future[int]] = []
    event = threading.Event()

    def hear(future: Future[int]) -> None:
        called.append(future)
        event.set()

    future = executor.submit(chores.rest, 5, 0.05)
    future.add_done_callback(hear)
    assert future.result(60) == 5
    assert event.wait(60)
    future.add_done_callback(hear)
    assert called == [future, future]


def test_the_standard_librarys_waiting_works(executor: Executor, tmp_path: Path) -> None:
    """``wait`` and ``as_completed`` take our futures."""
    slow = executor.submit(chores.attend, str(tmp_path))
    quick = executor.submit(chores.same, 1)
    done, left = wait([slow, quick], 60, FIRST_COMPLETED)
    assert (done, left) == ({quick}, {slow})
    chores.go(tmp_path)
    assert set(as_completed([slow, quick], 60)) == {slow, quick}
    assert wait([slow, quick], 60, ALL_COMPLETED).not_done == set()


def test_a_pending_task_can_be_cancelled(executor: Executor, tmp_path: Path) -> None:
    """Waiters notice it, and the others are done. (With Dask it may run all the same.)"""
    busy = [executor.submit(chores.attend, str(tmp_path), f"busy-{each}") for each in range(WORKERS)]
    for each in range(WORKERS):
        chores.started(tmp_path, f"busy-{each}")
    time.sleep(0.05)  # Celery and Dask may prefetch
    waits = executor.submit(chores.attend, str(tmp_path), "never")
    assert waits.cancel()
    chores.go(tmp_path)
    assert all(future.result(60) for future in busy)
    assert waits.cancelled()
    assert wait([waits], 60).not_done == set()
    with pytest.raises(CancelledError):
        waits.result()
    assert executor.submit(chores.same, 3).result(60) == 3


def test_several_threads_may_submit(executor: Executor) -> None:
    """Each gets its own results."""
    got: dict[int, list[int]] = {}

    def work(number: int) -> None:
        futures = [executor.submit(chores.product, number, each) for each in range(25)]
        got[number] = [future.result(60) for future in futures]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {number: [number * each for each in range(25)] for number in range(4)}


def test_hundreds_of_calls_are_done(executor: Executor) -> None:
    """More than fit into any queue."""
    assert sum(executor.map(chores.same, range(500))) == 124750
