"""A thread that learns from tasks that have ended, apart from who watches the others.

To learn takes 0.2 ms, and now and then as long as a busy file keeps it. It takes no more than a fiftieth of the time:
of many short tasks it learns from as many as that allows, drawn at random.
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

_SHARE, _AT_ONCE = 50, 32


class CompletedTask(NamedTuple):
    """A task that has ended."""

    kind: TaskKey
    size: float | None
    peak: int
    seconds: float
    outcome: TaskOutcome


class FootprintThread:
    """Tells a predictor what tasks took; in the end it has it save that, and close where it is ``owned``."""

    def __init__(self, predictor: Predictor, *, owned: bool) -> None:
        self._predictor, self._owned = predictor, owned
        self._heard: deque[CompletedTask] = deque(maxlen=4096)
        self._something, self._ending = threading.Event(), threading.Event()
        self._complained = False
        self._random = random.Random(0)
        self._thread = threading.Thread(target=self._learn, name="memwarden-learning", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def tell(self, ended: CompletedTask) -> None:
        """Learn from this one, soon. Never waits."""
        self._heard.append(ended)
        if not self._something.is_set():
            self._something.set()

    def stop(self) -> None:
        """Learn what is left, and end."""
        self._ending.set()
        self._something.set()
        self._thread.join()

    def _learn(self) -> None:
        while True:
            self._something.wait()
            ending = self._ending.is_set()
            self._something.clear()
            heard = [self._heard.popleft() for _ in range(len(self._heard))]
            if len(heard) > _AT_ONCE:
                heard = self._random.sample(heard, _AT_ONCE)
            begun = time.thread_time()
            for ended in heard:
                self._observe(ended)
            if ending and not self._heard:
                self._save()
                return
            if not ending:
                self._ending.wait(min(1.0, (time.thread_time() - begun) * _SHARE))

    def _save(self) -> None:
        last = getattr(self._predictor, "close" if self._owned else "save", None)
        if last is not None:
            try:
                last()
            except Exception as error:  # noqa: BLE001 - a user's, or a disk that is full: the batch is done all the same
                warn("executor: what was learned could not be saved: %s", error)

    def _observe(self, ended: CompletedTask) -> None:
        try:
            self._predictor.observe(ended.kind, ended.size, ended.peak, ended.seconds, ended.outcome)
        except Exception as error:  # noqa: BLE001 - a user's predictor; its fault must not cost a task
            if not self._complained:
                self._complained = True
                words = str(error) if isinstance(error, MemwardenError) else f"{type(error).__name__}: {error}"
                warn("executor: the predictor could not learn: %s", words)
