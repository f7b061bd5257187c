"""``memwarden replay``: judge a record again, with its own or other rules, and compare the events."""

from __future__ import annotations

import json
import math
from typing import Any

from memwarden.engine.action_registry import ActionRegistry
from memwarden.engine.replay import JUDGED, Replay, ReplayedEvent
from memwarden.errors import RecordError, SettingsError
from memwarden.faces import render
from memwarden.faces.cli.configured_actions import rules_of
from memwarden.faces.cli.live.tui import Output
from memwarden.faces.cli.live.watch_state import event_text
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import EventKind
from memwarden.model.serialize import SCHEMA, iso, to_dict
from memwarden.policy.presets import EMERGENCY
from memwarden.policy.rules import Policy, Rule
from memwarden.records.history import History
from memwarden.settings import resolve

_MARKS = {(True, True): "=", (True, False): "-", (False, True): "+"}


class _NamedAction:
    """An action of which only the name, and that it can be undone, is known."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, decision: Decision) -> Outcome:
        raise NotImplementedError

    undo = run


def replay(file: str, rules: str | None, *, as_json: bool) -> int:
    """Print the replay of a record; return 0. Raises :class:`RecordError` and :class:`SettingsError`."""
    new = None if rules is None else _rules(rules)
    standard = _standard()
    history = History(file)
    summary = _Summary(rules)
    output = Output("replay")
    with output:
        for events in history:
            one = Replay(new, reversible=standard.reversible, brief=standard.brief)
            for each in one.run(summary.watch(events)):
                summary.count(each)
                output.print(_json(each) if as_json else _line(each))
            summary.add(one)
        if not summary.samples:
            raise RecordError(
                f"record {history.path}: holds no full sample, so there is nothing to judge; name a newer one",
                path=history.path,
            )
        summary.skipped = history.skipped
        output.print(json.dumps(summary.plain(history.path)) if as_json else summary.text())
    return output.code


def _rules(path: str) -> tuple[Rule, ...]:
    """Return the rules of a settings file, with its preset's; other settings are ignored."""
    _, rules = rules_of(resolve({"config": path}, {}))
    if not rules:
        raise SettingsError(f"--rules {path}: holds no rule and no preset")
    return rules


def _standard() -> Policy:
    """Return the policy of all actions that memwarden has: which can be undone, which are brief."""
    names = ("notify", *EMERGENCY, "webhook", "alerts")
    actions = ActionRegistry([_NamedAction("webhook"), _NamedAction("alerts")], True)
    return actions.policy([Rule(name="all", when="level >= LOW", then=names)])


def _line(each: ReplayedEvent) -> str:
    text = event_text(each.event)
    word, sentence = (each.event.kind.value, each.event.message) if text is None else text
    return f"{_MARKS[each.live, each.replayed]} {iso(each.event.wall)[:19].replace('T', ' ')} {word} {sentence}"


def _json(each: ReplayedEvent) -> str:
    plain = {"schema": SCHEMA, "type": "replayed-event", "live": each.live, "replayed": each.replayed}
    return json.dumps({**plain, "event": to_dict(each.event)}, ensure_ascii=False)


class _Summary:
    """Counts of a replay's events."""

    def __init__(self, rules: str | None) -> None:
        self._rules = rules
        self.samples = self.skipped = self._unseen = 0
        self._dropped = False
        self._first, self._last = math.inf, -math.inf
        self._live = dict.fromkeys(JUDGED, 0)
        self._replayed = dict.fromkeys(JUDGED, 0)
        self._gone = self._new = 0

    def watch(self, events: Any) -> Any:
        """Pass events on, and keep the times of the first and last sample."""
        for event in events:
            if event.kind is EventKind.SAMPLE:
                self._first, self._last = min(self._first, event.wall), max(self._last, event.wall)
            yield event

    def count(self, each: ReplayedEvent) -> None:
        self._live[each.event.kind] += each.live
        self._replayed[each.event.kind] += each.replayed
        self._gone += each.live and not each.replayed
        self._new += each.replayed and not each.live

    def add(self, one: Replay) -> None:
        self.samples += one.samples
        self._unseen += one.unseen
        self._dropped = self._dropped or one.dropped

    def plain(self, path: str) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "type": "replay",
            "file": path,
            "rules": self._rules,
            "samples": self.samples,
            "first": iso(self._first),
            "last": iso(self._last),
            "live": {kind.value: count for kind, count in self._live.items()},
            "replayed": {kind.value: count for kind, count in self._replayed.items()},
            "only_live": self._gone,
            "only_replayed": self._new,
            "unrecorded_samples": self._unseen,
            "samples_dropped": self._dropped,
            "lines_skipped": self.skipped,
        }

    def text(self) -> str:
        rules = "the rules of the record" if self._rules is None else f"the rules of {render.printable(self._rules)}"
        lines = [
            "",
            f"{self.samples} samples of {render.seconds(self._last - self._first)}, judged again by {rules}",
            f"then  {_counts(self._live)}",
            f"now   {_counts(self._replayed)}",
            f"{self._new} new (+), {self._gone} gone (-)" if self._new or self._gone else "nothing differs",
        ]
        if self._unseen:
            lines.append(f"{self._unseen} events came from samples that this record does not have")
        if self._dropped:
            lines.append("samples are missing in the record: a receiver was too slow for them")
        if self.skipped:
            lines.append(f"{self.skipped} lines were skipped: incomplete, or not memwarden's")
        return "\n".join(lines)


def _counts(counts: dict[EventKind, int]) -> str:
    names = {
        EventKind.LEVEL: "levels",
        EventKind.LEAK: "leaks",
        EventKind.DECISION: "decisions",
        EventKind.CLEARED: "cleared",
        EventKind.GAP: "gaps",
    }
    return ", ".join(f"{counts[kind]} {name}" for kind, name in names.items())
