"""Alerts that wait for their receiver: one thread, strict order, each tried until it is taken.

An alert here is a *state change*: a rule began to fire, or is resolved. Repetitions within an episode are
told only where ``reminders`` are asked for. Nothing is lost while the process lives, with two bounds that are
told by name when they are reached: ``MOST`` alerts wait at most (then the oldest falls out), and ``close``
waits ``patience`` seconds at most. An alert that is refused holds up those behind it, because order is kept.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memwarden.model import log
from memwarden.model.decisions import Decision, Outcome
from memwarden.process.fork_hooks import ACTIONS, at_fork

#: Alerts that wait at most: days of a receiver's absence, and some 10 MB.
MOST = 10_000
#: Seconds before the second try, and between two tries at most.
FIRST, LONGEST = 1.0, 60.0
#: What a receiver may ask for by Retry-After at most, in seconds.
LONGEST_ASKED = 3600.0
#: Seconds that ``close`` waits for what is not delivered yet.
PATIENCE = 2.0
#: Seconds between two tries while ``close`` waits.
_HURRY = 0.1
#: Alerts that are named one by one in a message.
_NAMED = 20

FIRING, RESOLVED = "firing", "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One state change on its way. ``id`` stays the same however often it is tried."""

    id: str
    number: int
    rule: str
    state: str
    #: A repetition within an episode.
    reminder: bool
    decision: Decision
    #: What is sent, made once, when the alert came.
    payload: Any = None

    def __str__(self) -> str:
        return f"#{self.number} {self.rule} {self.state}"


class Undelivered(Exception):
    """The receiver did not take a letter. ``after``: seconds that it asked for; ``refused``: waiting will not help."""

    def __init__(self, why: str, *, after: float | None = None, refused: bool = False) -> None:
        super().__init__(why)
        self.after, self.refused = after, refused


class _Life:
    """One delivery thread, and the two ways to wake it."""

    __slots__ = ("gone", "hurry", "thread", "until")

    def __init__(self, run: Callable[[_Life], None], name: str) -> None:
        #: Set when waiting for the next try is over, because the outbox closes.
        self.hurry = threading.Event()
        #: Set when the thread was replaced or given up.
        self.gone = threading.Event()
        #: When, on the monotonic clock, a closing outbox ends.
        self.until: float | None = None
        self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)


_alive: weakref.WeakSet[Outbox] = weakref.WeakSet()


class Outbox:
    """Takes decisions, and delivers them on a thread of its own, started when it is first needed.

    ``compose(letter)`` makes what is sent; ``send(letter, seconds)`` sends it within ``seconds`` (None: in its
    own time) and raises :class:`Undelivered`. ``give_up()`` ends a ``send`` that is under way; ``forget()`` drops
    its descriptors in a child after fork. ``wait(event, seconds)`` is for tests that own time.
    """

    def __init__(
        self,
        label: str,
        thread: str,
        compose: Callable[[Message], Any],
        send: Callable[[Message, float | None], None],
        *,
        reminders: bool = False,
        first: float = FIRST,
        longest: float = LONGEST,
        patience: float = PATIENCE,
        most: int = MOST,
        give_up: Callable[[], None] = lambda: None,
        forget: Callable[[], None] = lambda: None,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self.label, self._thread_name = label, thread
        self._compose, self._send, self._give_up, self._forget = compose, send, give_up, forget
        self._reminders, self._wait = reminders, wait
        self._first, self._longest, self._patience, self._most = first, longest, patience, most
        self._begin()
        _alive.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._queue: deque[Message] = deque()
        self._life: _Life | None = None
        self._sending = False
        self._sender = os.urandom(9).hex()
        self._number = 0
        self._firing: set[str] = set()
        self._tries = 0
        self._failing_since = 0.0
        self._refused = False
        self._fallen = 0
        #: Alerts that were taken by the receiver.
        self.delivered = 0
        #: Why the oldest alert is not delivered yet; empty when all is well.
        self.trouble = ""

    @property
    def waiting(self) -> int:
        """Alerts that are not delivered yet."""
        self.check_fork()
        return len(self._queue)

    # --- the side of the action: never waits for a receiver -------------------------------------------

    def take(self, decision: Decision) -> Outcome:
        """Queue the state change that a decision stands for, if it is one."""
        rule = decision.rule
        self.check_fork()
        with self._condition:
            known = rule in self._firing
            if decision.undo and not known:
                return Outcome(decision=decision, done=True, message="nobody was told that it fires")
            if known and not decision.undo and not self._reminders:
                return Outcome(decision=decision, done=True, message="told before; reminders are not asked for")
            number = self._number + 1
            letter = Message(
                id=f"msg_{self._sender}_{number}",
                number=number,
                rule=rule,
                state=RESOLVED if decision.undo else FIRING,
                reminder=known and not decision.undo,
                decision=decision,
            )
            letter = replace(letter, payload=self._compose(letter))
            self._number = number
            (self._firing.discard if decision.undo else self._firing.add)(rule)
            message = f"queued {letter}" + self._make_room()
            self._queue.append(letter)
            message += self._need_thread()
            if len(self._queue) > 1:
                message += f"; {len(self._queue)} wait"
            if self.trouble:
                message += f"; the receiver has not taken the oldest: {self.trouble}"
            self._condition.notify_all()
        return Outcome(decision=decision, done=True, message=message)

    def _make_room(self) -> str:
        if len(self._queue) < self._most:
            return ""
        at = 1 if self._sending and len(self._queue) > 1 else 0  # what is on its way is not taken back
        letter = self._queue[at]
        del self._queue[at]
        self._fallen += 1
        if self._fallen == 1:
            log.error("%s: %d alerts wait, the oldest fall out from now on: %s", self.label, self._most, letter)
        return f"; {letter} fell out, because {self._most} wait"

    def _need_thread(self) -> str:
        if self._life is None:
            life = _Life(self._run, self._thread_name)
            try:
                life.thread.start()
            except RuntimeError as error:  # no more threads now; the next alert tries again
                return f"; not sent yet: {error}"
            self._life = life
        return ""

    # --- its own thread -------------------------------------------------------------------------------

    def _run(self, life: _Life) -> None:
        while True:
            with self._condition:
                while not self._queue and self._life is life:
                    self._condition.wait()
                if self._life is not life:
                    return
                letter = self._queue[0]
                self._sending = True
            failure = self._attempt(letter, life)
            with self._condition:
                if self._life is not life:
                    return
                self._sending = False
                pause = self._failed(letter, failure) if failure is not None else self._succeeded()
                self._condition.notify_all()
            if failure is None:
                continue
            if failure.after is None and not life.hurry.is_set():
                self._wait(life.hurry, pause)
            else:  # what a receiver asked for is kept, also while closing
                self._wait(life.gone, pause if failure.after is not None else _HURRY)

    def _attempt(self, letter: Message, life: _Life) -> Undelivered | None:
        until = life.until
        try:
            self._send(letter, None if until is None else max(0.1, until - time.monotonic()))
        except Undelivered as failure:
            return failure
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a guest's error must not end the delivery
            return Undelivered(f"{type(error).__name__} while sending")  # its text may hold the address
        return None

    def _succeeded(self) -> float:
        self._queue.popleft()
        self.delivered += 1
        if self.trouble:
            seconds = time.monotonic() - self._failing_since
            lost = f"; {self._fallen} had fallen out meanwhile" if self._fallen else ""
            log.warn("%s takes alerts again after %.0f s; %d still wait%s", self.label, seconds, len(self._queue), lost)
        self.trouble, self._tries, self._fallen, self._refused = "", 0, 0, False
        return 0.0

    def _failed(self, letter: Message, failure: Undelivered) -> float:
        why = str(failure)
        if not self.trouble:
            self._failing_since = time.monotonic()
            if not failure.refused:
                log.warn("%s: %s; %s waits, and is tried again until it is taken", self.label, why, letter)
        if failure.refused and not self._refused:
            self._refused = True
            log.error(
                "%s: %s; somebody has to put this right. Tried again every %g s, %d alerts wait behind %s",
                self.label,
                why,
                self._longest,
                len(self._queue) - 1,
                letter,
            )
        self.trouble = why
        self._tries += 1
        if failure.after is not None:
            return min(max(failure.after, 0.0), LONGEST_ASKED) + self._first * _chance()
        if failure.refused:
            return self._longest
        # Half of it by chance: many senders shall not come back to a receiver in step.
        return min(self._longest, self._first * 2.0 ** min(self._tries - 1, 60)) * (0.5 + 0.5 * _chance())

    # --- the end --------------------------------------------------------------------------------------

    def settle(self, timeout: float) -> bool:
        """Wait until all is delivered or something is wrong; returns whether all is delivered."""
        self.check_fork()
        with self._condition:
            self._condition.wait_for(lambda: not self._queue or bool(self.trouble), timeout)
            return not self._queue

    def flush(self, timeout: float) -> bool:
        """Wait until all is delivered; False when ``timeout`` seconds pass first."""
        self.check_fork()
        with self._condition:
            return self._condition.wait_for(lambda: not self._queue, timeout)

    def hurry(self, until: float) -> None:
        """Deliver what waits before this moment of the monotonic clock, without the long waits in between."""
        self.check_fork()
        with self._condition:
            if self._queue:
                self._need_thread()
            if self._life is not None:
                self._life.until = until
                self._life.hurry.set()

    def close(self, until: float | None = None) -> None:
        """Deliver what waits, by ``until`` at the latest, and end the thread. What is left is named in the log.

        An outbox that was closed may be used again; every rule that fires then is told anew.
        """
        if until is None:
            until = time.monotonic() + self._patience
        self.hurry(until)
        with self._condition:
            self._condition.wait_for(lambda: not self._queue, max(0.0, until - time.monotonic()))
            left = list(self._queue)
            self._queue.clear()
            self._firing.clear()
            life, self._life = self._life, None
            self._sending, trouble, self.trouble = False, self.trouble, ""
            self._tries, self._fallen, self._refused = 0, 0, False
            if life is not None:
                life.gone.set()
            self._condition.notify_all()
        if left:
            self._give_up()
        if life is not None and life.thread is not threading.current_thread():
            life.thread.join(_HURRY)
        if left:
            names = ", ".join(str(letter) for letter in left[:_NAMED])
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            log.error("%s: not delivered (%s): %s%s", self.label, trouble or "no answer yet", names, more)

    def check_fork(self) -> None:
        """In a child after fork: begin empty. What waits is the parent's to deliver, and so are thread and lock.

        Asked before every use, too, because who was registered earlier may use us before we are told of the fork.
        """
        if self._pid != os.getpid():
            self._forget()
            self._begin()


def take_all(outboxes: Sequence[Outbox], decision: Decision) -> Outcome:
    """Queue a state change in each; the outcome says of each what came of it."""
    told = [outbox.take(decision) for outbox in outboxes]
    if len(told) == 1:
        return told[0]
    message = " | ".join(f"{box.label}: {each.message}" for box, each in zip(outboxes, told, strict=True))
    return Outcome(decision=decision, done=all(each.done for each in told), message=message)


def close_all(outboxes: Sequence[Outbox], patience: float) -> None:
    """Close them side by side, within ``patience`` for all of them together."""
    until = time.monotonic() + patience
    for outbox in outboxes:
        outbox.hurry(until)
    for outbox in outboxes:
        outbox.close(until)


def _chance() -> float:
    """From 0 to 1, without the weight of ``random``, and not the same in forked processes."""
    return int.from_bytes(os.urandom(4), "big") / 0xFFFFFFFF


def _child() -> None:
    for outbox in list(_alive):
        outbox.check_fork()


at_fork(ACTIONS, child=_child)
