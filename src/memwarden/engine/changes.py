"""Events of what changed from one sample to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memwarden.assess.reasons import time_left_text
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import Gap
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, LeakStage, LeakVerdict

if TYPE_CHECKING:  # rules are imported where there are some
    from memwarden.policy.rules import Decided, Policy


def of_gaps(sample: Sample, before: Mapping[Any, Gap], now: Mapping[Any, Gap]) -> list[Event]:
    """Facts that can no longer be read, and those that can be again."""
    opened = [
        _event(EventKind.GAP, sample, f"{gap.what} cannot be read: {gap.why} ({gap.where})", gap)
        for key, gap in now.items()
        if key not in before
    ]
    closed = [
        _event(EventKind.GAP_CLOSED, sample, f"{gap.what} can be read again ({gap.where})", gap)
        for key, gap in before.items()
        if key not in now
    ]
    return opened + closed


def of_level(sample: Sample, before: Assessment | None, now: Assessment) -> Event:
    """Another pressure level."""
    was = f", was {before.level.name}" if before is not None else ""
    return _event(EventKind.LEVEL, sample, f"{now.level.name}{was}", now)


def of_leak(sample: Sample, before: Assessment | None, leak: LeakVerdict) -> Event | None:
    """Another leak verdict, or the same on another process or group; None where nothing changed."""
    was = None if before is None else before.leak
    stage = LeakStage.NONE if was is None else was.stage
    if leak.stage is stage and (stage is LeakStage.NONE or was is None or leak.what == was.what):
        return None
    message = leak.stage.name
    if stage is not LeakStage.NONE and stage is not leak.stage:
        message += f", was {stage.name}"
    if what := leak.what or (None if was is None else was.what):
        message += f": {what}"
    message += f": {leak.reason}"
    if leak.forecast is not None:
        message += f"; {time_left_text(leak.forecast)}"
    return _event(EventKind.LEAK, sample, message, leak)


def of_decided(sample: Sample, decided: Decided) -> list[Event]:
    """Rules that fired, and those of which the condition is over."""
    cleared = [_event(EventKind.CLEARED, sample, f"{each.rule}: {each.reason}", each) for each in decided.cleared]
    return cleared + [_event(EventKind.DECISION, sample, each.reason, each) for each in decided.decisions]


def policy_to_dict(policy: Policy | None) -> dict[str, Any]:
    """The rules in force as a record keeps them, from which a replay can follow them."""
    if policy is None:
        return {"rules": []}
    rules = [rule.to_dict() for rule in policy.rules]
    for rule in rules:
        if rule.get("rest") == math.inf:
            rule["rest"] = "inf"  # JSON has no infinity
    return {
        "rules": rules,
        "reversible": sorted(policy.reversible),
        "brief": sorted(policy.brief),
        "dry_run": policy.dry_run,
    }


def _event(kind: EventKind, sample: Sample, message: str, value: object) -> Event:
    return Event(kind=kind, wall=sample.wall, monotonic=sample.monotonic, message=message, value=value)
