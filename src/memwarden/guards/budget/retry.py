"""Retries with a smaller plan after a memory failure.

``LimitExceeded`` and ``DoesNotFit`` are memory errors. ``NotAdmitted`` is retried too: a smaller plan asks for less.
"""

from __future__ import annotations

import time
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from memwarden.errors import NotAdmitted, SettingsError
from memwarden.guards.budget.profiles import PROFILES, Profile
from memwarden.guards.budget.reclaim import clear_caches, force_garbage_collection
from memwarden.model.units import size_text
from memwarden.model.verdicts import PressureLevel

P = TypeVar("P")
R = TypeVar("R")

#: Errors that are retried.
MEMORY_FAILURES = (MemoryError, NotAdmitted)
#: Results that do their work after the call.
_UNDONE = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)


class Attempt(NamedTuple):
    """One attempt."""

    #: Its plan: a :class:`Profile`, or an element of the caller's sequence.
    plan: Any
    #: Its error, as ``"MemoryError: …"``; empty for the one that succeeded.
    error: str
    seconds: float
    #: Bytes that left the process afterwards; None where nothing was freed or measured.
    returned: int | None = None


class RetryResult(NamedTuple, Generic[R]):
    """Result of the attempt that succeeded, with all attempts."""

    value: R
    #: The last one succeeded.
    attempts: tuple[Attempt, ...]

    @property
    def plan(self) -> Any:
        """The plan that succeeded."""
        return self.attempts[-1].plan

    @property
    def reduced(self) -> bool:
        """True where a smaller plan than the first was needed."""
        return len(self.attempts) > 1


def retry_with_smaller(
    function: Callable[[Any], R], plans: Sequence[Any] | Profile | None = None, *, attempts: int | None = None
) -> RetryResult[R]:
    """Call ``function(plan)`` with the largest plan; after each memory failure with the next smaller one.

    ``plans`` is any sequence, the largest first, or the :class:`Profile` to start with; by default the profile for the
    pressure level now. ``attempts`` limits the number of calls. Before each retry the local variables of the failed
    call are released, garbage is collected, the allocator trimmed and registered caches are cleared.

    The error of the last attempt is raised, with all attempts in its notes and in ``error.attempts``. Any other error
    is raised at once. Not for coroutines and generators, which do their work after the call.
    """
    ladder = _ladder(plans)
    if attempts is not None and (type(attempts) is not int or attempts < 1):
        raise SettingsError(f"attempts {attempts!r}: a whole number, 1 or more")
    ladder = ladder[: len(ladder) if attempts is None else attempts]
    made: list[Attempt] = []
    for number, plan in enumerate(ladder, 1):
        started = time.monotonic()
        try:
            value = function(plan)
        except MEMORY_FAILURES as error:
            made.append(Attempt(plan, f"{type(error).__name__}: {error}".rstrip(": "), time.monotonic() - started))
            if number == len(ladder):
                _add_notes(error, made)
                raise
            _clear_frames(error)
        else:
            if isinstance(value, _UNDONE):
                if not isinstance(value, types.AsyncGeneratorType):
                    value.close()
                raise SettingsError(
                    "retry_with_smaller: the function returned a coroutine or a generator, which has not done its"
                    " work yet; pass a function that does the work"
                )
            made.append(Attempt(plan, "", time.monotonic() - started))
            return RetryResult(value, tuple(made))
        clear_caches(PressureLevel.CRITICAL)
        made[-1] = made[-1]._replace(returned=force_garbage_collection().returned)
    raise AssertionError("plans is never empty")


def _ladder(plans: Sequence[Any] | Profile | None) -> Sequence[Any]:
    if plans is None:
        from memwarden.guards.budget.processing_config import profile_now

        plans = profile_now()
    if isinstance(plans, Profile):
        return PROFILES[PROFILES.index(plans) :]
    if isinstance(plans, str) or not hasattr(plans, "__getitem__") or not len(plans):
        raise SettingsError(f"plans {plans!r}: a sequence of plans, the largest first, or a Profile to start with")
    return plans


def _clear_frames(error: BaseException | None) -> None:
    """Release the local variables of a failed call, which live as long as its error."""
    for _ in range(16):  # causes may be circular
        if error is None:
            return
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _add_notes(error: BaseException, made: list[Attempt]) -> None:
    for each in made:
        returned = f", {size_text(each.returned)} returned" if each.returned else ""
        plan = each.plan.name if isinstance(each.plan, Profile) else repr(each.plan)[:80]
        error.add_note(f"tried {plan}: {each.error} after {each.seconds:.1f} s{returned}")
    error.attempts = tuple(made)  # type: ignore[attr-defined]
