"""``memwarden replay``: what the rules of today would have done over a record, beside what was done then."""

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


class _Elsewhere:
    """An action of which only is known that it can be taken back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, decision: Decision) -> Outcome:
        raise NotImplementedError

    undo = run


def replay(file: str, rules: str | None, *, as_json: bool) -> int:
    """Print the replay of a record; returns 0. Raises :class:`RecordError` and :class:`SettingsError`."""
    new = None if rules is None else _rules(rules)
    standard = _standard()
    history = History(file)
    summary = _Summary(rules)
    output = Output("replay")
    with output:
        for events in history:
            one = Replay(new, reversible=standard.reversible, brief=standard.brief)
            for each in one.run(summary.watch(events)):
                summary.take(each)
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
    """The rules of a settings file, its preset's included; nothing else of the settings counts."""
    _, rules = rules_of(resolve({"config": path}, {}))
    if not rules:
        raise SettingsError(f"--rules {path}: holds no rule and no preset")
    return rules


def _standard() -> Policy:
    """Which of the actions that ship can be taken back."""
    names = ("notify", *EMERGENCY, "webhook", "alerts")
    remedies = ActionRegistry([_Elsewhere("webhook"), _Elsewhere("alerts")], True)
    return remedies.policy([Rule(name="all", when="level >= LOW", then=names)])


def _line(each: ReplayedEvent) -> str:
    words = event_text(each.event)
    word, sentence = (each.event.kind.value, each.event.message) if words is None else words
    return f"{_MARKS[each.live, each.replayed]} {iso(each.event.wall)[:19].replace('T', ' ')} {word} {sentence}"


def _json(each: ReplayedEvent) -> str:
    plain = {"schema": SCHEMA, "type": "told", "live": each.live, "replayed": each.replayed}
    return json.dumps({**plain, "event": to_dict(each.event)}, ensure_ascii=False)


class _Summary:
    """Counts what a replay told."""

    def __init__(self, rules: str | None) -> None:
        self._rules = rules
        self.samples = self.skipped = self._unseen = 0
        self._dropped = False
        self._first, self._last = math.inf, -math.inf
        self._live = dict.fromkeys(JUDGED, 0)
        self._replayed = dict.fromkeys(JUDGED, 0)
        self._gone = self._new = 0

    def watch(self, events: Any) -> Any:
        """Pass events on, and note from when to when their samples go."""
        for event in events:
            if event.kind is EventKind.SAMPLE:
                self._first, self._last = min(self._first, event.wall), max(self._last, event.wall)
            yield event

    def take(self, each: ReplayedEvent) -> None:
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
            "unseen_looks": self._unseen,
            "samples_dropped": self._dropped,
            "lines_skipped": self.skipped,
        }

    def text(self) -> str:
        whose = "the rules of the record" if self._rules is None else f"the rules of {render.printable(self._rules)}"
        lines = [
            "",
            f"{self.samples} samples of {render.seconds(self._last - self._first)}, judged again by {whose}",
            f"then  {_counts(self._live)}",
            f"now   {_counts(self._replayed)}",
            f"{self._new} new (+), {self._gone} gone (-)" if self._new or self._gone else "nothing differs",
        ]
        if self._unseen:
            lines.append(f"{self._unseen} were told at looks between the samples, which this record does not hold")
        if self._dropped:
            lines.append("samples are missing in the record: a receiver was too slow for them")
        if self.skipped:
            lines.append(f"{self.skipped} lines were passed over: torn, or not memwarden's")
        return "\n".join(lines)


def _counts(counts: dict[EventKind, int]) -> str:
    words = {
        EventKind.LEVEL: "levels",
        EventKind.LEAK: "leaks",
        EventKind.DECISION: "decisions",
        EventKind.CLEARED: "cleared",
        EventKind.GAP: "gaps",
    }
    return ", ".join(f"{counts[kind]} {word}" for kind, word in words.items())
