"""An operation that says what it will need: admitted by that before, measured after.

Before: the estimate is reserved in the ledger that all programs of this user share, against what container and machine
leave; where three such operations or more have finished and took more, what they took is reserved. While it runs:
:meth:`Guard.check` raises where nothing but a reserve is left; the estimate itself is no limit. After: what it took is
learned as a footprint, under its name, so that the next estimate is checked against it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from memwarden.actions.trim import trim_allocator
from memwarden.admission.footprints.footprint import Footprints
from memwarden.admission.ledger.ledger import Ledger, admit
from memwarden.admission.ledger.reservation import Reservation
from memwarden.errors import ActionFailed, DoesNotFit, NotAdmitted, RecordError, SettingsError
from memwarden.guards.budget.guard_monitor import guard_context
from memwarden.guards.budget.memory_guard import Guard
from memwarden.model import log
from memwarden.model.footprints import Prediction, TaskKey
from memwarden.model.units import parse_size, size_text
from memwarden.protocols import Predictor

#: So many must have finished before what was learned is held against an estimate.
LEARNED = 3
#: An estimate that was passed by more than this part of it is told.
WRONG = 0.1
#: More than any machine has: what a guard without a budget of its own may take.
_NO_BUDGET = 1 << 62


class Truth(NamedTuple):
    """What an operation was thought to take, and what it took, in bytes."""

    estimate: int
    #: What was reserved: the estimate, or what was learned where that is more.
    reserved: int
    #: The most that it was seen with, children included.
    took: int
    seconds: float

    @property
    def over(self) -> int:
        """By how much the estimate was passed; negative where it was not."""
        return self.took - self.estimate


class Operation:
    """An operation under way; :func:`memory_constrained_operation` makes it."""

    def __init__(
        self, name: str, estimate: int, prediction: Prediction | None, reservation: Reservation | None
    ) -> None:
        self.name, self.estimate = name, estimate
        #: What is reserved in the ledger; None where none can be used here (Windows).
        self.reservation = reservation
        #: What was learned of its like; None where it has no name, or none has finished.
        self.prediction = prediction
        self.guard = Guard(_NO_BUDGET, name)
        #: What it took; None until it is over.
        self.truth: Truth | None = None

    def check(self) -> None:
        """A checkpoint: raises :class:`LimitExceeded` where container and machine have nothing but a reserve left."""
        self.guard.check()


_predictors: dict[str, Footprints] = {}


def own_footprints() -> Footprints:
    """What was learned by all programs of this user, as far as this process has looked."""
    found = _predictors.get("")
    if found is None:
        from memwarden.admission.footprints.store import FootprintStore

        found = _predictors.setdefault("", Footprints(store=FootprintStore()))
    return found


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
    """An operation that will take ``estimate`` (bytes or ``"200MiB"``): refused where that is not there.

    It waits ``timeout`` seconds for others to leave (None: for ever); by default not at all, because two that hold
    something and wait for more would wait for each other. Raises :class:`DoesNotFit`, a ``MemoryError``, for what can
    never be had, and :class:`NotAdmitted` for what is not there now.

    Under its ``name`` what it takes is learned, by the ``size`` of its input where that is given; by default for all
    programs of this user. A block that ends with a memory error counts as one that needs at least what it was seen
    with; after another error nothing is learned. When the block is over ``operation.truth`` says what it took.

    Where no ledger can be used the estimate is held against what is left here, and the log says so.
    """
    asked = parse_size(estimate)
    if not isinstance(name, str):
        raise SettingsError(f"name {name!r}: must be text")
    kind, known = TaskKey(name), None
    predictor: Predictor | None = None
    if name:
        predictor = own_footprints() if footprints is None else footprints
        known = predictor.predict(kind, size, hint=asked)
    reserve = asked
    if known is not None and known.n >= LEARNED and known.reserve > asked:
        reserve = known.reserve
        log.warn(
            "%s: estimated at %s, and %d of its like took more; %s are reserved (%s)",
            name,
            size_text(asked),
            known.n,
            size_text(reserve),
            known.why,
        )
    with _admitted(reserve, name, timeout, ledger) as reservation:
        operation = Operation(name, asked, known, reservation)
        # What the allocator keeps of others would be used again without being taken.
        with suppress(ActionFailed):
            trim_allocator()
        begun, outcome = time.monotonic(), ""
        try:
            with operation.guard:
                yield operation
            outcome = "finished"
        except (MemoryError, NotAdmitted):
            outcome = "killed_at"
            raise
        finally:
            seconds = time.monotonic() - begun
            truth = operation.truth = Truth(asked, reserve, operation.guard.peak, seconds)
            if predictor is not None and outcome:
                predictor.observe(kind, size, truth.took, seconds, "finished" if outcome == "finished" else "killed_at")
                if predictor is _predictors.get(""):
                    _save(_predictors[""])
            if truth.over > asked * WRONG:
                log.warn("%s: estimated at %s, took %s", name or "operation", size_text(asked), size_text(truth.took))


@contextmanager
def _admitted(size: int, name: str, timeout: float | None, ledger: Ledger | None) -> Iterator[Reservation | None]:
    try:
        held = (
            admit(size, name, timeout=timeout) if ledger is None else ledger.reserve(size, timeout=timeout, label=name)
        )
    except RecordError as error:
        if ledger is not None:
            raise
        log.warn(
            "%s: no ledger can be used, so that nobody else knows of this operation: %s", name or "operation", error
        )
        nearest = guard_context().look().nearest
        if nearest is not None and size > nearest.headroom:
            raise DoesNotFit(
                f"{name or 'operation'} of {size_text(size)}: {nearest.limit.source} has {size_text(nearest.headroom)}"
                " left; ask for less, split the work, or wait until others have ended",
                asked=size,
                budget=nearest.headroom,
                source=nearest.limit.source,
            ) from None
        yield None
        return
    with held:
        yield held


def _save(footprints: Footprints) -> None:
    """At once: nobody knows whether another one follows that would write it."""
    try:
        footprints.save()
    except RecordError as error:
        log.debug("what was learned is not kept: %s", error)
