"""The dispatcher thread: in order, bounded, and not held up by a receiver that hangs."""

from __future__ import annotations

import itertools
import logging
import threading

import pytest

from memwarden.engine.dispatcher import Dispatcher
from memwarden.engine.subscription import Message, Subscription, label_of
from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.testing import FakeClock
from support.engine import SOON, Keeper, our_threads


def event(kind: EventKind = EventKind.LEVEL, message: str = "") -> Event:
    """An event with a message to know it by."""
    return Event(kind=kind, wall=0.0, monotonic=0.0, message=message)


def sample(message: str) -> Event:
    """A sample with a message to know it by."""
    return event(EventKind.SAMPLE, message)


class Hanging:
    """A receiver that hangs in the first event it gets, until it is released."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.got: list[str] = []
        self.closed = 0

    def __call__(self, each: Event) -> None:
        self.got.append(each.message)
        self.entered.set()
        assert self.release.wait(2 * SOON)

    def close(self) -> None:
        """Counted."""
        self.closed += 1


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test moves."""
    return FakeClock()


@pytest.fixture
def dispatcher(clock: FakeClock) -> Dispatcher:
    """A dispatcher that lets three samples wait."""
    return Dispatcher(clock, most=3)


def test_events_come_in_order_to_everybody(dispatcher: Dispatcher) -> None:
    """Two receivers get the same events, in the order in which they were sent."""
    one, two = Keeper(), Keeper()
    dispatcher.add(Subscription(one, "one"))
    dispatcher.add(Subscription(two, "two"))
    dispatcher.start()
    for number in range(200):
        dispatcher.send(Message(event(message=str(number))))
    assert dispatcher.flush(SOON)
    assert dispatcher.stop(SOON) == []
    assert one.messages(EventKind.LEVEL) == two.messages(EventKind.LEVEL) == [str(number) for number in range(200)]


def test_what_is_sent_before_the_end_is_delivered(dispatcher: Dispatcher) -> None:
    """Stopping empties the queue first, then closes the receivers, each after its last event."""
    keeper = Keeper()
    order: list[str] = []
    dispatcher.add(Subscription(lambda each: order.append(each.message), "order", close=lambda: order.append("closed")))
    dispatcher.add(Subscription(keeper, "keeper", keeper.close))
    dispatcher.start()
    for number in range(5):
        dispatcher.send(Message(event(message=str(number))))
    dispatcher.stop(SOON)
    assert order == ["0", "1", "2", "3", "4", "closed"]
    assert (len(keeper.events), keeper.closed) == (5, 1)


def test_a_receiver_that_was_taken_off_gets_nothing_more(dispatcher: Dispatcher) -> None:
    """Taking it off twice does no harm, and the others go on."""
    gone, stays = Keeper(), Keeper()
    remove = dispatcher.add(Subscription(gone, "gone"))
    dispatcher.add(Subscription(stays, "stays"))
    dispatcher.start()
    dispatcher.send(Message(event(message="first")))
    assert dispatcher.flush(SOON)
    remove()
    remove()
    dispatcher.send(Message(event(message="second")))
    dispatcher.stop(SOON)
    assert gone.messages(EventKind.LEVEL) == ["first"]
    assert stays.messages(EventKind.LEVEL) == ["first", "second"]


def test_a_receiver_may_take_another_one_off(dispatcher: Dispatcher) -> None:
    """It does not even get the event that is under way."""
    other, behind = Keeper(), Keeper()
    dispatcher.add(Subscription(lambda _: remove(), "first"))
    remove = dispatcher.add(Subscription(other, "other"))
    dispatcher.add(Subscription(behind, "behind"))
    dispatcher.start()
    dispatcher.send(Message(event()))
    dispatcher.stop(SOON)
    assert (len(other.events), len(behind.events)) == (0, 1)


def test_overflow_drops_the_oldest_samples_and_never_an_event(dispatcher: Dispatcher) -> None:
    """The newest samples stay, every event stays, and how many were dropped is reported."""
    held, keeper = Hanging(), Keeper()
    dispatcher.add(Subscription(held, "held"))
    dispatcher.add(Subscription(keeper, "keeper"))
    dispatcher.start()
    dispatcher.send(Message(event(message="holds the thread")))
    assert held.entered.wait(SOON)
    for number in range(10):
        dispatcher.send(Message(sample(f"s{number}")))
        dispatcher.send(Message(event(message=f"e{number}")))
    held.release.set()
    dispatcher.stop(SOON)
    assert keeper.messages(EventKind.SAMPLE) == ["s7", "s8", "s9"]
    assert keeper.messages(EventKind.LEVEL) == ["holds the thread", *(f"e{number}" for number in range(10))]
    assert keeper.messages(EventKind.OVERFLOW) == ["7 samples were dropped: receivers are too slow"]


def test_after_an_overflow_samples_pass_again(dispatcher: Dispatcher) -> None:
    """The bound is on what waits, not on what was ever sent."""
    keeper = Keeper()
    dispatcher.add(Subscription(keeper, "keeper"))
    dispatcher.start()
    for number in range(20):
        dispatcher.send(Message(sample(str(number))))
        assert dispatcher.flush(SOON)
    dispatcher.stop(SOON)
    assert len(keeper.of(EventKind.SAMPLE)) == 20
    assert keeper.of(EventKind.OVERFLOW) == []


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (ValueError("boom"), "bad raised ValueError('boom')"),
        (RecordError("record /r: no space", path="/r"), "record /r: no space"),
        (SystemExit(1), "bad raised SystemExit(1)"),
    ],
)
def test_a_receiver_that_raises_is_reported_once_and_once_when_it_works_again(
    dispatcher: Dispatcher, error: BaseException, reported: str
) -> None:
    """Even one that asks to exit ends no thread and keeps no event from the others."""
    bad, keeper = Keeper(), Keeper()
    dispatcher.add(Subscription(bad, "bad"))
    dispatcher.add(Subscription(keeper, "keeper"))
    dispatcher.start()
    for broken in (None, error, error, error, None, None):
        bad.broken = broken
        dispatcher.send(Message(event()))
        assert dispatcher.flush(SOON)
        assert dispatcher.flush(SOON)  # the report on the first is queued behind it
    dispatcher.stop(SOON)
    assert keeper.messages(EventKind.TROUBLE) == [reported, "bad works again"]
    assert len(keeper.of(EventKind.LEVEL)) == 6
    assert len(bad.of(EventKind.LEVEL)) == 3


@pytest.mark.parametrize(
    "raises",
    [
        pytest.param(lambda count, _: count % 2 == 0, id="every second time"),
        pytest.param(lambda _, each: each.kind is EventKind.TROUBLE, id="on trouble alone"),
        pytest.param(lambda *_: True, id="always"),
    ],
)
def test_telling_of_trouble_does_not_feed_itself(dispatcher: Dispatcher, raises: object) -> None:
    """A receiver that fails on the news of its own failure makes a few events, not an endless stream."""
    assert callable(raises)
    count, keeper = itertools.count(), Keeper()

    def moody(each: Event) -> None:
        if raises(next(count), each):
            raise ValueError("again")

    dispatcher.add(Subscription(moody, "moody"))
    dispatcher.add(Subscription(keeper, "keeper"))
    dispatcher.start()
    dispatcher.send(Message(event(EventKind.TROUBLE, "another one's")))
    for _ in range(10):
        dispatcher.send(Message(event()))
        assert dispatcher.flush(SOON)
    assert dispatcher.stop(SOON) == []
    assert len(keeper.of(EventKind.LEVEL)) == 10
    assert 2 <= len(keeper.of(EventKind.TROUBLE)) <= 22


def test_a_receiver_that_hangs_is_named_and_set_aside(dispatcher: Dispatcher, clock: FakeClock) -> None:
    """The others go on from the very event it hung in; it alone misses what comes meanwhile."""
    before, held, behind = Keeper(), Hanging(), Keeper()
    dispatcher.add(Subscription(before, "before"))
    dispatcher.add(Subscription(held, "held"))
    dispatcher.add(Subscription(behind, "behind"))
    dispatcher.start()
    dispatcher.send(Message(event(message="first")))
    assert held.entered.wait(SOON)
    clock.advance(9.9)
    assert dispatcher.check(10.0) is None
    clock.advance(0.1)
    assert dispatcher.check(10.0) == "held"
    assert dispatcher.check(10.0) is None
    dispatcher.send(Message(event(message="second")))
    assert dispatcher.flush(SOON)
    assert before.messages(EventKind.LEVEL) == behind.messages(EventKind.LEVEL) == ["first", "second"]
    assert dispatcher.hanging == ["held"]
    held.release.set()
    assert behind.wait_for(lambda: bool(behind.of(EventKind.TROUBLE)))
    assert dispatcher.hanging == []
    dispatcher.send(Message(event(message="third")))
    dispatcher.stop(SOON)
    assert behind.messages(EventKind.TROUBLE) == ["held answers again"]
    assert held.got == ["first", "held answers again", "third"]
    assert before.messages(EventKind.LEVEL) == ["first", "second", "third"]


def test_a_sample_that_was_under_way_counts_once(dispatcher: Dispatcher, clock: FakeClock) -> None:
    """Setting a receiver aside gives the rest of the event to the others and upsets no count."""
    held, behind = Hanging(), Keeper()
    dispatcher.add(Subscription(held, "held"))
    dispatcher.add(Subscription(behind, "behind"))
    dispatcher.start()
    dispatcher.send(Message(sample("first")))
    assert held.entered.wait(SOON)
    clock.advance(11)
    assert dispatcher.check(10.0) == "held"
    for number in range(9):
        dispatcher.send(Message(sample(str(number))))
        assert dispatcher.flush(SOON)
    held.release.set()
    assert behind.wait_for(lambda: bool(behind.of(EventKind.TROUBLE)))
    assert dispatcher.stop(SOON) == []
    assert behind.messages(EventKind.SAMPLE) == ["first", *map(str, range(9))]
    assert behind.of(EventKind.OVERFLOW) == []


def test_a_slow_receiver_is_not_one_that_hangs(dispatcher: Dispatcher, clock: FakeClock) -> None:
    """Patience counts from the start of a call, not from the first of many."""
    keeper = Keeper()
    dispatcher.add(Subscription(lambda _: clock.advance(9), "slow"))
    dispatcher.add(Subscription(keeper, "keeper"))
    dispatcher.start()
    for _ in range(5):
        dispatcher.send(Message(event()))
    assert dispatcher.flush(SOON)
    assert dispatcher.check(10.0) is None
    assert dispatcher.stop(SOON) == []


@pytest.mark.parametrize("hands", [1, 3])
def test_stopping_leaves_behind_only_what_hangs(
    dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture, hands: int
) -> None:
    """The other receivers get every event and are closed; hanging ones are named, and closed when they return."""
    keeper = Keeper()
    held = [Hanging() for _ in range(hands)]
    for number, each in enumerate(held):
        dispatcher.add(Subscription(each, f"held {number}", each.close))
    dispatcher.add(Subscription(keeper, "keeper", keeper.close))
    dispatcher.start()
    dispatcher.send(Message(event(message="first")))
    dispatcher.send(Message(event(message="last")))
    assert held[0].entered.wait(SOON)
    assert dispatcher.stop(1.0) == [f"held {number}" for number in range(hands)]
    assert keeper.messages(EventKind.LEVEL) == ["first", "last"]
    assert keeper.closed == 1
    assert len(our_threads()) == hands
    assert [each.closed for each in held] == [0] * hands
    with caplog.at_level(logging.WARNING, "memwarden"):
        for each in held:
            each.release.set()
        for thread in our_threads():
            thread.join(SOON)
    assert [each.closed for each in held] == [1] * hands
    assert dispatcher.hanging == []
    assert sorted(caplog.messages) == [f"held {number} answers again" for number in range(hands)]


def test_events_not_taken_in_time_are_counted(dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture) -> None:
    """Stopping ends within its patience, and says what was lost by it."""
    held = Hanging()
    dispatcher.add(Subscription(held, "held"))
    dispatcher.start()
    dispatcher.send(Message(event()))
    assert held.entered.wait(SOON)
    with caplog.at_level(logging.WARNING, "memwarden"):
        dispatcher.send(Message(event()))
        dispatcher.send(Message(event()))
        assert dispatcher.stop(0.0) == ["held"]
    held.release.set()
    assert caplog.messages == ["2 events were not delivered: receivers are too slow or hang"]


def test_trouble_with_the_last_event_is_logged(dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture) -> None:
    """The last event stays the last: nothing follows it into a record."""
    keeper = Keeper()

    def bad(each: Event) -> None:
        raise ValueError("at the end")

    dispatcher.add(Subscription(bad, "bad"))
    dispatcher.add(Subscription(keeper, "keeper", keeper.close))
    dispatcher.start()
    with caplog.at_level(logging.WARNING, "memwarden"):
        dispatcher.stop(SOON, event(EventKind.STOP))
    assert keeper.kinds() == [EventKind.STOP]
    assert caplog.messages == ["bad raised ValueError('at the end')"]


def test_what_still_waits_at_the_end_comes_before_the_last_event(dispatcher: Dispatcher) -> None:
    """So does the trouble that there was with it."""
    keeper = Keeper()

    def ends(each: Event) -> None:
        if each.message == "first":
            assert dispatcher.stop(SOON, event(EventKind.STOP)) == []  # on the dispatcher's own thread: it comes later
            raise ValueError("boom")

    dispatcher.add(Subscription(ends, "ends"))
    dispatcher.add(Subscription(keeper, "keeper", keeper.close))
    dispatcher.send(Message(event(message="first")))
    dispatcher.send(Message(event(message="second")))
    dispatcher.start()
    assert keeper.wait_for(lambda: len(keeper.events) == 5)
    assert dispatcher.stop(SOON) == []
    reported = [each.message or each.kind.value for each in keeper.events]
    assert reported == ["first", "ends raised ValueError('boom')", "second", "ends works again", "stop"]
    assert keeper.closed == 1


def test_draining_delivers_on_the_callers_thread(dispatcher: Dispatcher) -> None:
    """Where no thread is at work, what waits can be delivered here, and no receiver is closed by it."""
    keeper = Keeper()
    dispatcher.add(Subscription(keeper, "keeper", keeper.close))
    dispatcher.send(Message(event(message="waits")))
    dispatcher.drain()
    assert keeper.messages(EventKind.LEVEL) == ["waits"]
    assert keeper.threads == {threading.current_thread().name}
    assert keeper.closed == 0
    dispatcher.start()
    dispatcher.drain()  # the thread's own work
    dispatcher.send(Message(event(message="then")))
    dispatcher.stop(SOON)
    assert keeper.threads == {threading.current_thread().name, "memwarden-dispatcher"}
    assert keeper.messages(EventKind.LEVEL) == ["waits", "then"]


def test_a_drain_that_is_interrupted_can_be_repeated(dispatcher: Dispatcher) -> None:
    """Ctrl-C in a receiver goes to the caller, whose thread it is, and the dispatcher can still be started."""
    keeper = Keeper()
    dispatcher.add(Subscription(keeper, "keeper"))
    keeper.broken = KeyboardInterrupt()
    dispatcher.send(Message(event(message="first")))
    dispatcher.send(Message(event(message="second")))
    with pytest.raises(KeyboardInterrupt):
        dispatcher.drain()
    keeper.broken = None
    dispatcher.start()
    assert dispatcher.stop(SOON) == []
    assert keeper.messages(EventKind.LEVEL) == ["second"]


def test_a_receiver_may_start_the_dispatcher_that_drains(dispatcher: Dispatcher) -> None:
    """The rest of the event goes to the new thread, and no receiver gets it twice."""
    first, behind = Keeper(), Keeper()

    def starts(each: Event) -> None:
        if each.message == "first":
            dispatcher.start()

    dispatcher.add(Subscription(first, "before"))
    dispatcher.add(Subscription(starts, "starts"))
    dispatcher.add(Subscription(behind, "behind"))
    dispatcher.send(Message(event(message="first")))
    dispatcher.send(Message(event(message="second")))
    dispatcher.drain()
    assert dispatcher.flush(SOON)
    dispatcher.stop(SOON)
    assert first.messages(EventKind.LEVEL) == behind.messages(EventKind.LEVEL) == ["first", "second"]
    assert behind.threads == {"memwarden-dispatcher"}


def test_a_label_names_what_was_passed() -> None:
    """Functions, methods and objects are found again in the code by it."""
    assert label_of(test_a_label_names_what_was_passed) == f"{__name__}.test_a_label_names_what_was_passed"
    assert label_of(Keeper().record) == "support.engine.Keeper.record"
    assert label_of(Keeper()) == "support.engine.Keeper"
