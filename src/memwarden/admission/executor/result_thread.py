"""A thread that sets the results of futures.

A future runs its callbacks, and unpickling may take long; the sampling of the workers must not wait for either.
"""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Any

from memwarden.model.log import warn


class RemoteTraceback(Exception):
    """Traceback in the worker, as text; the ``__cause__`` of the exception that ``Future.result()`` raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class ResultThread:
    """Sets results and exceptions in the order in which they came."""

    def __init__(self) -> None:
        self._results: SimpleQueue[tuple[Future[Any], bytes | None, bytes | BaseException | None] | None]
        self._results = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="memwarden-results", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def put_result(self, future: Future[Any], payload: bytes) -> None:
        """Set a pickled result."""
        self._results.put((future, payload, None))

    def put_error(self, future: Future[Any], error: BaseException | bytes) -> None:
        """Set an exception, or one pickled by :func:`memwarden.admission.pool.worker.pickle_error`."""
        self._results.put((future, None, error))

    def stop(self) -> None:
        """Set what is left, and end. Called from a future's callback it does not wait."""
        self._results.put(None)
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def _run(self) -> None:
        while (entry := self._results.get()) is not None:
            future, payload, error = entry
            result = None
            try:
                if payload is not None:
                    result = pickle.loads(payload)
                else:
                    error = _exception(error)
            except BaseException as trouble:  # noqa: BLE001 - unpickling may run any code
                error = trouble
            try:
                if isinstance(error, BaseException):
                    future.set_exception(error)
                else:
                    future.set_result(result)
            except InvalidStateError:
                warn("executor: a result was dropped: its future was already done")
            except BaseException as trouble:  # noqa: BLE001 - what a callback may raise beside Exception
                warn("executor: a callback of a future raised %s: %s", type(trouble).__name__, trouble)
            del entry, future, payload, error, result  # not kept alive until the next one comes


def _exception(error: BaseException | bytes | None) -> BaseException:
    if not isinstance(error, bytes):
        return error or RuntimeError("no result")
    pickled, traceback = pickle.loads(error)
    try:
        loaded = pickle.loads(pickled)
    except BaseException as trouble:  # noqa: BLE001 - its __init__ may want more than its args
        loaded = trouble
    raised: BaseException
    if isinstance(loaded, BaseException):
        raised = loaded
    else:
        raised = pickle.UnpicklingError(f"the task's exception came back as {type(loaded).__name__}")
    raised.__cause__ = RemoteTraceback(traceback)
    return raised
