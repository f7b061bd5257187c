"""Readings as an iterator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

import memwarden
from memwarden.engine.warden import WAITING_READINGS, Warden
from memwarden.model.events import Event, EventKind
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import SOON, VAST, Keeper, no_thread_is_left, our_threads


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test moves."""
    return FakeClock()


@pytest.fixture
def warden(clock: FakeClock) -> Iterator[Warden]:
    """A warden that was not started."""
    made = Warden([ScriptedReader([0, 1, 2, 3], VAST)], interval=1.0, clock=clock)
    yield made
    made.stop()


def used(reading: memwarden.Reading) -> int:
    """The figure of the script at that sample."""
    assert reading.sample.system is not None
    return reading.sample.system.used


def test_readings_come_at_the_asked_interval(warden: Warden, clock: FakeClock) -> None:
    """The first at once, then one a second; nothing runs before the first is asked for."""
    readings = warden.watch()
    assert our_threads() == []
    got = [next(readings)]
    for _ in range(3):
        clock.advance(1.0)
        got.append(next(readings))
    assert [each.sample.monotonic for each in got] == [1000.0, 1001.0, 1002.0, 1003.0]
    assert [used(each) for each in got] == [0, 1, 2, 3]
    readings.close()


def test_leaving_the_loop_leaves_no_thread(warden: Warden, clock: FakeClock) -> None:
    """After a break the warden that the loop started is stopped."""
    for _ in warden.watch():
        assert warden.running
        break
    assert no_thread_is_left()
    assert not warden.running


def test_leaving_the_loop_ends_its_subscription(warden: Warden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise readings would pile up for a loop that runs no more."""
    ends: list[bool] = []
    subscribe = warden.subscribe

    def watched(receiver: Callable[[Event], None]) -> Callable[[], None]:
        end = subscribe(receiver)
        ends.append(False)

        def ending() -> None:
            end()
            ends[-1] = True

        return ending

    monkeypatch.setattr(warden, "subscribe", watched)
    for _ in warden.watch():
        break
    assert ends == [True]


def test_an_exception_in_the_loop_leaves_no_thread(warden: Warden) -> None:
    """The caller's error goes through, and takes nothing of ours along."""

    def loop() -> None:
        for _ in warden.watch():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert no_thread_is_left()


@pytest.mark.parametrize("while_waiting", [False, True])
def test_the_loop_ends_when_it_is_reported_to_stop(warden: Warden, while_waiting: bool) -> None:
    """Between two readings and while it waits for one, from any thread, by anything with `is_set()`."""
    stop, got = threading.Event(), []

    def loop() -> None:
        for reading in warden.watch(stop):
            got.append(reading)
            if while_waiting:
                first.set()
            else:
                stop.set()

    first = threading.Event()
    thread = threading.Thread(target=loop)
    thread.start()
    if while_waiting:
        assert first.wait(SOON)
        stop.set()
    thread.join(SOON)
    assert not thread.is_alive()
    assert len(got) == 1
    assert no_thread_is_left()


def test_a_stop_that_was_set_before_yields_nothing(warden: Warden) -> None:
    """And leaves nothing behind."""
    stop = threading.Event()
    stop.set()
    assert list(warden.watch(stop)) == []
    assert no_thread_is_left()


def test_a_warden_that_runs_goes_on_when_the_loop_is_left(warden: Warden, clock: FakeClock) -> None:
    """What the loop did not start it does not stop; its subscription ends."""
    warden.start()
    warden.flush()

    class Advances:
        """Asked between two waits, with a subscriber: then time moves on."""

        def is_set(self) -> bool:
            clock.advance(1.0)
            return False

    readings = warden.watch(Advances())
    assert used(next(readings)) == 1
    readings.close()
    assert warden.running
    keeper = Keeper()
    warden.subscribe(keeper)
    clock.advance(1.0)
    assert warden.flush()
    assert keeper.moments() == [1002.0]


@pytest.mark.parametrize("reported", [True, False])
def test_stopping_the_warden_ends_the_loop(warden: Warden, reported: bool) -> None:
    """Even where a receiver that hangs keeps the news from it."""
    entered, release, first = threading.Event(), threading.Event(), threading.Event()

    def hangs(event: Event) -> None:
        if event.kind is EventKind.LEVEL and not reported:
            entered.set()
            assert release.wait(2 * SOON)

    warden.subscribe(hangs)
    got = []

    def loop() -> None:
        for reading in warden.watch():
            got.append(reading)
            first.set()

    thread = threading.Thread(target=loop)
    thread.start()
    assert first.wait(SOON)
    if not reported:
        assert entered.wait(SOON)
    warden.stop()
    thread.join(SOON)
    release.set()
    assert not thread.is_alive()
    assert len(got) == 1


def test_two_loops_see_the_same_readings(warden: Warden, clock: FakeClock) -> None:
    """The one that began ends the watching for both."""
    one = warden.watch()
    next(one)
    warden.flush()
    seen: list[memwarden.Reading] = []
    begun = threading.Event()

    class Started:
        def is_set(self) -> bool:
            begun.set()
            return False

    two = warden.watch(Started())
    thread = threading.Thread(target=lambda: seen.extend(two))
    thread.start()
    assert begun.wait(SOON)
    clock.advance(1.0)
    assert next(one) is not None
    one.close()
    thread.join(SOON)
    assert [used(each) for each in seen] == [1]


def test_the_public_watch_takes_the_same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """`memwarden.watch` is a warden's own `watch` with an interval and a stop."""
    clock = FakeClock()
    monkeypatch.setattr("memwarden.engine.warden.default_readers", lambda: [ScriptedReader([5], VAST)])
    monkeypatch.setattr("memwarden.engine.warden.SystemClock", lambda: clock)
    stop = threading.Event()
    readings = memwarden.watch("2s", stop)
    first = next(readings)
    clock.advance(2.0)
    second = next(readings)
    assert second.sample.monotonic - first.sample.monotonic == 2.0
    stop.set()
    assert list(readings) == []
    assert memwarden.status()["reading"]["sample"]["system"]["total_bytes"] == VAST
    assert our_threads() == []


def test_a_slow_loop_loses_the_oldest_and_no_memory(warden: Warden, clock: FakeClock) -> None:
    """What waits is bounded; the newest readings are there when the loop comes back."""
    readings = warden.watch()
    next(readings)
    for _ in range(WAITING_READINGS + 50):
        clock.advance(1.0)
        assert warden.flush()
    newest = warden.last
    waiting = [next(readings) for _ in range(WAITING_READINGS)]
    assert waiting[-1] is newest
    readings.close()
