"""One tick: look, judge, decide, and tell. Everything else in this room is about when and on which thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from memwarden.assess.reasons import left_words
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import Gap
from memwarden.model.limits import Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, LeakStage, LeakVerdict, Reading
from memwarden.protocols import Clock, Detector, Glancer, Reader
from memwarden.readers.collect import collect

if TYPE_CHECKING:  # rules are imported where there are some
    from memwarden.model.decisions import Decision
    from memwarden.policy.rules import Decided, Policy


class Look:
    """One look: its reading, or, where nothing in it could matter, what was read as it was read.

    Far from every limit most of a look's cost would be the making of values that are only written down. They are
    made where they are written, several in a row (measured at 10 ms: 1.5 times faster in all).
    """

    __slots__ = (
        "_between",
        "_event",
        "_judge",
        "_late",
        "_made",
        "_raws",
        "hands",
        "left",
        "monotonic",
        "unconfirmed",
        "wall",
    )

    # A look that is to be recorded is its own parcel for the courier, see :class:`memwarden.engine.dispatcher.Parcel`.
    is_sample, call, label = True, None, ""

    def __init__(
        self,
        wall: float,
        monotonic: float,
        late: float,
        left: int | None,
        raws: Sequence[tuple[Glancer, Any]] = (),
        judge: Callable[[Sample], Assessment] | None = None,
        made: Reading | None = None,
        unconfirmed: bool = False,
        between: bool | None = None,
    ) -> None:
        self.wall, self.monotonic, self._late = wall, monotonic, late
        #: The least headroom in bytes, never more than the truth.
        self.left = left
        #: Whether an edge was crossed, and the level not entered yet.
        self.unconfirmed = unconfirmed
        self._between = between
        self._raws, self._judge, self._made = raws, judge, made
        self._event: Event | None = None
        #: For whom it is; None: for everybody who wants samples.
        self.hands: Sequence[Any] | None = None

    @classmethod
    def of(cls, reading: Reading) -> Look:
        """A look whose values are made already."""
        sample, found = reading
        unconfirmed = found.raw.rank > found.level.rank
        return cls(sample.wall, sample.monotonic, sample.late, found.available, made=reading, unconfirmed=unconfirmed)

    def reading(self) -> Reading:
        """The sample and its verdict; on any thread."""
        if self._made is None:
            assert self._judge is not None
            facts: dict[str, Any] = {}
            for reader, raw in reversed(self._raws):
                facts.update(reader.facts(raw))  # the first reader that gives a field wins
            sample = Sample(self.wall, self.monotonic, self._late, between=self._between, **facts)
            self._made = Reading(sample, self._judge(sample))
        return self._made

    @property
    def event(self) -> Event:
        """The sample's event."""
        if self._event is None:
            self._event = Event(EventKind.SAMPLE, self.wall, self.monotonic, "", self.reading())
        return self._event


class Tick:
    """What a tick works with, and what it must remember to tell changes from states."""

    def __init__(
        self,
        readers: Sequence[Reader],
        detector: Detector,
        policy: Policy | None,
        clock: Clock,
        asked: Limit | None,
    ) -> None:
        self.readers, self._detector, self.policy = readers, detector, policy
        self._clock, self._asked = clock, asked
        self._last: Assessment | None = None
        self._gaps: dict[tuple[str, str, str], Gap] = {}
        self._glancers: list[Any] = [reader for reader in readers if hasattr(reader, "glance")]
        self._due = getattr(detector, "due", None)
        self._calm = getattr(detector, "calm", None) if len(self._glancers) == len(readers) and asked is None else None

    def glimpse(self, due: float, between: bool = False) -> Look | None:
        """A look at so little that it can only find that nothing matters; None where it cannot."""
        if self._calm is None or self.policy is not None or self._gaps:
            return None
        calm = self._calm()
        if calm is None:
            return None
        below, judge = calm
        wall, now = self._clock.wall(), self._clock.monotonic()
        if not between and self._due is not None and self._due(now):
            return None
        raws: list[tuple[Glancer, Any]] = []
        least = None
        for reader in self._glancers:
            seen = reader.glance()
            if seen is None or seen[1] >= below:
                return None
            raw, _, left = seen
            raws.append((reader, raw))
            if left is not None and (least is None or left < least):
                least = left
        return Look(wall, now, now - due if now > due else 0.0, least, raws, judge, between=between or None)

    def __call__(self, due: float, between: bool = False) -> tuple[Reading, list[Event], list[Decision]]:
        """The reading, what is worth telling of it, and what shall be done."""
        wall, now = self._clock.wall(), self._clock.monotonic()
        facts = collect(self.readers)
        late = max(0.0, now - due)
        sample = Sample(wall=wall, monotonic=now, late=late, asked=self._asked, between=between or None, **facts)
        return self.judge(sample)

    def judge(self, sample: Sample) -> tuple[Reading, list[Event], list[Decision]]:
        """The same, of what was read before; for a replay."""
        assessment = self._detector.assess(sample)
        events: list[Event] = []
        if sample.gaps or self._gaps:
            self._tell_gaps(sample, events)
        before, self._last = self._last, assessment
        if before is None or assessment.level is not before.level:
            was = f", was {before.level.name}" if before is not None else ""
            events.append(_event(EventKind.LEVEL, sample, f"{assessment.level.name}{was}", assessment))
        if assessment.leak is not None and (told := _leak_told(assessment.leak, before)):
            events.append(_event(EventKind.LEAK, sample, told, assessment.leak))
        if self.policy is None:
            return Reading(sample, assessment), events, []
        decided = self.policy.decide(sample, assessment)
        events += told_of(decided, sample)
        return Reading(sample, assessment), events, decided.decisions

    def _tell_gaps(self, sample: Sample, events: list[Event]) -> None:
        gaps = {gap[:3]: gap for gap in sample.gaps}
        for key, gap in gaps.items():
            if key not in self._gaps:
                told = f"{gap.what} cannot be read: {gap.why} ({gap.where})"
                events.append(_event(EventKind.GAP, sample, told, gap))
        for key, gap in self._gaps.items():
            if key not in gaps:
                events.append(_event(EventKind.GAP_CLOSED, sample, f"{gap.what} can be read again ({gap.where})", gap))
        self._gaps = gaps


def plain_policy(policy: Policy | None) -> dict[str, Any]:
    """What a record holds of the rules in force, so that they can be followed again."""
    if policy is None:
        return {"rules": []}
    plain = [rule.to_dict() for rule in policy.rules]
    for rule in plain:
        if rule.get("rest") == math.inf:
            rule["rest"] = "inf"  # JSON has no word for it
    return {
        "rules": plain,
        "reversible": sorted(policy.reversible),
        "brief": sorted(policy.brief),
        "dry_run": policy.dry_run,
    }


def told_of(decided: Decided, sample: Sample) -> list[Event]:
    """What is told of what was decided."""
    cleared = [
        _event(EventKind.CLEARED, sample, f"{clearing.rule}: {clearing.reason}", clearing)
        for clearing in decided.cleared
    ]
    return cleared + [_event(EventKind.DECISION, sample, each.reason, each) for each in decided.decisions]


def _leak_told(leak: LeakVerdict, before: Assessment | None) -> str:
    """What to tell of a leak verdict: where another one, or somebody else's, was entered or left."""
    was = None if before is None else before.leak
    stood = LeakStage.NONE if was is None else was.stage
    if leak.stage is stood and (stood is LeakStage.NONE or was is None or leak.what == was.what):
        return ""
    change = f", was {stood.name}" if stood is not LeakStage.NONE and stood is not leak.stage else ""
    what = leak.what or (None if was is None else was.what)
    told = f"{leak.stage.name}{change}: {what}: {leak.reason}" if what else f"{leak.stage.name}{change}: {leak.reason}"
    return f"{told}; {left_words(leak.forecast)}" if leak.forecast is not None else told


def _event(kind: EventKind, sample: Sample, message: str, value: object) -> Event:
    return Event(kind=kind, wall=sample.wall, monotonic=sample.monotonic, message=message, value=value)
