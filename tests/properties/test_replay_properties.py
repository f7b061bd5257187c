"""A replay of a record is what happened: a real warden on a clock of ours, recorded both ways."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memwarden.engine.replay import JUDGED, Replay
from memwarden.engine.warden import Warden
from memwarden.errors import ReadError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event
from memwarden.model.facts import GpuMemory, ProcessKey, ProcessMemory, PsiLine, PsiStats, SystemMemory
from memwarden.model.serialize import from_dict, to_json
from memwarden.policy.rules import Rule
from memwarden.records.history import History
from memwarden.records.jsonl import JsonlRecorder
from memwarden.records.sqlite import SqliteRecorder
from memwarden.testing import FakeClock, ScriptedReader

TOTAL = 1 << 40


class Act:
    """An action that takes no time, may be taken back, and may fail."""

    harms = False

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name, self._fails = name, fails

    def run(self, decision: Decision) -> Outcome:
        if self._fails:
            raise OSError("cannot")
        return Outcome(decision=decision, done=True, message="done")


class Back(Act):
    """One that can be taken back, and is after a rule's ``hold``."""

    brief = True

    def undo(self, decision: Decision) -> Outcome:
        return Outcome(decision=decision, done=True, message="taken back")


class Slow(Act):
    """One that takes two and a half seconds of the clock."""

    def __init__(self, name: str, clock: FakeClock) -> None:
        super().__init__(name)
        self._clock = clock

    def run(self, decision: Decision) -> Outcome:
        self._clock.wait(threading.Event(), 2.5)
        return super().run(decision)


ACTIONS = (Act("act"), Act("fail", fails=True), Back("back"))

rules = st.builds(
    Rule,
    name=st.sampled_from(["one", "two", "three"]),
    when=st.sampled_from(
        [
            "level >= HIGH",
            "level >= CRITICAL",
            "used > 85%",
            "available < 20%",
            "psi.full > 10%",
            "stalls >= HIGH",
            "gpu.used > 88%",
            "leak >= suspected",
            "trend >= increasing",
            "time_left < 5min",
        ]
    ),
    sustain=st.sampled_from([0.0, 3.0]),
    settle=st.sampled_from([0.0, 5.0]),
    rest=st.sampled_from([0.0, 7.0, float("inf")]),
    then=st.sampled_from(["act", ["act", "back"], ["fail"]]),
    escalate=st.sampled_from([[], ["act", "back"], ["fail", "act"]]),
    step=st.sampled_from([1.0, 4.0]),
    hold=st.sampled_from([3.0, 60.0]),
)
rule_sets = st.lists(rules, max_size=3, unique_by=lambda rule: rule.name)


def entry(used: int, stalled: int, gpu: int | None) -> dict[str, Any]:
    """A machine, its stalls and a card, each in thousandths."""
    free = TOTAL - TOTAL // 1000 * used
    line = PsiLine(stalled / 1000, 0.0, 0.0, 0.0)
    gpus = () if gpu is None else (GpuMemory(0, "card", "GPU-0", TOTAL, TOTAL // 1000 * gpu, 0),)
    return {
        "system": SystemMemory(TOTAL, free, free, 0, 0, 0),
        "psi": PsiStats("machine", line, line),
        "gpus": gpus,
    }


looks = st.one_of(
    st.builds(entry, st.integers(600, 1000), st.integers(0, 600), st.none() | st.integers(700, 1000)),
    st.just(ReadError("meminfo", "/proc/meminfo", "denied")),
)
stretches = st.lists(st.tuples(looks, st.integers(1, 40)), min_size=1, max_size=8)
scripts = stretches.map(lambda parts: list(itertools.chain.from_iterable([look] * count for look, count in parts)))


def leak(pid: int, steps: list[int], gpu: int | None) -> list[dict[str, Any]]:
    """Looks at a process, and perhaps a card, that grow by so many thousandths of the machine at each."""
    sizes = itertools.accumulate(steps, initial=100)
    looks = []
    for used in sizes:
        process = ProcessMemory(ProcessKey(pid, 7), "app", TOTAL // 1000 * min(used, 800))
        looks.append(
            entry(min(used, 800) + 100, 0, None if gpu is None else min(gpu + used, 1000)) | {"process": process}
        )
    return looks


#: A calm, and then growth that may be noisy, once or twice, of one process or two.
leaks = st.lists(
    st.builds(
        lambda pid, calm, rise, gpu: leak(pid, [0] * calm + rise, gpu),
        st.sampled_from([10, 11]),
        st.integers(0, 120),
        st.lists(st.sampled_from([-3, 0, 4, 6, 8]), min_size=40, max_size=120),
        st.none() | st.just(50),
    ),
    min_size=1,
    max_size=2,
).map(lambda parts: list(itertools.chain.from_iterable(parts)))


class Kept:
    """A recorder that keeps what was judged, as text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def record(self, event: Event) -> None:
        if event.kind in JUDGED:
            self.lines.append(in_words(event))

    def close(self) -> None:
        pass


def in_words(event: Event) -> str:
    """All of an event."""
    return to_json(event)


def live(folder: Path, script: list[Any], do: Callable[[Warden, FakeClock], None], **more: Any) -> list[str]:
    """Run a warden over a script, recorded to ``live.jsonl`` and ``live.db``; what it reported."""
    clock, kept = FakeClock(), Kept()
    for name in ("live.jsonl", "live.db"):
        (folder / name).unlink(missing_ok=True)
    recorders = [
        kept,
        JsonlRecorder(folder / "live.jsonl", wall=clock.wall, every_sample=True),
        SqliteRecorder(folder / "live.db", wall=clock.wall, monotonic=clock.monotonic, every_sample=True),
    ]
    reader = ScriptedReader(script)
    warden = Warden(
        [reader], clock=clock, actions=[*ACTIONS, Slow("slow", clock)], recorders=recorders, patience=1e9, **more
    )
    warden.start()
    do(warden, clock)
    warden.stop()
    return kept.lines


def pass_time(warden: Warden, clock: FakeClock, seconds: float) -> None:
    """Second by second, so that the worker keeps up and actions answer."""
    for _ in range(int(seconds)):
        clock.advance(1.0)
        warden.flush(0.05)


def replayed(file: Path, rules: Iterable[Rule] | None = None) -> tuple[list[str], list[Replay]]:
    """What a replay of the record shows."""
    reported, made = [], []
    for events in History(file):
        made.append(Replay(None if rules is None else list(rules)))
        reported += [in_words(each.event) for each in made[-1].run(events) if each.replayed]
    return reported, made


@settings(max_examples=25)
@given(scripts, rule_sets, rule_sets, st.booleans(), st.booleans())
def test_a_replay_is_what_happened(
    tmp_path: Path, script: list[Any], first: list[Rule], then: list[Rule], dry_run: bool, again: bool
) -> None:
    """Event for event, word for word, by either record: with rules that are replaced while it runs, actions that fail
    and that are taken back, facts that are missing, a stop and a start."""

    def do(warden: Warden, clock: FakeClock) -> None:
        pass_time(warden, clock, len(script) / 2)
        warden.use_rules(then)
        pass_time(warden, clock, len(script) / 4)
        if again:
            warden.stop()
            clock.advance(5)
            warden.start()
        pass_time(warden, clock, len(script) / 4)

    happened = live(tmp_path, script, do, rules=first, interval=1.0, shortest=1.0, dry_run=dry_run)
    assert happened
    for name in ("live.jsonl", "live.db"):
        reported, made = replayed(tmp_path / name)
        assert reported == happened
        assert [each.unseen for each in made] == [0]


@settings(max_examples=10)
@given(scripts, rule_sets)
def test_sample_between_the_samples_are_replayed(tmp_path: Path, script: list[Any], first: list[Rule]) -> None:
    """Where memory fills fast, and where a level waits to be confirmed, sampling is faster than recording."""
    happened = live(
        tmp_path,
        script,
        lambda _, clock: clock.advance(len(script) * 2),
        rules=first,
        interval=5.0,
        shortest=0.25,
    )
    for name in ("live.jsonl", "live.db"):
        assert replayed(tmp_path / name)[0] == happened


@settings(max_examples=15)
@given(leaks, rule_sets, st.sampled_from([0.125, 1.0, 5.0]), st.booleans())
def test_leak_verdicts_are_replayed(
    tmp_path: Path, script: list[Any], first: list[Rule], interval: float, again: bool
) -> None:
    """Entered and left at the same samples, with the same text; also where samples come faster than they are fed, where
    there are samples between, and over a stop and a start."""

    def do(warden: Warden, clock: FakeClock) -> None:
        clock.advance(interval * len(script) * 3 / 4)
        if again:
            warden.stop()
            clock.advance(5)
            warden.start()
        clock.advance(interval * len(script) / 4)

    happened = live(tmp_path, script, do, rules=first, interval=interval, shortest=0.0625)
    for name in ("live.jsonl", "live.db"):
        assert replayed(tmp_path / name)[0] == happened


@pytest.mark.parametrize("name", ["live.jsonl", "live.db"])
def test_a_leak_and_its_end_are_replayed(tmp_path: Path, name: str) -> None:
    """Suspected, confirmed, and another process."""
    script = leak(10, [0] * 80 + [4] * 160, None) + leak(11, [0] * 5, None)
    happened = live(tmp_path, script, lambda _, clock: clock.advance(len(script)), interval=1.0, shortest=1.0)
    assert replayed(tmp_path / name)[0] == happened
    reported = [from_dict(json.loads(line)).message for line in happened if '"kind":"leak"' in line]
    assert [each.partition(": ")[0] for each in reported] == [
        "SUSPECTED",
        "CONFIRMED, was SUSPECTED",
        "NONE, was CONFIRMED",
    ]
    assert "app[10]: the rolling minimum rose" in reported[0]
    assert reported[2] == "NONE, was CONFIRMED: app[10]: the process was replaced"


@settings(max_examples=10)
@given(scripts, rule_sets)
def test_the_rules_of_the_record_are_no_other_than_the_same_rules(
    tmp_path: Path, script: list[Any], first: list[Rule]
) -> None:
    """Rules that are given show the same, where they are the same."""
    live(tmp_path, script, lambda _, clock: clock.advance(len(script)), rules=first, interval=1.0, shortest=1.0)
    assert replayed(tmp_path / "live.jsonl")[0] == replayed(tmp_path / "live.db", first)[0]


@pytest.mark.parametrize("name", ["live.jsonl", "live.db"])
def test_steps_wait_for_the_outcomes_in_the_record(tmp_path: Path, name: str) -> None:
    """A step comes when the one before has answered, then, too."""
    rule = Rule(name="r", when="used > 90%", escalate=["act", "slow", "back", "fail"], step=2)
    script = [entry(500, 0, None), *[entry(960, 0, None)] * 60, entry(400, 0, None)]
    happened = live(
        tmp_path,
        script,
        lambda warden, clock: pass_time(warden, clock, 70),
        rules=[rule],
        interval=1.0,
        shortest=1.0,
        wakeups=False,
    )
    assert replayed(tmp_path / name)[0] == happened
    steps = [line for line in happened if '"kind":"decision"' in line]
    assert len(steps) > 8
    without = tmp_path / "without.jsonl"
    lines = (tmp_path / "live.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    without.write_text("".join(line for line in lines if '"kind":"outcome"' not in line), encoding="utf-8")
    assert len([line for line in replayed(without)[0] if '"kind":"decision"' in line]) < len(steps)


@pytest.mark.parametrize("name", ["live.jsonl", "live.db"])
def test_without_rules_levels_alone_are_reported(tmp_path: Path, name: str) -> None:
    """And the first of them is the bare level of the first sample."""
    script = [entry(850, 0, None)] * 5
    happened = live(tmp_path, script, lambda _, clock: clock.advance(5), interval=1.0)
    assert replayed(tmp_path / name)[0] == happened
    assert len(happened) == 1
    assert '"level":"high"' in happened[0]
