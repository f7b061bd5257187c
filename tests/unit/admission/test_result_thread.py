"""Setting of results and exceptions in a thread of its own."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from memwarden.admission.executor.result_thread import ResultThread
from memwarden.admission.pool.worker import pickle_error
from support import chores


@pytest.fixture
def results() -> Iterator[ResultThread]:
    made = ResultThread()
    made.start()
    yield made
    made.stop()


def future() -> Future[Any]:
    made: Future[Any] = Future()
    made.set_running_or_notify_cancel()
    return made


def test_results_and_errors_arrive_in_order(results: ResultThread) -> None:
    """In the thread, one after the other."""
    order: list[tuple[int, str]] = []
    futures = [future() for _ in range(20)]
    for number, each in enumerate(futures):
        each.add_done_callback(lambda _, number=number: order.append((number, threading.current_thread().name)))
        if number % 2:
            results.put_error(each, ValueError(number))
        else:
            results.put_result(each, pickle.dumps(number))
    results.flush()
    assert [each.exception(10) is not None if n % 2 else each.result(10) == n for n, each in enumerate(futures)]
    results.stop()
    assert order == [(number, "memwarden-results") for number in range(20)]


def test_a_pickled_error_has_the_traceback_as_its_cause(results: ResultThread) -> None:
    """As ProcessPoolExecutor does."""
    failed = future()
    try:
        chores.inverse(0)
    except ZeroDivisionError as error:
        results.put_error(failed, pickle_error(error))
        results.flush()
    error = failed.exception(10)
    assert isinstance(error, ZeroDivisionError)
    assert "return 1 / value" in str(error.__cause__)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        pytest.param(pickle.dumps(chores.OneWay()), chores.Refusal, id="refuses to be unpickled"),
        pytest.param(b"no pickle", pickle.UnpicklingError, id="no pickle"),
    ],
)
def test_a_result_that_cannot_be_unpickled_is_an_error(
    results: ResultThread, payload: bytes, error: type[Exception]
) -> None:
    """Of its future alone."""
    failed, good = future(), future()
    results.put_result(failed, payload)
    results.put_result(good, pickle.dumps(1))
    results.flush()
    assert isinstance(failed.exception(10), error)
    assert good.result(10) == 1


def test_an_error_that_is_no_exception_is_one(results: ResultThread) -> None:
    """An exception that pickles as something else."""
    failed = future()
    results.put_error(failed, pickle.dumps((pickle.dumps("words"), "lines")))
    results.flush()
    error = failed.exception(10)
    assert isinstance(error, pickle.UnpicklingError)
    assert "str" in str(error)


def test_a_callback_may_raise_anything(results: ResultThread) -> None:
    """The thread goes on."""

    def leave(_: Future[Any]) -> None:
        raise SystemExit(1)

    first, second = future(), future()
    first.add_done_callback(leave)
    results.put_result(first, pickle.dumps(1))
    results.put_result(second, pickle.dumps(2))
    results.flush()
    assert second.result(10) == 2


def test_a_future_that_is_done_already_is_left_alone(results: ResultThread) -> None:
    """Its result stays."""
    done, other = future(), future()
    done.set_result("first")
    results.put_result(done, pickle.dumps("second"))
    results.put_result(other, pickle.dumps(2))
    results.flush()
    assert other.result(10) == 2
    assert done.result() == "first"


def test_stopping_from_a_callback_does_not_wait_for_itself() -> None:
    """As ``shutdown(wait=True)`` in a callback does."""
    results = ResultThread()
    results.start()
    done = future()
    done.add_done_callback(lambda _: results.stop())
    results.put_result(done, pickle.dumps(1))
    results.flush()
    results.thread.join(10)
    assert not results.thread.is_alive()
