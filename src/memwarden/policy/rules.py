"""Rules, and the policy that decides by them.

*When used is above 80% for 30 s, unless acted in the last 60 s, then collect, notify.*

A rule that fires starts an *episode*. It fires again after each rest while it holds. The episode ends when the figure
has been back by the band for the settling time: then a :class:`Clearing` is emitted, and reversible actions are undone
(a pause, a closed gate, an open alert). Within an episode the steps of ``escalate`` update one by one, each only if a
sample after the last step's outcome still finds the rule holding.

A figure that could not be read changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memwarden.errors import SettingsError
from memwarden.model.decisions import Clearing, Decision, Outcome
from memwarden.model.sample import Sample
from memwarden.model.units import parse_duration, size_text
from memwarden.model.verdicts import Assessment
from memwarden.policy.conditions import Condition, parse_condition
from memwarden.policy.metrics import GROWTH, METRICS, Figure

SEVERITIES = ("info", "warning", "critical")

#: Seconds after which an action without an outcome is no longer waited for: the next step may update.
ANSWER_SECONDS = 60.0
#: Most points of a growth that are kept.
_POINTS = 128

#: Keys of a rule in a file, and their fields.
_KEYS = {"for": "sustain"} | {
    name: name
    for name in ("name", "when", "band", "settle", "rest", "then", "escalate", "step", "hold", "severity", "dry_run")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Run the actions ``then`` if ``when`` holds for ``sustain``; fire again after ``rest`` at the earliest.

    ``when`` is a condition such as ``"level >= HIGH"`` (see :mod:`memwarden.policy.conditions`). Durations are seconds
    or text (``"30s"``). The rule clears when the figure is back by ``band`` (three points by default) for ``settle``.
    ``escalate`` are further actions, one ``step`` after the outcome of the last one; the last one repeats. A pause is
    undone after ``hold`` at the latest. With ``dry_run`` harmful actions only report what they would do. Raises
    :class:`SettingsError`.
    """

    name: str
    when: str
    then: Sequence[str] | str = ()
    sustain: float | str = 0.0
    band: str | None = None
    settle: float | str = 0.0
    rest: float | str = 60.0
    escalate: Sequence[str] | str = ()
    step: float | str = 5.0
    hold: float | str = 60.0
    severity: str = "warning"
    dry_run: bool = False
    condition: Condition = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not str(self.name).strip() or not isinstance(self.name, str):
            raise SettingsError(f"rule {self.name!r}: a rule needs a name")
        try:
            condition = parse_condition(self.when)
            condition.band(self.band)
            for name in ("sustain", "settle", "rest", "step", "hold"):
                object.__setattr__(self, name, _duration(name, getattr(self, name)))
            for name in ("then", "escalate"):
                object.__setattr__(self, name, _names(name, getattr(self, name)))
            if not self.then and not self.escalate:
                raise SettingsError("has no action; name one in then or escalate")
            if self.severity not in SEVERITIES:
                raise SettingsError(f"severity {self.severity!r}: choose one of {', '.join(SEVERITIES)}")
            if not isinstance(self.dry_run, bool):
                raise SettingsError(f"dry_run {self.dry_run!r}: must be true or false")
        except SettingsError as error:
            raise SettingsError(f"rule {self.name!r}: {error}") from None
        object.__setattr__(self, "condition", condition)

    @property
    def actions(self) -> tuple[str, ...]:
        """Every action of the rule, in order."""
        return (*self.then, *self.escalate)

    def __str__(self) -> str:
        held = f" for {self.sustain:g} s" if self.sustain else ""
        rested = f", unless acted in the last {self.rest:g} s" if self.rest else ""
        then = f", then {', '.join(self.then)}" if self.then else ""
        steps = ", ".join(self.escalate)
        firmer = f"; while it stays so, every {self.step:g} s the next of: {steps}" if steps else ""
        rehearsed = " (dry run)" if self.dry_run else ""
        return f"when {self.condition}{held}{rested}{then}{firmer}{rehearsed}"

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Rule:
        """Return the rule of a table in a file. Raises :class:`SettingsError`."""
        name = plain.get("name")
        unknown = [key for key in plain if key not in _KEYS]
        if unknown:
            raise SettingsError(f"rule {name!r}: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")
        for key in ("name", "when"):
            if key not in plain:
                raise SettingsError(f"rule {name!r}: {key!r} is missing")
        return cls(**{_KEYS[key]: value for key, value in plain.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the table that :meth:`from_dict` reads, without defaults."""
        plain: dict[str, Any] = {}
        for key, name in sorted(_KEYS.items(), key=lambda each: _ORDER.index(each[1])):
            value = getattr(self, name)
            if name in ("name", "when") or value != _DEFAULTS[name]:
                plain[key] = list(value) if isinstance(value, tuple) else value
        return plain


_ORDER = [name for name in Rule.__dataclass_fields__ if name != "condition"]
_DEFAULTS = {name: each.default for name, each in Rule.__dataclass_fields__.items()}


def _duration(name: str, value: object) -> float:
    if value in (0, "0", "0s") and not isinstance(value, bool):
        return 0.0
    if name == "rest" and value == float("inf"):
        return float("inf")
    try:
        return parse_duration(value)  # type: ignore[arg-type]
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None


def _names(name: str, value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    for each in names:
        if not isinstance(each, str) or not each:
            raise SettingsError(f"{name}: {each!r} is not the name of an action")
    return names


class Decided(NamedTuple):
    """Decisions and cleared rules of one sample."""

    decisions: list[Decision]
    cleared: list[Clearing]


class _RuleState:
    """One rule and its state."""

    def __init__(self, rule: Rule, reversible: Collection[str], brief: Collection[str], dry_run: bool) -> None:
        self.rule, self._condition = rule, rule.condition
        self._band = rule.condition.band(rule.band)
        self._sustain, self._settle, self._rest = float(rule.sustain), float(rule.settle), float(rule.rest)
        self._step_seconds, self._hold = float(rule.step), float(rule.hold)
        self._reversible, self._brief, self._dry_run = reversible, brief, dry_run or rule.dry_run
        self._since: float | None = None  # since when it holds
        self._acted: float | None = None  # when it last fired
        self._episode_since: float | None = None  # when the episode began
        self._back: float | None = None  # since when the figure is back
        self._repeats = 0
        self._steps = 0
        self._next: float | None = None  # when the next step may update; None: not counting yet
        self._waiting: list[tuple[Decision, float]] = []  # decisions without an outcome, and since when
        self._done: dict[str, float] = {}  # reversible actions, and when they were decided
        self._grown: deque[tuple[float, float]] = deque()  # (when, size), for a growth

    def update(self, sample: Sample, assessment: Assessment, decided: Decided) -> None:
        """Evaluate a sample, and add its decisions."""
        now, condition = sample.monotonic, self._condition
        overdue = [name for name, since in self._done.items() if name in self._brief and now - since >= self._hold]
        if overdue:
            decided.decisions.extend(self._undo(sample, f"held for {self._hold:g} s", overdue))
        figure = self._figure(sample, assessment)
        number = None if figure is None else condition.of(figure)
        if figure is None or number is None:
            return
        if condition.holds(number):
            self._back = None
            if self._since is None:
                self._since = now
            self._act(sample, figure, assessment, decided)
        elif not condition.is_back(number, self._band):
            self._back = None
        else:
            self._since = None
            if self._episode_since is not None:
                if self._back is None:
                    self._back = now
                if now - self._back >= self._settle:
                    self.end(sample, _reason(condition, figure, assessment), decided)

    def _act(self, sample: Sample, figure: Figure, assessment: Assessment, decided: Decided) -> None:
        now, rule = sample.monotonic, self.rule
        assert self._since is not None
        rested = self._acted is None or now - self._acted >= self._rest
        fires = rested and now - self._since >= self._sustain
        steps = self._episode_since is not None and self._may_step(now)
        if not fires and not steps:
            return
        reason, level = _reason(self._condition, figure, assessment), assessment.level.name
        if fires:
            if self._episode_since is None:
                self._episode_since = now
                steps = bool(rule.escalate) and not rule.then  # with nothing before it the first step is due at once
            else:
                self._repeats += 1
            self._acted = now
            decided.decisions.extend(self._decision(action, sample, reason, level) for action in rule.then)
        if steps and not self._waiting:
            action = rule.escalate[min(self._steps, len(rule.escalate) - 1)]
            self._steps += 1
            decided.decisions.append(self._decision(action, sample, reason, level))

    def _may_step(self, now: float) -> bool:
        """Return whether all decisions have an outcome, and the time of a step has passed since."""
        if not self.rule.escalate or any(now - since < ANSWER_SECONDS for _, since in self._waiting):
            return False
        self._waiting.clear()
        if self._next is None:
            self._next = now + self._step_seconds
        return now >= self._next

    def _plain(self, action: str, sample: Sample, reason: str) -> Decision:
        rule = self.rule
        return Decision(rule.name, action, reason, sample.wall, sample.monotonic, rule.severity, dry_run=self._dry_run)

    def _decision(self, action: str, sample: Sample, reason: str, level: str) -> Decision:
        decision = self._plain(action, sample, reason)._replace(repeat=self._repeats, details={"level": level})
        if self.rule.escalate:
            self._waiting.append((decision, sample.monotonic))
            self._next = None
        if action in self._reversible:
            self._done.setdefault(action, sample.monotonic)
        return decision

    def on_outcome(self, outcome: Outcome) -> None:
        """Take in the outcome of a decision."""
        if self._waiting:
            self._waiting = [each for each in self._waiting if each[0] != outcome.decision]

    def _figure(self, sample: Sample, assessment: Assessment) -> Figure | None:
        condition = self._condition
        figure = METRICS[condition.metric].read(sample, assessment)
        if condition.metric != GROWTH or figure is None:
            return figure
        now, size, points = sample.monotonic, figure[0], self._grown
        if not points or (condition.over is not None and now - points[-1][0] >= condition.over / _POINTS):
            points.append((now, size))
        if condition.over is not None:
            while len(points) > 1 and points[1][0] <= now - condition.over:
                points.popleft()
        return size - points[0][1], points[0][1]

    def end(self, sample: Sample, reason: str, decided: Decided) -> None:
        """End the episode, if there is one. The time of the last action is kept, for the rest."""
        if self._episode_since is None:
            return
        decided.decisions.extend(self._undo(sample, reason, list(self._done)))
        seconds = sample.monotonic - self._episode_since
        decided.cleared.append(Clearing(self.rule.name, reason, sample.wall, sample.monotonic, seconds))
        self._since = self._episode_since = self._back = self._next = None
        self._repeats = self._steps = 0
        self._waiting.clear()

    def _undo(self, sample: Sample, reason: str, names: Sequence[str]) -> list[Decision]:
        for action in names:
            del self._done[action]
        return [self._plain(action, sample, reason)._replace(undo=True) for action in reversed(names)]


class Policy:
    """Decides by rules, without a clock: the same samples and outcomes give the same decisions.

    ``reversible`` actions can be undone; the ``brief`` ones of them are undone after a rule's ``hold`` at the latest,
    the others when the episode ends. ``dry_run`` rehearses every rule.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        reversible: Collection[str] = (),
        brief: Collection[str] = (),
        dry_run: bool = False,
    ) -> None:
        self.rules = tuple(rules)
        self.reversible, self.brief, self.dry_run = frozenset(reversible), frozenset(brief), dry_run
        self._states = [self._state(rule) for rule in self.rules]

    def _state(self, rule: Rule) -> _RuleState:
        return _RuleState(rule, self.reversible, self.brief, self.dry_run)

    def decide(self, sample: Sample, assessment: Assessment) -> Decided:
        """Return the decisions for this sample. Durations are measured on the samples' monotonic clock."""
        decided = Decided([], [])
        for state in self._states:
            state.update(sample, assessment, decided)
        return decided

    def on_outcome(self, outcome: Outcome) -> None:
        """Take in the outcome of a decision: the next step may update."""
        for state in self._states:
            state.on_outcome(outcome)

    def replace(self, new: Policy, sample: Sample) -> Decided:
        """Decide by the rules of ``new`` from now on. A rule that stays keeps its state.

        Episodes of removed rules end at ``sample``, and their actions are undone.
        """
        rules = new.rules
        self.reversible, self.brief, self.dry_run = new.reversible, new.brief, new.dry_run
        left = list(self._states)
        states = []
        for rule in rules:
            kept = next((state for state in left if state.rule == rule), None)
            if kept is None:
                states.append(self._state(rule))
            else:
                left.remove(kept)
                states.append(kept)
        decided = Decided([], [])
        for state in left:
            state.end(sample, "the rule was replaced", decided)
        self.rules, self._states = rules, states
        return decided


def _reason(condition: Condition, figure: Figure, assessment: Assessment) -> str:
    text = condition.describe(figure)
    binding, leak, forecast = assessment.binding, assessment.leak, assessment.forecast
    if condition.metric == "leak" and leak is not None:
        return f"{text}: {leak.what}: {leak.reason}" if leak.what else f"{text}: {leak.reason}"
    if condition.metric == "time_left" and forecast is not None and forecast.what:
        return f"{text}: {forecast.what}"
    if binding is None or condition.metric not in ("level", "used"):
        return text
    if condition.metric == "used":  # has the share and the size itself
        return f"{text}; limit: {binding.limit.source}"
    return f"{text}: {binding.ratio:.1%} of {binding.limit.source} ({size_text(binding.limit.bytes)})"
