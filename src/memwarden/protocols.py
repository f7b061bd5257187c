"""What a part must be able to do to stand in its room. Structural: nothing needs to be inherited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from memwarden.model.decisions import Decision, Outcome
    from memwarden.model.events import Event
    from memwarden.model.facts import ProcessKey
    from memwarden.model.footprints import Prediction, TaskKey, TaskOutcome
    from memwarden.model.sample import Sample
    from memwarden.model.verdicts import Assessment


class Waitable(Protocol):
    """Something that can be waited for: a ``threading.Event``, for one."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


class Clock(Protocol):
    """Time, so that a test can own it."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        ...

    def wait(self, event: Waitable, timeout: float) -> bool:
        """Wait until the event is set, ``timeout`` seconds of this clock at most; returns whether it is set."""
        ...


@runtime_checkable
class Reader(Protocol):
    """Reads facts. Called on one thread only.

    ``read`` returns the fields of :class:`Sample` that it knows (``{"system": …}``). What it cannot read
    it says by raising :class:`~memwarden.errors.ReadError`, or, where a part of its facts is there, by a
    ``"gaps"`` entry. Any other exception is taken as a fault of the reader and becomes a gap, too.
    """

    name: str

    def read(self) -> Mapping[str, Any]: ...

    def close(self) -> None:
        """Give back descriptors. May be called twice, and in a child after fork."""
        ...


class Detector(Protocol):
    """Judges: from samples, in order, to a verdict. Asks no clock; the same samples give the same verdicts.

    A warden calls ``forget()``, where there is one, in a child after fork.
    """

    def assess(self, sample: Sample) -> Assessment: ...


class Action(Protocol):
    """Does what was decided. Called on the worker thread; may block and may raise.

    It may have more, which is used where it is there: ``harms = False`` says that nothing is lost by it, so that it
    runs in a dry run, too; ``rehearse(decision)`` gives the :class:`Outcome` that says what would be done;
    ``undo(decision)`` takes back what was done for that rule, and ``close()`` whatever it still holds;
    ``brief = True`` has it taken back after a rule's ``hold`` though the rule still holds.
    """

    name: str

    def run(self, decision: Decision) -> Outcome: ...


class IdentityProbe(Protocol):
    """Tells processes apart, for those who act on them."""

    def key_of(self, pid: int) -> ProcessKey:
        """Raises :class:`~memwarden.errors.ReadError` when no process has this pid."""
        ...

    def own(self) -> ProcessKey: ...

    def alive(self, key: ProcessKey) -> bool: ...

    def stopped(self, key: ProcessKey) -> bool:
        """Whether this very process stands still, with every thread."""
        ...

    def children(self, key: ProcessKey) -> list[ProcessKey]:
        """Its children, only those that are certain to be; empty when it is gone."""
        ...

    def session(self, key: ProcessKey) -> list[ProcessKey]:
        """The others in the session that it leads, only those that are certain to be; empty when it leads none."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Keeps events. Called on the worker thread; raises :class:`~memwarden.errors.RecordError` when it cannot.

    An attribute ``max_delay`` (seconds, 0 where there is none) says that samples may wait that long and be handed over
    several at a time: waking the worker for each would cost more than the record. ``every_sample = True`` asks for the
    looks between the samples, too. ``logs = True`` says that it tells
    the program's log, which the warden then leaves to it; ``as_dict()`` gives figures for the warden's ``status()``.
    """

    def record(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Predictor(Protocol):
    """Says what a task will need, and is told what it took. Called from any thread; must not block for long.

    ``at_least``: bytes that an earlier attempt of this very task was seen with, so that more is needed; ``hint``: what
    its caller says, 0 for nothing. With an attribute ``quick = True`` it is asked again while a task waits (it takes
    microseconds, and knows more every time); else once, in the thread that submits. ``observe`` gets the task's own
    peak in bytes and its run time; with ``killed_at`` the task was ended before its peak was certain. A predictor that
    learns nothing ignores it.
    """

    def predict(
        self, kind: TaskKey | str, size: float | None = None, *, at_least: int = 0, hint: int = 0
    ) -> Prediction: ...

    def observe(
        self, kind: TaskKey | str, size: float | None, peak: int, seconds: float, outcome: TaskOutcome = "finished"
    ) -> None: ...
