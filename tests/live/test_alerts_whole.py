"""The whole path: memory, level, rule, webhook, and a receiver that is as bad as receivers are."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from memwarden import JsonlRecorder, Rule, SqliteRecorder, Warden
from memwarden.actions.alerting.webhook import Webhook
from memwarden.model.decisions import Clearing
from memwarden.model.events import EventKind
from memwarden.model.facts import SystemMemory
from memwarden.model.serialize import iso
from memwarden.records.jsonl import read_lines
from memwarden.records.sqlite_reader import read_history
from memwarden.records.statistics import Statistics
from memwarden.testing import FakeClock
from support.engine import SOON, VAST, Keeper
from support.receiver import Receiver

FULL, EMPTY = int(0.95 * VAST), int(0.5 * VAST)
MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("direct_connections")


class Dial:
    """A machine with a use that the test sets."""

    name = "dial"

    def __init__(self) -> None:
        self.used = EMPTY

    def read(self) -> Mapping[str, Any]:
        free = VAST - self.used
        return {"system": SystemMemory(VAST, free, free, 0, 0, 0)}

    def close(self) -> None:
        """Nothing is held."""


BAD = ["reset", 500, "cut", 503, "half", "slow", 401, "reset", (503, {"Retry-After": "0"}), 408, 404]


def test_each_change_arrives_once_in_order_and_nothing_else(tmp_path: Path) -> None:
    """Through a receiver that is not there, refuses, breaks off, dies and returns; also while a rule goes on holding.

    Episodes last from a moment to ten minutes: longer than any ``hold``, ``rest`` or retry. Flutter around the
    threshold, within the band, is no change.
    """
    clock, dial, keeper, counted = FakeClock(), Dial(), Keeper(), Statistics()
    receiver = Receiver([*BAD, "hang", *BAD, "drip", *BAD])
    hook = Webhook(receiver.url, retry=0.01, longest=0.05, timeout=2, patience=20)
    rule = Rule(name="early", when="used >= 90%", then="webhook", rest=7.0, hold=20.0)
    jsonl, history = tmp_path / "record.jsonl", tmp_path / "history.db"
    recorders = [keeper, counted, JsonlRecorder(jsonl), SqliteRecorder(history, wall=clock.wall)]
    # This clock runs so fast that every write to the disk would be one that hangs.
    warden = Warden([dial], interval=5, clock=clock, rules=[rule], actions=[hook], recorders=recorders, patience=1e6)
    changes: list[tuple[str, float]] = []

    def turn(used: int, seconds: float, state: str = "") -> None:
        dial.used = used
        before = clock.wall()
        clock.advance(seconds)
        if state:
            changes.append((state, before))

    episodes = 25
    with warden:
        for number in range(episodes):
            turn(EMPTY, 5.0)
            turn(FULL, 600.0 if number % 8 == 0 else 10.0, "firing")
            for _ in range(3):
                turn(int(0.89 * VAST), 5.0)  # below the threshold, within the band
                turn(FULL, 5.0)
            turn(EMPTY, 10.0, "resolved")
            assert warden.flush()
            if number == 3:
                receiver.start()  # nothing has listened so far
            elif number in (10, 18):
                assert receiver.wait_for(number // 3)
                receiver.stop()
            elif number in (13, 20):
                receiver.start()
    receiver.stop()

    got = receiver.answered()
    assert [each.json["state"] for each in got] == [state for state, _ in changes]
    assert [each.json["sequence"] for each in got] == list(range(1, 2 * episodes + 1))
    assert len({each.id for each in receiver.got}) == 2 * episodes
    for each, (_, since) in zip(got, changes, strict=True):  # of the sample that found it
        assert iso(since) <= each.json["timestamp"] <= iso(since + 5.0)
    # All other receivers got the same.
    assert keeper.of(EventKind.TROUBLE) == []
    clearings = [event.value for event in keeper.of(EventKind.CLEARED)]
    assert len(clearings) == episodes
    assert all(isinstance(each, Clearing) for each in clearings)
    assert (counted.figures.alerts, counted.figures.repeats > 0) == (episodes, True)
    kinds = [event.kind for event in keeper.events]
    assert [event.kind for event in read_lines(jsonl)] == kinds
    assert [event.kind for event in read_history(history)].count(EventKind.CLEARED) == episodes


@pytest.mark.parametrize("how", ["away", "refuses", "asks for time"])
def test_stopping_the_warden_delivers_what_waits(how: str) -> None:
    """Though the next try would be a minute away: a receiver that is back by then gets all of it, in order."""
    clock, dial = FakeClock(), Dial()
    script = {"away": [], "refuses": [403], "asks for time": [(429, {"Retry-After": "1"})]}[how]
    receiver = Receiver(script)
    hook = Webhook(receiver.url, retry=0.1 if how == "asks for time" else 60, longest=60, patience=10)
    rule = Rule(name="r", when="used >= 90%", then="webhook", rest=0)
    warden = Warden([dial], clock=clock, rules=[rule], actions=[hook])
    if how != "away":
        receiver.start()
    with warden:
        for used in (FULL, EMPTY, FULL):
            dial.used = used
            clock.advance(5.0)
        assert warden.flush()
        assert not hook.outboxes[0].settle(SOON)
        if how == "away":
            receiver.start()
    receiver.stop()
    assert [each.json["state"] for each in receiver.answered()] == ["firing", "resolved", "firing"]
    assert hook.outboxes[0].waiting == 0


def test_a_warden_that_starts_again_alerts_anew() -> None:
    """A rule that held at the stop fires again; one that is over meanwhile is not resolved without a firing."""
    clock, dial = FakeClock(), Dial()
    with Receiver() as receiver:
        hook = Webhook(receiver.url)
        warden = Warden([dial], clock=clock, rules=[Rule(name="r", when="used >= 90%", then="webhook")], actions=[hook])
        for used in (FULL, EMPTY):
            dial.used = used
            with warden:
                clock.advance(5.0)
    assert [each.json["state"] for each in receiver.answered()] == ["firing"]


def test_real_memory_to_a_real_receiver() -> None:
    """This process takes memory and gives it back, twice: four alerts, and nothing while nothing changes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        rss = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    rule = Rule(name="mine", when=f"process.rss >= {rss // MIB + 96}MiB", band="32MiB", then="webhook", rest=0)
    with Receiver(["reset", 500]) as receiver:
        hook = Webhook(receiver.url, retry=0.01)
        with Warden(interval=0.05, rules=[rule], actions=[hook]):
            for turn in range(2):
                kept = bytearray(b"x") * (192 * MIB)
                assert receiver.wait_for(2 * turn + 1, SOON)
                time.sleep(0.3)
                del kept
                assert receiver.wait_for(2 * turn + 2, SOON)
                time.sleep(0.3)
    got = [each.json for each in receiver.answered()]
    assert [each["state"] for each in got] == ["firing", "resolved"] * 2
    assert all("process.rss" in each["text"] for each in got)
