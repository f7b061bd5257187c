"""A thread that hands results to their futures, apart from who watches the workers.

A future calls whoever asked to be called, and to unpickle may take long; the looking must not wait for either.
"""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Any

from memwarden.model.log import warn


class RemoteTraceback(Exception):
    """Where in the worker an exception came from; the ``__cause__`` of what ``Future.result()`` raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class ResultThread:
    """Hands over results in the order in which they came."""

    def __init__(self) -> None:
        self._parcels: SimpleQueue[tuple[Future[Any], bytes | None, bytes | BaseException | None] | None]
        self._parcels = SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="memwarden-delivery", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.thread.start()

    def result(self, future: Future[Any], payload: bytes) -> None:
        """A pickled result."""
        self._parcels.put((future, payload, None))

    def failure(self, future: Future[Any], error: BaseException | bytes) -> None:
        """An exception, or what a worker said of one (:func:`memwarden.admission.pool.worker.failure`)."""
        self._parcels.put((future, None, error))

    def stop(self) -> None:
        """Hand over what is left, and end. From a future's own callback it does not wait."""
        self._parcels.put(None)
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def _run(self) -> None:
        while (parcel := self._parcels.get()) is not None:
            future, payload, error = parcel
            result = None
            try:
                if payload is not None:
                    result = pickle.loads(payload)
                else:
                    error = _exception(error)
            except BaseException as trouble:  # noqa: BLE001 - the result's class may run anything as it is unpickled
                error = trouble
            try:
                if isinstance(error, BaseException):
                    future.set_exception(error)
                else:
                    future.set_result(result)
            except InvalidStateError:
                warn("executor: a result came for a future that somebody else had set")
            except BaseException as trouble:  # noqa: BLE001 - what a callback may raise beside Exception
                warn("executor: a callback of a future raised %s: %s", type(trouble).__name__, trouble)
            del parcel, future, payload, error, result  # not kept alive until the next one comes


def _exception(told: BaseException | bytes | None) -> BaseException:
    if not isinstance(told, bytes):
        return told or RuntimeError("no result")
    whole, lines = pickle.loads(told)
    try:
        said = pickle.loads(whole)
    except BaseException as trouble:  # noqa: BLE001 - an exception whose __init__ wants more than its args
        said = trouble
    error: BaseException
    if isinstance(said, BaseException):
        error = said
    else:
        error = pickle.UnpicklingError(f"the task's exception came back as {type(said).__name__}")
    error.__cause__ = RemoteTraceback(lines)
    return error
