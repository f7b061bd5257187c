"""An operation with a memory estimate: admitted by it before, measured after.

Before: the estimate is reserved in the ledger that all programs of this user share; where at least three such
operations have finished and took more, the learned peak is reserved. While it runs :meth:`Operation.check` raises
where only a reserve is left; the estimate itself is no limit. After: the peak is learned as a footprint, under the
operation's name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from memwarden.actions.trim import trim_allocator
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.ledger.ledger import Ledger, admit
from memwarden.admission.ledger.reservation import Reservation
from memwarden.errors import ActionFailed, DoesNotFit, NotAdmitted, RecordError, SettingsError
from memwarden.guards.budget.guard_monitor import guard_context
from memwarden.guards.budget.memory_guard import Guard
from memwarden.model import log
from memwarden.model.footprints import Prediction, TaskKey
from memwarden.model.units import parse_size, size_text
from memwarden.protocols import Predictor

#: Operations that must have finished before their peak replaces a smaller estimate.
LEARNED = 3
#: An estimate that is exceeded by more than this share is logged.
WRONG = 0.1
#: Limit of a guard without a budget of its own: more than any machine has.
_NO_BUDGET = 1 << 62


class OperationUsage(NamedTuple):
    """Estimate and actual use of an operation, in bytes."""

    estimate: int
    #: Reserved bytes: the estimate, or the learned peak where that is more.
    reserved: int
    #: Highest use that was measured, children included.
    peak: int
    seconds: float

    @property
    def over(self) -> int:
        """Bytes by which the peak exceeds the estimate; negative where it does not."""
        return self.peak - self.estimate


class Operation:
    """A running operation; made by :func:`memory_constrained_operation`."""

    def __init__(
        self, name: str, estimate: int, prediction: Prediction | None, reservation: Reservation | None
    ) -> None:
        self.name, self.estimate = name, estimate
        #: Reservation in the ledger; None where no ledger can be used (Windows).
        self.reservation = reservation
        #: Learned from earlier operations of this name; None without a name, or where none has finished.
        self.prediction = prediction
        self.guard = Guard(_NO_BUDGET, name)
        #: Actual use; None until the operation has ended.
        self.usage: OperationUsage | None = None

    def check(self) -> None:
        """Raise :class:`LimitExceeded` where container and machine have only a reserve left."""
        self.guard.check()


_footprints: Footprints | None = None


def own_footprints() -> Footprints:
    """Return the footprints that all programs of this user have learned."""
    global _footprints
    if _footprints is None:
        from memwarden.admission.footprints.store import FootprintStore

        _footprints = Footprints(store=FootprintStore())
    return _footprints


@contextmanager
def memory_constrained_operation(
    estimate: int | str,
    name: str = "",
    *,
    size: float | None = None,
    timeout: float | None = 0.0,
    footprints: Predictor | None = None,
    ledger: Ledger | None = None,
) -> Iterator[Operation]:
    """Run an operation that will take ``estimate`` (bytes or ``"200MiB"``); refuse it where that is not available.

    ``timeout`` is how long to wait for other reservations to be released (seconds; None: no limit; by default 0,
    because two operations that hold one reservation and wait for a second can wait for each other). Raises
    :class:`DoesNotFit`, a ``MemoryError``, for an estimate that can never fit, and :class:`NotAdmitted` for one that
    does not fit now.

    The peak is learned under ``name``, by the ``size`` of the input where that is given, for all programs of this
    user. A block that ends with a memory error counts as one that needs at least its measured peak; after another
    error nothing is learned. Afterwards ``operation.usage`` has the actual figures.

    Where no ledger can be used the estimate is compared with the headroom here, and a warning is logged.
    """
    asked = parse_size(estimate)
    if not isinstance(name, str):
        raise SettingsError(f"name {name!r}: must be text")
    key, known = TaskKey(name), None
    predictor: Predictor | None = None
    if name:
        predictor = own_footprints() if footprints is None else footprints
        known = predictor.predict(key, size, hint=asked)
    reserve = asked
    if known is not None and known.n >= LEARNED and known.reserve > asked:
        reserve = known.reserve
        log.warn(
            "%s: estimate %s, but %d earlier runs took more; reserving %s (%s)",
            name,
            size_text(asked),
            known.n,
            size_text(reserve),
            known.why,
        )
    with _admitted(reserve, name or "operation", timeout, ledger) as reservation:
        operation = Operation(name, asked, known, reservation)
        # Else freed memory that the allocator keeps would be used again without being counted.
        with suppress(ActionFailed):
            trim_allocator()
        started, outcome = time.monotonic(), ""
        try:
            with operation.guard:
                yield operation
            outcome = "finished"
        except (MemoryError, NotAdmitted):
            outcome = "killed_at"
            raise
        finally:
            seconds = time.monotonic() - started
            usage = operation.usage = OperationUsage(asked, reserve, operation.guard.peak, seconds)
            if predictor is not None and outcome:
                predictor.observe(key, size, usage.peak, seconds, "finished" if outcome == "finished" else "killed_at")
                if predictor is _footprints:
                    _save(_footprints)
            if usage.over > asked * WRONG:
                log.warn("%s: estimate %s, actual %s", name or "operation", size_text(asked), size_text(usage.peak))


@contextmanager
def _admitted(size: int, name: str, timeout: float | None, ledger: Ledger | None) -> Iterator[Reservation | None]:
    try:
        reservation = (
            admit(size, name, timeout=timeout) if ledger is None else ledger.reserve(size, timeout=timeout, label=name)
        )
    except RecordError as error:
        if ledger is not None:
            raise
        log.warn("%s: no ledger can be used, so other programs do not see this reservation: %s", name, error)
        nearest = guard_context().headroom().nearest
        if nearest is not None and size > nearest.headroom:
            raise DoesNotFit(
                f"{name} of {size_text(size)}: {nearest.limit.source} has {size_text(nearest.headroom)} left; ask for"
                " less, split the work, or retry when other programs have ended",
                asked=size,
                budget=nearest.headroom,
                source=nearest.limit.source,
            ) from None
        yield None
        return
    with reservation:
        yield reservation


def _save(footprints: Footprints) -> None:
    """Save at once: there may be no further operation that would."""
    try:
        footprints.save()
    except RecordError as error:
        log.debug("footprints are not saved: %s", error)
