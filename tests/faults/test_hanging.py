"""A receiver, reader or action hangs: it is named, and it alone may outlive `stop()`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from memwarden.engine import warden as engine
from memwarden.engine.warden import Warden
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.policy.rules import Rule
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import SOON, VAST, Keeper, no_thread_is_left, our_threads

PATIENCE = 0.4


class Gate:
    """Where something hangs until the test lets it go."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def hang(self) -> None:
        """Hang here."""
        self.entered.set()
        assert self.release.wait(2 * SOON)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is opened at the end, so that no thread is left."""
    made = Gate()
    yield made
    made.release.set()
    assert no_thread_is_left()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real time passes while `stop()` waits: little of it."""
    monkeypatch.setattr(engine, "STOP_PATIENCE_SECONDS", PATIENCE)


def seconds_to_stop(warden: Warden) -> float:
    """How long `stop()` takes, in real time."""
    started = time.monotonic()
    warden.stop()
    return time.monotonic() - started


def test_stopping_takes_no_time_where_nothing_hangs() -> None:
    """The thread is woken out of an interval of an hour; nothing polls and nothing waits."""
    warden = Warden([ScriptedReader([0], VAST)], interval=3600.0).start()
    assert warden.flush()
    assert seconds_to_stop(warden) < 0.2
    assert our_threads() == []


@pytest.mark.contract("S2-23", "W2-2")
def test_a_callback_that_hangs_alone_outlives_stop(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """The log names it, one thread is left, and those behind it have every event."""

    def hangs(event: Event) -> None:
        if event.kind is EventKind.LEVEL:
            gate.hang()

    behind, recorder = Keeper(), Keeper()
    warden = Warden([ScriptedReader([0], VAST)], clock=FakeClock(), recorders=[recorder])
    warden.subscribe(hangs)
    warden.subscribe(behind)
    with caplog.at_level(logging.WARNING, "memwarden"):
        warden.start()
        assert gate.entered.wait(SOON)
        assert seconds_to_stop(warden) < PATIENCE + 0.5
    name = f"{__name__}.{hangs.__qualname__}"
    assert caplog.messages == [f"{name} hangs; its thread was left behind"]
    assert [thread.name for thread in our_threads()] == ["memwarden-dispatcher"]
    assert behind.kinds() == recorder.kinds()
    assert recorder.kinds() == [EventKind.START, EventKind.SAMPLE, EventKind.LEVEL, EventKind.STOP]
    assert recorder.closed == 1
    assert warden.status()["stuck_receivers"] == [name]
    gate.release.set()
    assert no_thread_is_left()
    assert warden.status()["stuck_receivers"] == []


def test_a_recorder_that_hangs_is_closed_when_it_returns(gate: Gate) -> None:
    """Not while it is still at work: closing is no more thread-safe than writing."""

    class Slow(Keeper):
        def record(self, event: Event) -> None:
            if event.kind is EventKind.SAMPLE:
                gate.hang()

    recorder = Slow()
    warden = Warden([ScriptedReader([0], VAST)], clock=FakeClock(), recorders=[recorder]).start()
    assert gate.entered.wait(SOON)
    warden.stop()
    assert recorder.closed == 0
    gate.release.set()
    assert no_thread_is_left()
    assert recorder.closed == 1


def test_a_warden_starts_again_beside_a_callback_that_still_hangs(gate: Gate) -> None:
    """The others are served in the second run; the one that hangs is not called a second time meanwhile."""
    calls = []

    def hangs(event: Event) -> None:
        calls.append(event.kind)
        gate.hang()

    clock, behind = FakeClock(), Keeper()
    warden = Warden([ScriptedReader([0], VAST)], clock=clock)
    warden.subscribe(hangs)
    warden.subscribe(behind)
    warden.start()
    assert gate.entered.wait(SOON)
    warden.stop()
    warden.start()
    clock.advance(2.0)
    assert warden.flush()
    assert behind.moments() == [1000.0, 1000.0, 1001.0, 1002.0]
    assert calls == [EventKind.START]
    gate.release.set()
    assert behind.wait_for(lambda: bool(behind.of(EventKind.TROUBLE)))
    clock.advance(1.0)
    assert warden.flush()
    warden.stop()
    assert calls[1:] == [EventKind.TROUBLE, EventKind.SAMPLE, EventKind.STOP]


def test_an_action_that_hangs_does_not_hold_stop_up(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the action."""

    class Hangs:
        name = "wait"

        def run(self, decision: Decision) -> Outcome:
            gate.hang()
            return Outcome(decision=decision, done=True, message="done")

    rule = Rule(name="high", when="level >= HIGH", then="wait")
    recorder = Keeper()
    reader = ScriptedReader([960], 1000)
    warden = Warden([reader], clock=FakeClock(), rules=[rule], actions=[Hangs()], recorders=[recorder])
    with caplog.at_level(logging.WARNING, "memwarden"):
        warden.start()
        assert gate.entered.wait(SOON)
        assert seconds_to_stop(warden) < PATIENCE + 0.5
    assert caplog.messages == ["action wait hangs; its thread was left behind"]
    assert recorder.kinds()[-1] is EventKind.STOP


class Hangs(ScriptedReader):
    """A reader that hangs in its third sample."""

    def __init__(self, gate: Gate) -> None:
        super().__init__([0], VAST)
        self._gate = gate

    def read(self) -> Mapping[str, Any]:
        """The third hangs."""
        if self.reads == 2:
            self.reads += 1
            self._gate.hang()
        return super().read()


def test_a_reader_that_hangs_does_not_hold_stop_up(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Its thread is left behind; it closes the readers when it returns, and nothing is delivered after STOP."""
    clock, recorder, reader = FakeClock(), Keeper(), Hangs(gate)
    clock.PATIENCE = 0.1
    warden = Warden([reader], clock=clock, recorders=[recorder]).start()
    clock.advance(2.0)
    assert gate.entered.wait(SOON)
    with caplog.at_level(logging.WARNING, "memwarden"):
        assert seconds_to_stop(warden) < PATIENCE + 0.5
    assert caplog.messages == ["a reader hangs; the sampler thread was left behind"]
    assert [thread.name for thread in our_threads()] == ["memwarden-sampler"]
    assert not reader.closed
    assert recorder.kinds()[-1] is EventKind.STOP
    with pytest.raises(RuntimeError, match="a reader still hangs"):
        warden.start()
    gate.release.set()
    assert no_thread_is_left()
    assert reader.closed
    assert recorder.moments() == [1000.0, 1001.0]
    assert recorder.kinds()[-1] is EventKind.STOP
    warden.start()
    assert warden.flush()
    warden.stop()
    assert len(recorder.moments()) == 3


def test_a_reader_that_hangs_in_the_first_look_holds_start_up_only_so_long(gate: Gate) -> None:
    """`start()` returns within the warden's patience; the watching begins when the reader answers."""
    reader = Hangs(gate)
    reader.reads = 2
    recorder = Keeper()
    warden = Warden([reader], interval=3600.0, recorders=[recorder], patience=0.2)
    started = time.monotonic()
    warden.start()
    assert 0.1 < time.monotonic() - started < 2.0
    assert warden.last is None
    gate.release.set()
    assert recorder.wait_for(lambda: bool(recorder.of(EventKind.SAMPLE)))
    warden.stop()
