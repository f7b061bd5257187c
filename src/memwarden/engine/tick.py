"""One tick: look, judge, decide, and tell. Everything else in this room is about when and on which thread."""

from __future__ import annotations

from collections.abc import Sequence

from memwarden.model.decisions import Decision
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import Gap
from memwarden.model.findings import Assessment, Reading
from memwarden.model.limits import Limit
from memwarden.model.sample import Sample
from memwarden.policy.rules import Decided, Policy
from memwarden.protocols import Clock, Detector, Reader
from memwarden.readers.collect import collect


class Tick:
    """What a tick works with, and what it must remember to tell changes from states."""

    def __init__(
        self,
        readers: Sequence[Reader],
        detector: Detector,
        policy: Policy,
        clock: Clock,
        asked: Limit | None,
    ) -> None:
        self.readers, self._detector, self.policy = readers, detector, policy
        self._clock, self._asked = clock, asked
        self._last: Assessment | None = None
        self._gaps: dict[tuple[str, str, str], Gap] = {}

    def __call__(self, due: float) -> tuple[Reading, list[Event], list[Decision]]:
        """The reading, what is worth telling of it, and what shall be done."""
        wall, now = self._clock.wall(), self._clock.monotonic()
        facts = collect(self.readers)
        sample = Sample(wall=wall, monotonic=now, late=max(0.0, now - due), asked=self._asked, **facts)
        assessment = self._detector.assess(sample)
        decided = self.policy.decide(sample, assessment)
        events = self._told(sample, assessment) + told_of(decided, sample)
        self._last = assessment
        return Reading(sample, assessment), events, decided.decisions

    def _told(self, sample: Sample, assessment: Assessment) -> list[Event]:
        events = []
        gaps = {gap[:3]: gap for gap in sample.gaps}
        for key, gap in gaps.items():
            if key not in self._gaps:
                events.append(
                    _event(
                        EventKind.GAP,
                        sample,
                        f"{gap.what} cannot be read: {gap.why} ({gap.where})",
                        gap,
                    )
                )
        for key, gap in self._gaps.items():
            if key not in gaps:
                events.append(
                    _event(
                        EventKind.GAP_CLOSED,
                        sample,
                        f"{gap.what} can be read again ({gap.where})",
                        gap,
                    )
                )
        self._gaps = gaps
        before = self._last.level if self._last is not None else None
        if assessment.level is not before:
            was = f", was {before.name}" if before is not None else ""
            events.append(_event(EventKind.LEVEL, sample, f"{assessment.level.name}{was}", assessment))
        return events


def told_of(decided: Decided, sample: Sample) -> list[Event]:
    """What is told of what was decided."""
    cleared = [
        _event(EventKind.CLEARED, sample, f"{clearing.rule}: {clearing.reason}", clearing)
        for clearing in decided.cleared
    ]
    return cleared + [_event(EventKind.DECISION, sample, each.reason, each) for each in decided.decisions]


def _event(kind: EventKind, sample: Sample, message: str, value: object) -> Event:
    return Event(kind=kind, wall=sample.wall, monotonic=sample.monotonic, message=message, value=value)
