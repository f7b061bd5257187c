"""The tasks that wait, in order, and what each of them will need."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from memwarden.admission.executor import scheduler
from memwarden.admission.executor.scheduler import PendingTask
from memwarden.model.footprints import TaskKey
from memwarden.model.log import debug

if TYPE_CHECKING:
    from memwarden.admission.pool.worker_handle import Task
    from memwarden.protocols import Predictor

#: A prediction for one who waits is made anew so often, by a predictor that is ``quick``.
FORESEE_SECONDS = 0.2
#: A repeat gets so many times what it was seen with, where nobody knows better.
REPEAT = 1.5


class TaskQueue:
    """First come, first served, as far as they fit. Used by the supervising thread alone."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._quick = bool(getattr(predictor, "quick", False))
        self._tasks: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(list(self._tasks))

    @property
    def first(self) -> Task:
        """Whose turn it is."""
        return self._tasks[0]

    def add(self, task: Task) -> None:
        """At the end."""
        self._tasks.append(task)

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Before all others, in this order."""
        tasks = list(tasks)
        for task in tasks:
            task.job.first = None
            if self._quick:
                task.job.prediction = None
        self._tasks.extendleft(reversed(tasks))

    def take(self, task: Task) -> None:
        """It waits no more."""
        if self._tasks[0] is task:
            self._tasks.popleft()
        else:
            self._tasks.remove(task)

    def choose(self, room: int, alone: int, now: float, longest: float, *, busy: bool) -> Task | None:
        """The next to begin within ``room`` (see :func:`steering.choose`); also one that was cancelled, to be taken."""
        seen: dict[int, Task] = {}

        def jobs() -> Iterator[PendingTask]:
            for task in islice(self._tasks, scheduler.LOOKED_AT):
                if task.future.cancelled():
                    seen[_NOTHING.number] = task
                    yield _NOTHING
                else:
                    seen[task.job.number] = task
                    self.foresee(task.job, alone, now)
                    yield task.job

        job = scheduler.choose(jobs(), max(room, 0), now, longest, busy=busy)
        return None if job is None else seen[job.number]

    def foresee(self, job: PendingTask, alone: int, now: float) -> None:
        """What a task that waits will need; not more than the ``alone`` that it could have without others."""
        if job.prediction is None or (self._quick and now - job.foreseen >= FORESEE_SECONDS):
            job.foreseen = now
            self.predict(job)
        reserve = max(job.given or (job.prediction.reserve if job.prediction is not None else 0), 1)
        if job.seen > reserve * 0.9:
            reserve = max(reserve, int(job.seen * REPEAT))
        if reserve > alone:
            job.alone, reserve = True, alone
        job.reserve = reserve

    def predict(self, job: PendingTask) -> None:
        """Ask the predictor; one that fails is left out of it."""
        try:
            job.prediction = self._predictor.predict(job.kind, job.size, at_least=job.seen)
        except Exception as error:  # noqa: BLE001 - a user's predictor; its fault must not cost the batch
            debug("executor: the predictor failed: %s: %s", type(error).__name__, error)


#: Stands for a task that was cancelled: it needs nothing, so that it is chosen at once.
_NOTHING = PendingTask(0, TaskKey(""), None)
