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

_Entry = tuple[Future[Any], bytes | None, bytes | BaseException | None]


class RemoteTraceback(Exception):
    """Traceback in the worker, as text; the ``__cause__`` of the exception that ``Future.result()`` raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class ResultThread:
    """Sets results and exceptions in the order in which they came, after :meth:`flush`."""

    def __init__(self) -> None:
        self._pending: list[_Entry] = []
        self._batches = SimpleQueue[list[_Entry] | None]()
        self.thread = threading.Thread(target=self._run, name="memwarden-results", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def put_result(self, future: Future[Any], payload: bytes) -> None:
        """Set a pickled result."""
        self._pending.append((future, payload, None))

    def put_error(self, future: Future[Any], error: BaseException | bytes) -> None:
        """Set an exception, or one pickled by :func:`memwarden.admission.pool.worker.pickle_error`."""
        self._pending.append((future, None, error))

    def flush(self) -> None:
        """Pass on what was put. Once in a round of the manager, after workers got their next tasks: the two threads
        then do not compete for the interpreter while a worker waits."""
        if self._pending:
            self._batches.put(self._pending)
            self._pending = []

    def stop(self) -> None:
        """Set what is left, and end. Called from a future's callback it does not wait."""
        self.flush()
        self._batches.put(None)
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            batch.reverse()
            while batch:
                _set(*batch.pop())  # not kept alive until the next one comes
            del batch


def _set(future: Future[Any], payload: bytes | None, error: BaseException | bytes | None) -> None:
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
