"""A thread that passes the footprints of finished tasks to the predictor.

To learn takes 0.2 ms, and longer while the store is busy. The thread uses at most a fiftieth of the time: of many short
tasks it learns from a random sample.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from typing import NamedTuple

from memwarden.errors import MemwardenError
from memwarden.model.footprints import TaskKey, TaskOutcome
from memwarden.model.log import warn
from memwarden.protocols import Predictor

#: Pause after learning, in multiples of its processor time; tasks learned from at a time.
_REST, _AT_ONCE = 50, 32


class CompletedTask(NamedTuple):
    """Footprint of a finished task."""

    kind: TaskKey
    size: float | None
    peak: int
    seconds: float
    outcome: TaskOutcome


class FootprintThread:
    """Calls ``observe`` of a predictor, and at the end its ``save``, or ``close`` where it is ``owned``."""

    def __init__(self, predictor: Predictor, *, owned: bool) -> None:
        self._predictor, self._owned = predictor, owned
        self._completed: deque[CompletedTask] = deque(maxlen=4096)
        self._wakeup, self._stopping = threading.Event(), threading.Event()
        self._warned = False
        self._random = random.Random(0)
        self._thread = threading.Thread(target=self._run, name="memwarden-footprints", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, completed: CompletedTask) -> None:
        """Learn from this task soon. Never waits."""
        self._completed.append(completed)
        if not self._wakeup.is_set():
            self._wakeup.set()

    def stop(self) -> None:
        """Learn from what is left, save, and end."""
        self._stopping.set()
        self._wakeup.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wakeup.wait()
            stopping = self._stopping.is_set()
            self._wakeup.clear()
            batch = [self._completed.popleft() for _ in range(len(self._completed))]
            if len(batch) > _AT_ONCE:
                batch = self._random.sample(batch, _AT_ONCE)
            started = time.thread_time()
            for completed in batch:
                self._observe(completed)
            if stopping and not self._completed:
                self._save()
                return
            if not stopping:
                self._stopping.wait(min(1.0, (time.thread_time() - started) * _REST))

    def _save(self) -> None:
        save = getattr(self._predictor, "close" if self._owned else "save", None)
        if save is not None:
            try:
                save()
            except Exception as error:  # noqa: BLE001 - a user's, or a full disk: the batch is done all the same
                warn("executor: the footprints could not be saved: %s", error)

    def _observe(self, completed: CompletedTask) -> None:
        try:
            self._predictor.observe(*completed)
        except Exception as error:  # noqa: BLE001 - a user's predictor; its failure must not cost a task
            if not self._warned:
                self._warned = True
                message = str(error) if isinstance(error, MemwardenError) else f"{type(error).__name__}: {error}"
                warn("executor: the predictor could not learn: %s", message)
