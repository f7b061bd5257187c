"""The executor does what the standard library's process pool does: with real workers."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from memwarden.admission.executor.executor import BudgetedExecutor
from memwarden.errors import DoesNotFit, SettingsError, WorkerLost
from support import chores

pytestmark = [
    pytest.mark.usefixtures("own_places"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]
METHODS = ["fork", "spawn", "forkserver"]


def make(workers: int = 2, method: str = "fork", **options: Any) -> BudgetedExecutor:
    """An executor with a budget that no test here needs."""
    return BudgetedExecutor(workers, budget="1GiB", mp_context=get_context(method), **options)


@pytest.fixture
def executor() -> Iterator[BudgetedExecutor]:
    with make() as made:
        yield made


# --- map ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 7, 100])
def test_map_in_chunks_gives_the_same(executor: BudgetedExecutor, chunksize: int) -> None:
    """Whatever the size of a chunk, and whether it divides the number of calls."""
    assert list(executor.map(chores.product, range(20), range(20), chunksize=chunksize)) == [n * n for n in range(20)]


def test_a_chunk_is_one_task(executor: BudgetedExecutor) -> None:
    """One worker does it, and the report counts it once; the timeout counts from the call of ``map``."""
    pids = list(executor.map(chores.pid, range(40), chunksize=20))
    assert len(set(pids[:20])) == len(set(pids[20:])) == 1
    assert executor.report().submitted == 2
    results = executor.map(chores.rest, range(2), (0.0, 60.0), chunksize=1, timeout=0.5)
    assert next(results) == 0
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        next(results)
    assert time.monotonic() - begin < 5
    executor._close(False, True, kill=True)


@pytest.mark.parametrize("chunksize", [0, -1])
def test_no_chunk_is_refused(executor: BudgetedExecutor, chunksize: int) -> None:
    """As the standard library does, before anything is submitted."""
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(chores.same, [1], chunksize=chunksize)


def test_an_error_in_a_chunk_comes_in_its_place(executor: BudgetedExecutor) -> None:
    """The chunks before it are given whole."""
    results = executor.map(chores.inverse, [1, 2, 4, 0], chunksize=2)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_rest_of_a_map_that_is_not_read_is_cancelled(executor: BudgetedExecutor, tmp_path: Path) -> None:
    """Pending tasks are cancelled when the generator closes."""
    results = executor.map(chores.attend, [str(tmp_path)] * 6, list("abcdef"))
    chores.started(tmp_path, "a")
    chores.started(tmp_path, "b")
    time.sleep(0.05)
    chores.go(tmp_path)
    assert next(results)
    results.close()
    executor.shutdown()
    report = executor.report()
    assert report.finished + report.cancelled == 6


# --- cancelling ----------------------------------------------------------------------------------------------


def test_what_was_cancelled_never_runs(executor: BudgetedExecutor, tmp_path: Path) -> None:
    """A running one cannot be cancelled; a waiting one can, and is not run when its turn comes."""
    running = [executor.submit(chores.attend, str(tmp_path), name) for name in "ab"]
    for name in "ab":
        chores.started(tmp_path, name)
    waiting = [executor.submit(chores.attend, str(tmp_path), name) for name in "cde"]
    assert not running[0].cancel()
    assert waiting[0].cancel()
    assert waiting[1].cancel()
    chores.go(tmp_path)
    assert waiting[2].result(60) > 0
    assert wait(waiting, 60).not_done == set()
    assert not (tmp_path / "c.started").exists()
    assert not (tmp_path / "d.started").exists()
    executor.shutdown()
    assert (executor.report().finished, executor.report().cancelled) == (3, 2)


def test_all_of_many_are_cancelled(executor: BudgetedExecutor, tmp_path: Path) -> None:
    """Thousands at once, from another thread while the supervisor takes from the same queue."""
    held = executor.submit(chores.attend, str(tmp_path))
    futures = [executor.submit(chores.rest, each, 0.001) for each in range(3000)]
    cancelled = sum(future.cancel() for future in reversed(futures))
    chores.go(tmp_path)
    assert held.result(60)
    done, left = wait(futures, 60)
    assert (len(done), len(left)) == (3000, 0)
    assert sum(future.cancelled() for future in futures) == cancelled > 1000
    assert executor.submit(chores.same, 1).result(60) == 1


def test_waiters_notice_a_cancelled_future(executor: BudgetedExecutor, tmp_path: Path) -> None:
    """``wait`` returns for a future that is cancelled while it waits, though no worker is free."""
    for name in "ab":
        executor.submit(chores.attend, str(tmp_path), name)
        chores.started(tmp_path, name)
    future = executor.submit(chores.same, 1)
    threading.Timer(0.1, future.cancel).start()
    with pytest.raises(CancelledError):
        future.result(30)
    chores.go(tmp_path)


# --- what tasks raise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_exception_has_the_workers_traceback(method: str) -> None:
    """The worker's traceback is the ``__cause__``, as text, with the line that raised it."""
    with make(1, method) as executor:
        error = executor.submit(chores.inverse, 0).exception(60)
        assert isinstance(error, ZeroDivisionError)
        assert "return 1 / value" in str(error.__cause__)
        assert "chores.py" in str(error.__cause__)


def test_what_cannot_be_pickled_fails_only_its_own_task(executor: BudgetedExecutor) -> None:
    """Arguments, results and exceptions that pickle refuses, on either side; each future raises the reason."""
    cases: list[tuple[Future[Any], str, type[BaseException]]] = [
        (executor.submit(chores.same, chores.Shy()), "shy", TypeError),
        (executor.submit(chores.same, lambda: None), "lambda", Exception),
        (executor.submit(lambda: None), "lambda", Exception),
        (executor.submit(chores.same, chores.OneWay()), "not to be unpickled", chores.Refusal),
        (executor.submit(chores.make, "Shy"), "shy", TypeError),
        (executor.submit(chores.make, "OneWay"), "not to be unpickled", chores.Refusal),
        (executor.submit(chores.refuse_two), "missing 1 required", TypeError),
        (executor.submit(chores.refuse_unspeakably), "Unspeakable", Exception),
        (executor.submit(chores.leave, 3), "3", SystemExit),
    ]
    good = [executor.submit(chores.same, each) for each in range(20)]
    for future, words, kind in cases:
        error = future.exception(60)
        assert isinstance(error, kind), (error, words)
        assert words in f"{error} {error.__cause__}"
    assert [future.result(60) for future in good] == list(range(20))
    assert executor.report().incidents == ()


# --- shutting down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_shutdown_does_what_was_submitted_first(method: str) -> None:
    """It returns when all is done and the workers are gone; more is refused, and a second call does nothing."""
    executor = make(2, method)
    futures = [executor.submit(chores.pid, each) for each in range(12)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert all(chores.is_gone(future.result()) for future in futures)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(chores.same, 1)
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)


def test_shutdown_need_not_wait(tmp_path: Path) -> None:
    """It returns at once, what was submitted is done, and then the workers go."""
    executor = make(1)
    futures = [executor.submit(chores.attend, str(tmp_path), name) for name in "ab"]
    pid = chores.started(tmp_path, "a")
    begin = time.monotonic()
    executor.shutdown(wait=False)
    assert time.monotonic() - begin < 0.5
    with pytest.raises(RuntimeError):
        executor.submit(chores.same, 1)
    chores.go(tmp_path)
    assert [future.result(60) for future in futures] == [pid, pid]
    chores.until(lambda: chores.is_gone(pid))
    executor.shutdown()


@pytest.mark.parametrize("waiting", [True, False])
def test_shutdown_may_cancel_what_waits(tmp_path: Path, waiting: bool) -> None:
    """Running tasks finish; pending ones are cancelled."""
    executor = make(2)
    running = [executor.submit(chores.attend, str(tmp_path), name) for name in "ab"]
    for name in "ab":
        chores.started(tmp_path, name)
    time.sleep(0.05)
    left = [executor.submit(chores.same, each) for each in range(500)]
    threading.Timer(0.2, chores.go, [tmp_path]).start()
    executor.shutdown(wait=waiting, cancel_futures=True)
    assert wait([*running, *left], 60).not_done == set()
    assert all(future.exception() is None for future in running)
    assert all(future.cancelled() for future in left)
    executor.shutdown()
    assert (executor.report().finished, executor.report().cancelled) == (2, 500)


def test_shutdown_from_a_callback(tmp_path: Path) -> None:
    """A future's callback may shut the executor down, waiting as it would elsewhere: nothing waits for itself."""
    executor = make(2)
    done = threading.Event()

    def close(_: Future[int]) -> None:
        executor.shutdown(wait=True)
        done.set()

    futures = [executor.submit(chores.attend, str(tmp_path), name) for name in "abc"]
    futures[0].add_done_callback(close)
    chores.go(tmp_path)
    assert done.wait(30)
    executor.shutdown()
    assert all(future.result(60) for future in futures)


def test_shutdown_from_many_threads(executor: BudgetedExecutor) -> None:
    """All return, and each finds the work done."""
    futures = [executor.submit(chores.rest, each, 0.01) for each in range(30)]
    seen: list[int] = []

    def close() -> None:
        executor.shutdown()
        seen.append(sum(future.done() for future in futures))

    threads = [threading.Thread(target=close) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [30] * 5


def test_one_that_was_never_used_shuts_down() -> None:
    """No worker was started for it."""
    executor = make()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(chores.same, 1)
    with make() as other:
        assert other.max_workers == 2
    assert other.report().submitted == 0


def test_ctrl_c_inside_with_ends_what_runs(tmp_path: Path) -> None:
    """A user does not wait for tasks after Ctrl-C: running ones are killed, pending ones cancelled."""
    futures: list[Future[int]] = []
    begin = 0.0

    def batch() -> None:
        nonlocal begin
        with make(2) as executor:
            futures.extend(executor.submit(chores.attend, str(tmp_path), name) for name in "abcdef")
            chores.started(tmp_path, "a")
            chores.started(tmp_path, "b")
            begin = time.monotonic()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        batch()
    assert time.monotonic() - begin < 5
    assert all(future.done() for future in futures)
    assert isinstance(futures[0].exception(), WorkerLost)
    assert sum(future.cancelled() for future in futures) == 4
    assert chores.is_gone(chores.started(tmp_path, "a"))


def test_ctrl_c_while_the_end_of_with_waits_ends_what_runs(tmp_path: Path) -> None:
    """Most batches are interrupted there: everything is submitted, and the block waits for it."""
    futures: list[Future[int]] = []
    begin = 0.0

    def interrupt() -> None:
        nonlocal begin
        chores.started(tmp_path, "a")
        begin = time.monotonic()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def batch() -> None:
        with make(1) as executor:
            futures.extend(executor.submit(chores.attend, str(tmp_path), name) for name in "abc")
            thread.start()

    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        batch()
    assert time.monotonic() - begin < 5
    thread.join()
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert isinstance(futures[0].exception(0), WorkerLost)
    assert chores.is_gone(chores.started(tmp_path, "a"))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_ctrl_c_kills_workers_that_are_about_to_start(method: str) -> None:
    """Also those that were not ready at that moment."""
    futures: list[Future[Any]] = []
    started = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), make(2, method) as executor:
        futures = [executor.submit(chores.rest, each, 60) for each in range(20)]
        raise KeyboardInterrupt
    assert time.monotonic() - started < 8
    assert all(future.done() for future in futures)


def test_an_error_inside_with_loses_nothing(tmp_path: Path) -> None:
    """An ordinary exception of the program: what was submitted is done."""
    futures: list[Future[int]] = []
    with contextlib.suppress(chores.Refusal), make(2) as executor:
        futures.extend(executor.submit(chores.rest, each, 0.02) for each in range(6))
        chores.refuse()
    assert [future.result(0) for future in futures] == list(range(6))


# --- starting workers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_each_worker_is_initialized_once(method: str) -> None:
    """Before its first task, with ``initargs``."""
    with make(2, method, initializer=chores.remember, initargs=("a", 1)) as executor:
        assert [executor.submit(chores.remembered).result(60) for _ in range(6)] == [["a", 1]] * 6


@pytest.mark.parametrize("method", METHODS)
def test_a_failing_initializer_breaks_the_executor(method: str) -> None:
    """Every future and every further call raises ``BrokenProcessPool`` and names the initializer's error."""
    with make(2, method, initializer=chores.unfit) as executor:
        futures = [executor.submit(chores.same, each) for each in range(5)]
        for future in futures:
            error = future.exception(60)
            assert isinstance(error, BrokenProcessPool)
            assert "no disk" in str(error)
        assert isinstance(error.__cause__, chores.Refusal)
        with pytest.raises(BrokenExecutor):
            executor.submit(chores.same, 1)


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_that_ends_its_worker_breaks_the_executor(method: str) -> None:
    """Workers are not started again and again for ever."""
    with make(2, method, initializer=chores.end_at_once) as executor:
        futures = [executor.submit(chores.same, each) for each in range(5)]
        assert {type(future.exception(60)) for future in futures} == {BrokenProcessPool}


def test_workers_are_kept_and_no_more_begin_than_are_needed() -> None:
    """One after the other needs one process; the next batch finds it again."""
    with make(4) as executor:
        pids = {executor.submit(chores.pid).result(60) for _ in range(20)}
        assert len(pids) == 1
    assert os.getpid() not in pids


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("most", [1, 3])
def test_workers_are_replaced_after_so_many_tasks(method: str, most: int) -> None:
    """``max_tasks_per_child``: none does more, however short the tasks, and all are done."""
    with make(2, method, max_tasks_per_child=most) as executor:
        counts = Counter(executor.map(chores.pid, range(12)))
    assert sum(counts.values()) == 12
    assert max(counts.values()) <= most


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, SettingsError, "max_workers"),
        ({"max_workers": 1.5}, TypeError, "max_workers"),
        ({"max_workers": True}, TypeError, "max_workers"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child"),
        ({"max_tasks_per_child": "1"}, TypeError, "max_tasks_per_child"),
        ({"attempts": 0}, ValueError, "attempts"),
        ({"budget": "much"}, ValueError, "much"),
        ({"budget": "1GiB", "ledger": "a b"}, SettingsError, "ledger name"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """Before anything begins; and they leave nothing behind."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=words):
        BudgetedExecutor(**options)
    assert set(os.listdir("/proc/self/fd")) == before


# --- much, and at once -----------------------------------------------------------------------------------------


def test_thousands_of_tasks() -> None:
    """All are done, none twice."""
    with make(4) as executor:
        assert Counter(executor.map(chores.same, range(5000))) == Counter(range(5000))
        assert executor.report().finished == 5000


def test_large_arguments_and_results_both_ways_at_once() -> None:
    """200 MB to a worker while it sends 200 MB back: neither side waits for the other for ever."""
    blob = b"\xa5" * 200_000_000
    with BudgetedExecutor(2, budget="4GiB", predictor=None) as executor:
        futures = [executor.submit(chores.same, blob) for _ in range(3)]
        assert all(future.result(100) == blob for future in futures)


def test_submitting_from_threads_and_callbacks(executor: BudgetedExecutor) -> None:
    """Eight threads at once, and callbacks that submit more: every call is done once."""
    more: list[Future[int]] = []
    lock = threading.Lock()

    def again(future: Future[int]) -> None:
        next_one = executor.submit(chores.same, -future.result())
        with lock:
            more.append(next_one)

    def work(number: int) -> None:
        for each in range(40):
            executor.submit(chores.same, number * 40 + each).add_done_callback(again)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    chores.until(lambda: len(more) == 320)
    assert sorted(future.result(60) for future in more) == list(range(-319, 1))


def test_a_callback_that_raises_system_exit_costs_no_result(executor: BudgetedExecutor) -> None:
    """Whatever it raises, ``SystemExit`` included: the other futures still get their results."""
    first = executor.submit(chores.rest, 1, 0.1)
    first.add_done_callback(lambda _: sys.exit(1))
    assert first.result(60) == 1
    assert list(executor.map(chores.same, range(10), timeout=30)) == list(range(10))


def test_a_long_task_does_not_hold_up_others_of_its_kind(tmp_path: Path) -> None:
    """After many short ones comes a long one: while it runs, the other worker does all the rest."""
    with make(2) as executor:
        tasks = executor.with_options(kind="mixed", size=1)
        for future in [tasks.submit(chores.rest, each, 0.005) for each in range(50)]:
            future.result(60)
        tasks.submit(chores.attend, str(tmp_path))
        rest = [tasks.submit(chores.same, each) for each in range(50)]
        try:
            assert wait(rest, 5).not_done == set()
        finally:
            chores.go(tmp_path)


def test_workers_that_are_stopped_at_any_moment_cost_no_task(tmp_path: Path) -> None:
    """A stopped worker delays its own task alone, also where it was stopped before it had started it."""
    folder = tmp_path / "begin"
    folder.mkdir()
    with make(3) as executor:
        tasks = executor.with_options(kind="short", size=1)
        futures = [tasks.submit(chores.note_begin, str(folder)) for _ in range(1000)]
        stops = 0
        while not all(future.done() for future in futures):
            for pid in {future.result(0) for future in futures if future.done()}:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.02)
                os.kill(pid, signal.SIGCONT)
                stops += 1
    assert stops > 5
    assert len(list(folder.iterdir())) == 1000
    assert executor.report().requeues == 0


def test_an_executor_inside_a_task() -> None:
    """A worker may have an executor of its own; both are done."""
    with BudgetedExecutor(2, budget="400MiB") as executor:
        assert list(executor.map(nested, range(3), timeout=60)) == [[0, 0], [0, 1], [0, 2]]


def nested(number: int) -> list[int]:
    with BudgetedExecutor(2, budget="400MiB") as inner:
        return list(inner.map(partial(chores.product, number), range(2))) if number != 0 else [0, 0]


def test_a_reservation_that_can_never_be_had_is_refused_at_once(executor: BudgetedExecutor) -> None:
    """It is a MemoryError, and its message has the budget."""
    with pytest.raises(DoesNotFit, match="can never fit") as caught:
        executor.with_options(reserve="2GiB").submit(chores.same, 1)
    assert isinstance(caught.value, MemoryError)
    assert executor.submit(chores.same, 1).result(60) == 1


@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_bounded_map_reads_its_input_as_results_are_taken(chunksize: int) -> None:
    """An endless input, in order; what was submitted and not taken is cancelled when the iterator is closed."""
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for read in itertools.count(1):
            yield -read

    with BudgetedExecutor(2, budget="500MiB") as executor:
        results = executor.map(abs, numbers(), buffersize=4, chunksize=chunksize)
        assert list(itertools.islice(results, 30)) == list(range(1, 31))
        assert read <= 30 + 5 * chunksize
        del results
        assert list(executor.map(abs, [-1, -2, -3], buffersize=10, chunksize=chunksize)) == [1, 2, 3]
        with pytest.raises(TimeoutError):
            next(executor.map(time.sleep, [0.5] * 3, buffersize=2, timeout=0.1))
        for bad in (0, -1):
            with pytest.raises(ValueError, match="buffersize"):
                executor.map(abs, [1], buffersize=bad)


@pytest.mark.parametrize("budget", ["1KiB", 4])
def test_a_budget_in_which_nothing_can_start_is_refused(budget: int | str) -> None:
    """It waited for ever, and SIGINT did not end it; most likely a number without its unit."""
    with pytest.raises(SettingsError, match="no task fits into less than"):
        BudgetedExecutor(2, budget=budget)


def test_each_future_of_a_broken_executor_has_an_error_of_its_own() -> None:
    """Raising one object again and again makes its traceback longer."""
    executor = BudgetedExecutor(1, budget="500MiB", initializer=int, initargs=("x",))
    futures = [executor.submit(abs, 1) for _ in range(3)]
    errors = [future.exception(20) for future in futures]
    assert len({id(error) for error in errors}) == 3
    assert {type(error) for error in errors} == {BrokenProcessPool}
    later = []
    for _ in range(3):
        with pytest.raises(BrokenProcessPool) as caught:
            executor.submit(abs, 1)
        later.append(len(caught.traceback))
    assert len(set(later)) == 1
    executor.shutdown()
