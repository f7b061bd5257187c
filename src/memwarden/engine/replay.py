"""Judging and deciding once more, over a record: the events of then, and those of now.

The same detector and policy that a warden runs go over the recorded samples; nothing is read and nothing is done. With
the rules of the record, and every sample in it, the result is what happened, event for event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from memwarden.assess.judge import Judge
from memwarden.engine import changes
from memwarden.engine.clock import SystemClock
from memwarden.engine.tick import Tick
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.sample import Sample
from memwarden.model.verdicts import LeakVerdict, Reading
from memwarden.policy.rules import Policy, Rule
from memwarden.protocols import Detector

#: Events of judging and deciding.
JUDGED = (
    EventKind.LEVEL,
    EventKind.LEAK,
    EventKind.GAP,
    EventKind.GAP_CLOSED,
    EventKind.DECISION,
    EventKind.CLEARED,
)


class ReplayedEvent(NamedTuple):
    """An event, whether it is in the record (``live``), and whether the replay produces it."""

    event: Event
    live: bool
    replayed: bool


class Replay:
    """Goes over the events of one writer, in their order.

    ``rules`` replace those in the record; None: those. ``detector`` makes the judge. ``reversible`` and
    ``brief`` are actions as :class:`Policy` takes them, for ``rules`` that name others than the record's. Raises
    :class:`SettingsError` from ``run`` where a rule of the record is not understood.
    """

    def __init__(
        self,
        rules: Sequence[Rule] | None = None,
        *,
        detector: Callable[[], Detector] = Judge,
        reversible: Collection[str] = (),
        brief: Collection[str] = (),
    ) -> None:
        self._rules, self._detector = rules, detector
        self._reversible, self._brief = frozenset(reversible), frozenset(brief)
        #: Samples that were judged.
        self.samples = 0
        #: Recorded events without a recorded sample: of samples between those of the asked interval.
        self.unseen = 0
        #: Whether samples are missing, because a receiver was too slow.
        self.dropped = False
        self._reset({})

    def run(self, events: Iterable[Event]) -> Iterator[ReplayedEvent]:
        """Recorded and replayed events, in the order of the samples."""
        found: list[Event] = []  # by the replay, since the last sample
        live: list[Event] = []  # by the record
        seen: float | None = None
        for event in events:
            if event.kind is EventKind.SAMPLE and isinstance(event.value, Reading):
                yield from self._flush(found, live)
                sample = event.value.sample
                seen, found = sample.monotonic, self._judge(sample)
            elif event.kind in JUDGED:
                live.append(event)
                self.unseen += event.monotonic != seen
                if isinstance(event.value, Decision):
                    self._decided.add(_key(event))
            elif event.kind is EventKind.OUTCOME and isinstance(event.value, Outcome):
                self._outcomes.append((event.monotonic, event.value))
            elif event.kind is EventKind.RULES and self._rules is None:
                found += self._replace(event.details or {})
            elif event.kind is EventKind.START and "rules" in (event.details or {}):
                yield from self._flush(found, live)
                found = []
                if not (event.details or {}).get("goes_on") or not self.samples:
                    self._reset(event.details or {})
            elif event.kind is EventKind.OVERFLOW:
                self.dropped = True
        yield from self._flush(found, live)

    def _reset(self, details: dict[str, Any]) -> None:
        """Start with no history."""
        self._outcomes: deque[tuple[float, Outcome]] = deque()
        self._decided: set[tuple[Any, ...]] = set()  # what was decided live
        self._assumed: list[Decision] = []  # what is decided now, since the last sample
        self._awaited: dict[tuple[Any, ...], Decision] = {}  # what was decided both times, and not answered yet
        self._last: Sample | None = None
        policy = self._policy(details)
        self._tick = Tick((), self._detector(), policy if policy.rules else None, SystemClock(), None)

    def _policy(self, details: dict[str, Any]) -> Policy:
        plain = [rule for rule in _list(details, "rules") if isinstance(rule, dict)]
        rules = _rules(plain) if self._rules is None else self._rules
        own = {name for rule in plain for key in ("then", "escalate") for name in _list(rule, key)}
        return Policy(
            rules,
            # The record also has which of its actions can be undone.
            reversible={*(self._reversible - own), *_list(details, "reversible")},
            brief={*(self._brief - own), *_list(details, "brief")},
            dry_run=bool(details.get("dry_run", False)),
        )

    def _judge(self, sample: Sample) -> list[Event]:
        policy, self._last = self._tick.policy, sample
        self.samples += 1
        if policy is not None:
            self._learn(policy, sample.monotonic)
        _, events, decisions = self._tick.judge(sample)
        self._assumed += decisions
        return events

    def _learn(self, policy: Policy, now: float) -> None:
        """Outcomes from before this sample; for a decision that was not made then, one at once."""
        for decision in self._assumed:
            key = _key_of(decision)
            if key in self._decided:
                self._awaited[key] = decision
            else:
                policy.on_outcome(Outcome(decision=decision, done=False, message="replayed"))
        while self._outcomes and self._outcomes[0][0] < now:
            _, outcome = self._outcomes.popleft()
            # Another version may have worded the same decision differently.
            decision = self._awaited.pop(_key_of(outcome.decision), outcome.decision)
            policy.on_outcome(outcome._replace(decision=decision))
        self._assumed.clear()
        self._decided.clear()

    def _replace(self, details: dict[str, Any]) -> list[Event]:
        """Put other rules in force, after a sample and before the next."""
        new, policy = self._policy(details), self._tick.policy
        if policy is None or self._last is None:
            self._tick.policy = new
            return []
        decided = policy.replace(new, self._last)
        self._assumed += decided.decisions
        return changes.of_decided(self._last, decided)

    @staticmethod
    def _flush(found: list[Event], live: list[Event]) -> Iterator[ReplayedEvent]:
        left = {_key(event): event for event in live}
        for event in found:
            yield ReplayedEvent(event, left.pop(_key(event), None) is not None, True)
        for event in left.values():
            yield ReplayedEvent(event, True, False)
        live.clear()


def _list(plain: dict[str, Any], key: str) -> list[Any]:
    """Return a list of a record, empty where it holds another type."""
    found = plain.get(key)
    return [each for each in found if isinstance(each, str | dict)] if isinstance(found, list) else []


def _rules(plain: Iterable[dict[str, Any]]) -> list[Rule]:
    """Return the rules of a record. Raises :class:`SettingsError` where a newer memwarden wrote them."""
    found = []
    for each in plain:
        try:
            found.append(Rule.from_dict({**each, "rest": float("inf")} if each.get("rest") == "inf" else each))
        except SettingsError as error:
            raise SettingsError(f"a rule of the record: {error}; pass --rules FILE") from None
    return found


def _key(event: Event) -> tuple[Any, ...]:
    """Return the identity of an event: its moment and subject, not its message."""
    value = event.value
    if isinstance(value, Decision):
        return _key_of(value)
    if isinstance(value, LeakVerdict):
        return event.kind, event.monotonic, value.stage, value.what
    about = getattr(value, "rule", None) or getattr(value, "level", None) or tuple(value or ())[:3]
    return event.kind, event.monotonic, about


def _key_of(decision: Decision) -> tuple[Any, ...]:
    return EventKind.DECISION, decision.monotonic, decision.rule, decision.action, decision.undo, decision.repeat
