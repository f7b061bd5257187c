"""The queue of a receiver: order, back-off, bounds, and log messages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memwarden.actions.alerting.outbox import Message, Outbox, Undelivered
from memwarden.model.decisions import Decision
from support.engine import SOON, no_thread_is_left


def decision(rule: str = "early", *, undo: bool = False, repeat: int = 0) -> Decision:
    """A rule fires, or holds no more."""
    return Decision(rule=rule, action="a", reason="because", wall=1e9, monotonic=5.0, undo=undo, repeat=repeat)


class Post:
    """A receiver that fails as scripted, and a wait without time; it blocks while ``gate`` is cleared."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.tries: list[str] = []
        self.waits: list[float] = []
        self.gate = threading.Event()
        self.gate.set()

    def send(self, message: Message, seconds: float | None) -> None:
        """Take a message, or fail."""
        assert self.gate.wait(SOON)
        self.tries.append(str(message))
        if self.failures:
            raise self.failures.pop(0)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """No time passes."""
        self.waits.append(seconds)
        return event.is_set()


@pytest.fixture
def box() -> Iterator[Callable[..., Outbox]]:
    """Makes outboxes, and closes them."""
    made = []

    def make(post: Post, **more: Any) -> Outbox:
        made.append(Outbox("receiver", "memwarden-test", str, post.send, wait=post.wait, **more))
        return made[-1]

    yield make
    for each in made:
        each.close(0.0)
    assert no_thread_is_left()


def test_each_state_change_is_sent_once_and_in_order(box: Callable[..., Outbox]) -> None:
    """Two rules, each fires and is resolved; repetitions and ends without a start are not sent."""
    post = Post()
    out = box(post)
    for each in (
        decision("a"),
        decision("a", repeat=1),
        decision("b"),
        decision("a", undo=True),
        decision("a", undo=True),
        decision("c", undo=True),
        decision("a"),
        decision("b", undo=True),
    ):
        assert out.enqueue(each).done
    assert out.flush(SOON)
    assert post.tries == ["#1 a firing", "#2 b firing", "#3 a resolved", "#4 a firing", "#5 b resolved"]
    assert (out.delivered, out.waiting, out.trouble) == (5, 0, "")


def test_taking_never_waits_for_the_receiver(box: Callable[..., Outbox]) -> None:
    """Decisions go on, while the thread waits for a receiver that does not answer."""
    post = Post()
    post.gate.clear()
    out = box(post)
    started = time.monotonic()
    messages = [out.enqueue(decision(f"r{number}")).message for number in range(1000)]
    assert time.monotonic() - started < SOON
    assert post.tries == []
    assert messages[-1] == "queued #1000 r999 firing; 1000 wait"
    post.gate.set()
    assert out.flush(SOON)
    assert post.tries == [f"#{number + 1} r{number} firing" for number in range(1000)]


def test_the_waits_double_up_to_the_longest_and_begin_anew(box: Callable[..., Outbox]) -> None:
    """Each from half of it to the whole, by chance; what comes after a success is tried at once."""
    post = Post(*[Undelivered("refused") for _ in range(9)])
    out = box(post, first=1.0, longest=60.0)
    out.enqueue(decision("a"))
    assert out.flush(SOON)
    for wait, most in zip(post.waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert most / 2 <= wait <= most
    post.waits.clear()
    post.failures.append(Undelivered("refused"))
    out.enqueue(decision("b"))
    assert out.flush(SOON)
    assert len(post.waits) == 1
    assert post.waits[0] <= 1


def test_what_the_receiver_asks_for_is_waited_for(box: Callable[..., Outbox]) -> None:
    """At least that, and an hour at most, whatever it asks for."""
    post = Post(Undelivered("429", after=20.0), Undelivered("429", after=1e9), Undelivered("503", after=-5.0))
    out = box(post)
    out.enqueue(decision())
    assert out.flush(SOON)
    low, high, none = post.waits
    assert 20 <= low <= 21
    assert 3600 <= high <= 3601
    assert 0 <= none <= 1


def test_a_refusal_is_an_error_in_the_log_once_and_tried_slowly(
    box: Callable[..., Outbox], caplog: pytest.LogCaptureFixture
) -> None:
    """It is not lost, and what comes behind it keeps its place."""
    post = Post(*[Undelivered("401 Unauthorized", refused=True) for _ in range(5)])
    out = box(post)
    post.gate.clear()
    out.enqueue(decision("a"))
    out.enqueue(decision("b"))
    post.gate.set()
    assert out.flush(SOON)
    assert post.waits == [60.0] * 5
    assert post.tries == ["#1 a firing"] * 6 + ["#2 b firing"]
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR, logging.WARNING]
    assert "receiver: 401 Unauthorized" in caplog.messages[0]
    assert "accepts alerts again" in caplog.messages[1]


def test_an_outage_is_logged_at_its_start_and_end(box: Callable[..., Outbox], caplog: pytest.LogCaptureFixture) -> None:
    """Not at each of a hundred tries."""
    post = Post(*[Undelivered(f"reason {number}") for number in range(100)])
    out = box(post)
    out.enqueue(decision())
    assert out.flush(SOON)
    assert len(caplog.records) == 2
    assert "reason 0; #1 early firing waits" in caplog.messages[0]


def test_a_sender_that_breaks_is_trouble_and_not_the_end(box: Callable[..., Outbox]) -> None:
    """Whatever it raises; and its words, which may hold an address, are not repeated."""
    post = Post(ValueError("https://secret"), SystemExit(3), KeyError("x"))
    out = box(post)
    post.gate.clear()
    out.enqueue(decision())
    post.gate.set()
    assert out.flush(SOON)
    assert len(post.tries) == 4


def test_what_waits_is_bounded_and_what_falls_out_is_named(
    box: Callable[..., Outbox], caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest go, but never the one that is on its way; the outcome of the next alert names it."""
    post = Post(Undelivered("away"))
    out = box(post, most=3)
    post.gate.clear()
    out.enqueue(decision("r0"))
    deadline = time.monotonic() + SOON
    while not out._sending and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    messages = [out.enqueue(decision(f"r{number}")).message for number in range(1, 6)]
    assert "dropped" not in "".join(messages[:2])
    for number in (3, 4, 5):
        assert f"dropped #{number - 1} r{number - 2} firing, because 3 wait" in messages[number - 1]
    post.gate.set()
    assert out.flush(SOON)
    assert post.tries == ["#1 r0 firing", "#1 r0 firing", "#5 r4 firing", "#6 r5 firing"]
    dropped = [message for message in caplog.messages if "dropped from now on" in message]
    assert len(dropped) == 1
    assert "3 were dropped meanwhile" in caplog.messages[-1]


def test_without_a_thread_nothing_is_lost(box: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the alert waits for the next one."""
    post = Post()
    out = box(post)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        outcome = out.enqueue(decision("a"))
    assert outcome.done
    assert "not sent yet: can't start new thread" in outcome.message
    out.enqueue(decision("b"))
    assert out.flush(SOON)
    assert post.tries == ["#1 a firing", "#2 b firing"]


def test_an_outbox_that_was_closed_begins_anew(box: Callable[..., Outbox]) -> None:
    """A warden that starts again alerts what fires then, also if it was sent before."""
    post = Post()
    out = box(post)
    out.enqueue(decision())
    out.close()
    out.enqueue(decision())
    assert out.flush(SOON)
    assert post.tries == ["#1 early firing", "#2 early firing"]


def test_closing_names_what_is_left(box: Callable[..., Outbox], caplog: pytest.LogCaptureFixture) -> None:
    """The first twenty by name, the others by number; a send that hangs is aborted."""
    post = Post()
    post.gate.clear()
    out = box(post, abort=post.gate.set)
    for number in range(30):
        out.enqueue(decision(f"r{number}"))
    out.close(0.0)
    assert "#1 r0 firing, #2 r1 firing" in caplog.messages[-1]
    assert "#20 r19 firing and 10 more" in caplog.messages[-1]
    assert out.waiting == 0


def test_closing_keeps_the_time_that_a_receiver_asked_for(box: Callable[..., Outbox]) -> None:
    """It is not knocked at again and again because we are in a hurry."""
    post = Post(Undelivered("429", after=30.0))
    started = threading.Event()

    def wait(event: threading.Event, seconds: float) -> bool:
        started.set()
        return event.wait(seconds)

    out = Outbox("receiver", "memwarden-test", str, post.send, wait=wait)
    out.enqueue(decision())
    assert started.wait(SOON)
    out.close(time.monotonic() + 0.3)
    assert len(post.tries) == 1
