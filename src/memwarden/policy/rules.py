"""Rules that can be read aloud.

*When the level is at least HIGH for 10 s, unless acted in the last 60 s, then notify.*
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memwarden.model.decisions import Decision
from memwarden.model.findings import Assessment, PressureLevel
from memwarden.model.sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When the level is at least ``level`` for ``sustain`` seconds, run ``action``, then rest."""

    name: str
    level: PressureLevel
    action: str
    sustain: float = 0.0
    rest: float = 60.0

    def __str__(self) -> str:
        held = f" for {self.sustain:g} s" if self.sustain else ""
        rested = f" unless acted in the last {self.rest:g} s," if self.rest else ""
        return f"when the level is at least {self.level.name}{held},{rested} then {self.action}"


class Policy:
    """Decides by rules, and remembers since when each one holds and when it last acted."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._since: dict[Rule, float] = {}
        self._acted: dict[Rule, float] = {}

    def decide(self, sample: Sample, assessment: Assessment) -> list[Decision]:
        """What shall be done now. Durations are measured on the samples' monotonic clock."""
        now = sample.monotonic
        decisions = []
        for rule in self.rules:
            if assessment.level.rank < rule.level.rank:
                self._since.pop(rule, None)
                continue
            since = self._since.setdefault(rule, now)
            acted = self._acted.get(rule)
            if now - since < rule.sustain or (acted is not None and now - acted < rule.rest):
                continue
            self._acted[rule] = now
            decisions.append(
                Decision(
                    rule=rule.name,
                    action=rule.action,
                    reason=_reason(assessment),
                    wall=sample.wall,
                    monotonic=now,
                )
            )
        return decisions


def _reason(assessment: Assessment) -> str:
    binding = assessment.binding
    if binding is None:
        return f"level {assessment.level.name}"
    return f"level {assessment.level.name}: {binding.ratio:.1%} of {binding.limit.source} ({binding.limit.bytes} bytes)"
