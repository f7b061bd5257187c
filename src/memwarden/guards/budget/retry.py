"""Trying again with less: after a memory failure the next smaller plan.

``LimitExceeded`` and ``DoesNotFit`` are memory errors; ``NotAdmitted`` counts, too: a smaller plan asks for less.
"""

from __future__ import annotations

import time
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from memwarden.errors import NotAdmitted, SettingsError
from memwarden.guards.budget.profiles import LADDER, Profile
from memwarden.guards.budget.reclaim import clear_caches, force_garbage_collection
from memwarden.model.units import size_text
from memwarden.model.verdicts import PressureLevel

P = TypeVar("P")
R = TypeVar("R")

#: What counts as a failure for want of memory.
MEMORY_FAILURES = (MemoryError, NotAdmitted)
#: Results whose work is done after the call.
_UNDONE = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)


class Attempt(NamedTuple):
    """One try that failed, or the one that did not."""

    #: The plan that it was made with: a :class:`Mode`, or what the caller gave.
    plan: Any
    #: What went wrong, as ``"MemoryError: …"``; empty for the one that succeeded.
    error: str
    seconds: float
    #: Bytes that left the process afterwards; None where nothing was freed or measured.
    returned: int | None = None


class Result(NamedTuple, Generic[R]):
    """What came of it, and how."""

    value: R
    #: Every try, the last one the one that succeeded.
    attempts: tuple[Attempt, ...]

    @property
    def plan(self) -> Any:
        """The plan that succeeded."""
        return self.attempts[-1].plan

    @property
    def reduced(self) -> bool:
        """Whether a smaller plan than the first one was needed."""
        return len(self.attempts) > 1


def with_less(
    function: Callable[[Any], R], plans: Sequence[Any] | Profile | None = None, *, attempts: int | None = None
) -> Result[R]:
    """Call ``function(plan)`` with the largest plan; after each memory failure with the next smaller one.

    ``plans`` is any sequence, the largest first, or the :class:`Mode` to begin with; by default the modes, from the
    one that the pressure level allows now. ``attempts`` bounds the tries further. Before each next one the failed
    one's frames let go of what they hold, garbage is collected, the allocator trimmed and registered caches are
    cleared.

    When the last one fails its error is raised, with the attempts told in its notes and in ``error.attempts``. Any
    other error is raised at once. Not for coroutines and generators, whose work is done after the call.
    """
    ladder = _ladder(plans)
    if attempts is not None and (type(attempts) is not int or attempts < 1):
        raise SettingsError(f"attempts {attempts!r}: a whole number, 1 or more")
    ladder = ladder[: len(ladder) if attempts is None else attempts]
    made: list[Attempt] = []
    for number, plan in enumerate(ladder, 1):
        begun = time.monotonic()
        try:
            value = function(plan)
        except MEMORY_FAILURES as error:
            made.append(Attempt(plan, f"{type(error).__name__}: {error}".rstrip(": "), time.monotonic() - begun))
            if number == len(ladder):
                _tell(error, made)
                raise
            # What a failed try has made would live on in its frames for as long as somebody holds the error.
            _let_go(error)
        else:
            if isinstance(value, _UNDONE):
                if not isinstance(value, types.AsyncGeneratorType):
                    value.close()
                raise SettingsError(
                    "with_less: the function returned a coroutine or a generator, whose work is still to be done; give"
                    " it a function that does the work"
                )
            made.append(Attempt(plan, "", time.monotonic() - begun))
            return Result(value, tuple(made))
        made[-1] = made[-1]._replace(returned=_free())
    raise AssertionError("a ladder has a last step")


def _ladder(plans: Sequence[Any] | Profile | None) -> Sequence[Any]:
    if plans is None:
        from memwarden.guards.budget.processing_config import mode_now

        plans = mode_now()
    if isinstance(plans, Profile):
        return LADDER[LADDER.index(plans) :]
    if isinstance(plans, str) or not hasattr(plans, "__getitem__") or not len(plans):
        raise SettingsError(f"plans {plans!r}: a sequence of plans, the largest first, or a Mode to begin with")
    return plans


def _let_go(error: BaseException | None) -> None:
    for _ in range(16):  # causes may go round
        if error is None:
            return
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _free() -> int | None:
    clear_caches(PressureLevel.CRITICAL)
    return force_garbage_collection().returned


def _tell(error: BaseException, made: list[Attempt]) -> None:
    for each in made:
        back = f", {size_text(each.returned)} came back" if each.returned else ""
        error.add_note(f"tried {_named(each.plan)}: {each.error} after {each.seconds:.1f} s{back}")
    error.attempts = tuple(made)  # type: ignore[attr-defined]


def _named(plan: Any) -> str:
    return plan.name if isinstance(plan, Profile) else repr(plan)[:80]
