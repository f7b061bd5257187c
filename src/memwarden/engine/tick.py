"""One tick: read, judge, decide. The rest of this package is about when, and on which thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memwarden.engine import changes
from memwarden.model.events import Event
from memwarden.model.facts import Gap
from memwarden.model.limits import Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, Reading
from memwarden.protocols import Clock, Detector, Reader
from memwarden.readers.collect import collect

if TYPE_CHECKING:  # rules are imported where there are some
    from memwarden.model.decisions import Decision
    from memwarden.policy.rules import Policy


class Tick:
    """The stages of the pipeline, and the last verdict and gaps, of which changes are reported."""

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

    def __call__(self, due: float, between: bool = False) -> tuple[Reading, list[Event], list[Decision]]:
        """Take the sample that was due at this monotonic time: its reading, events, and decisions to act on."""
        wall, now = self._clock.wall(), self._clock.monotonic()
        facts = collect(self.readers)
        late = max(0.0, now - due)
        sample = Sample(wall=wall, monotonic=now, late=late, asked=self._asked, between=between or None, **facts)
        return self.judge(sample)

    def judge(self, sample: Sample) -> tuple[Reading, list[Event], list[Decision]]:
        """The same, of a sample that was read before; for a replay."""
        assessment = self._detector.assess(sample)
        events: list[Event] = []
        if sample.gaps or self._gaps:
            gaps = {gap[:3]: gap for gap in sample.gaps}
            events += changes.of_gaps(sample, self._gaps, gaps)
            self._gaps = gaps
        before, self._last = self._last, assessment
        if before is None or assessment.level is not before.level:
            events.append(changes.of_level(sample, before, assessment))
        if assessment.leak is not None and (leak := changes.of_leak(sample, before, assessment.leak)) is not None:
            events.append(leak)
        decisions: list[Decision] = []
        if self.policy is not None:
            decided = self.policy.decide(sample, assessment)
            events += changes.of_decided(sample, decided)
            decisions = decided.decisions
        return Reading(sample, assessment), events, decisions
