"""Protocols of the replaceable parts. They are structural: nothing needs to be inherited."""

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


class Stop(Protocol):
    """A condition to stop: a ``threading.Event``, for one."""

    def is_set(self) -> bool: ...


class Waitable(Protocol):
    """An object with a wait: a ``threading.Event``, for one."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


class Clock(Protocol):
    """Time, so that a test can control it."""

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

    ``read`` returns the fields of :class:`Sample` that it knows (``{"system": …}``). Where it
    cannot read, it raises :class:`~memwarden.errors.ReadError`, or, where a part of its facts is there, adds a
    ``"gaps"`` entry. Any other exception is a fault of the reader and becomes a gap, too.
    """

    name: str

    def read(self) -> Mapping[str, Any]: ...

    def close(self) -> None:
        """Close descriptors. May be called twice, and in a child after fork."""
        ...


class Detector(Protocol):
    """Judges: from samples, in order, to a verdict. Asks no clock; the same samples give the same verdicts.

    A warden calls ``forget()``, where there is one, in a child after fork.
    """

    def assess(self, sample: Sample) -> Assessment: ...


class Action(Protocol):
    """Carries out a decision. Called on the dispatcher thread; may block and may raise.

    Optional: ``harms = False`` (nothing is lost by it, so it runs in a dry run, too); ``rehearse(decision)`` returns
    the :class:`Outcome` of a dry run; ``undo(decision)`` reverses what was done for that rule, and ``close()`` all
    that is left of it; ``brief = True``: it is undone after a rule's ``hold`` though the condition still holds.
    """

    name: str

    def run(self, decision: Decision) -> Outcome: ...


class IdentityProbe(Protocol):
    """Identifies processes, for actions on them."""

    def key_of(self, pid: int) -> ProcessKey:
        """Raises :class:`~memwarden.errors.ReadError` when no process has this pid."""
        ...

    def own(self) -> ProcessKey: ...

    def alive(self, key: ProcessKey) -> bool: ...

    def stopped(self, key: ProcessKey) -> bool:
        """Return True where this process is stopped, with every thread."""
        ...

    def children(self, key: ProcessKey) -> list[ProcessKey]:
        """Its children, only those that are certain to be; empty when it is gone."""
        ...

    def session(self, key: ProcessKey) -> list[ProcessKey]:
        """The others in the session that it leads, only those that are certain to be; empty when it leads none."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Keeps events. Called on the dispatcher thread; raises :class:`~memwarden.errors.RecordError` when it cannot.

    Optional: ``max_delay`` (seconds; else 0): samples may wait that long and come several at a time, since waking the
    thread for each costs more than the record. ``every_sample = True``: it also gets the samples between those of the
    asked interval. ``logs = True``: it writes the program's log, which the warden then leaves to it. ``as_dict()``
    returns figures for the warden's ``status()``.
    """

    def record(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Predictor(Protocol):
    """Predicts the peak memory of a task, and learns from it. Called from any thread; must not block for long.

    ``at_least``: bytes that an earlier attempt of this very task used, so that more is needed; ``hint``: the caller's
    estimate, 0 for none. With ``quick = True`` it is asked again while a task waits (it takes microseconds, and knows
    more every time); else once, in the thread that submits. ``observe`` gets the task's own peak in bytes and its run
    time; with ``killed_at`` the task was killed before its peak was certain. A predictor that does not learn ignores
    it.
    """

    def predict(
        self, kind: TaskKey | str, size: float | None = None, *, at_least: int = 0, hint: int = 0
    ) -> Prediction: ...

    def observe(
        self, kind: TaskKey | str, size: float | None, peak: int, seconds: float, outcome: TaskOutcome = "finished"
    ) -> None: ...
