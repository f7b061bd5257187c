"""Pending tasks in order, with their predictions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from memwarden.admission.executor import leasing
from memwarden.model.log import debug

if TYPE_CHECKING:
    from memwarden.admission.pool.task import WorkItem
    from memwarden.protocols import Predictor

#: Age at which the prediction of a pending task is renewed, by a predictor that is ``quick``.
PREDICTION_SECONDS = 0.2
#: The next attempt reserves so many times the last peak, where the prediction is not larger.
RETRY_FACTOR = 1.5


class TaskQueue:
    """First in, first out, as far as the tasks fit. Used by the manager thread alone."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._quick = bool(getattr(predictor, "quick", False))
        self._items: deque[WorkItem] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[WorkItem]:
        return iter(list(self._items))

    @property
    def first(self) -> WorkItem:
        """The item that is first."""
        return self._items[0]

    def add(self, item: WorkItem) -> None:
        """Append an item."""
        self._items.append(item)

    def requeue(self, item: WorkItem) -> None:
        """Insert an item before all others."""
        item.blocked_since = None
        if self._quick:
            item.prediction = None
        self._items.appendleft(item)

    def remove(self, item: WorkItem) -> None:
        """Remove an item."""
        if self._items[0] is item:
            self._items.popleft()
        else:
            self._items.remove(item)

    def choose(self, free: int, alone: int, now: float, longest: float, *, busy: bool) -> WorkItem | None:
        """Return the next item to start within ``free`` bytes (see :func:`leasing.choose`), or a cancelled one."""

        def items() -> Iterator[WorkItem]:
            for item in islice(self._items, leasing.LOOKAHEAD):
                if item.future.cancelled():
                    item.reserve, item.exclusive = 0, False  # chosen at once, to be removed
                else:
                    self.estimate(item, alone, now)
                yield item

        return leasing.choose(items(), max(free, 0), now, longest, busy=busy)

    def estimate(self, item: WorkItem, alone: int, now: float) -> None:
        """Set the item's reservation, at most the ``alone`` bytes that it could have without others."""
        if item.prediction is None or (self._quick and now - item.predicted_at >= PREDICTION_SECONDS):
            item.predicted_at = now
            try:
                item.prediction = self._predictor.predict(item.kind, item.size, at_least=item.peak)
            except Exception as error:  # noqa: BLE001 - a user's predictor; its failure must not cost the batch
                debug("executor: the predictor failed: %s: %s", type(error).__name__, error)
        reserve = max(item.requested or (item.prediction.reserve if item.prediction is not None else 0), 1)
        if item.peak > reserve * 0.9:
            reserve = max(reserve, int(item.peak * RETRY_FACTOR))
        if reserve > alone:
            item.exclusive, reserve = True, alone
        item.reserve = reserve
