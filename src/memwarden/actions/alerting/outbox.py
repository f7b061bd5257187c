"""The delivery queue of an alert receiver: one thread, strict order, each alert retried until it is accepted.

An alert is a *state change*: a rule starts to fire, or is resolved. Repetitions within an episode are not sent. No
alert is lost while the process lives, with two bounds that are logged when they are reached: at most ``MOST`` alerts
wait (then the oldest is dropped), and ``close`` waits ``patience`` seconds. A refused alert blocks those behind it,
because order is kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memwarden.model import log
from memwarden.model.decisions import Decision, Outcome
from memwarden.process.fork_hooks import reset_after_fork

#: Waiting alerts at most: days of a receiver's absence, and some 10 MB.
MOST = 10_000
#: Seconds before the first retry, and between two attempts at most.
FIRST, LONGEST = 1.0, 60.0
#: Longest wait in seconds that a receiver may request by Retry-After.
LONGEST_REQUESTED = 3600.0
#: Seconds that ``close`` waits for undelivered alerts.
PATIENCE = 2.0
#: Seconds between two attempts while ``close`` waits.
_CLOSING_RETRY = 0.1
#: Undelivered alerts that a log message lists one by one.
_LISTED = 20

FIRING, RESOLVED = "firing", "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One state change. ``id`` is the same for every attempt."""

    id: str
    number: int
    rule: str
    state: str
    decision: Decision
    #: The content, composed once, when the alert was queued.
    payload: Any = None

    def __str__(self) -> str:
        return f"#{self.number} {self.rule} {self.state}"


class Undelivered(Exception):
    """A message was not accepted. ``after``: requested wait in seconds; ``refused``: waiting does not help."""

    def __init__(self, why: str, *, after: float | None = None, refused: bool = False) -> None:
        super().__init__(why)
        self.after, self.refused = after, refused


class Outbox:
    """Queues decisions, and delivers them on a thread of its own, started on first use.

    ``compose(message)`` makes the payload; ``send(message, seconds)`` sends it within ``seconds`` (None: in its own
    time) or raises :class:`Undelivered`. ``abort()`` interrupts a running ``send``; ``forget()`` drops its
    descriptors in a child after fork. ``wait(event, seconds)`` is for tests with a fake clock.
    """

    def __init__(
        self,
        label: str,
        thread: str,
        compose: Callable[[Message], Any],
        send: Callable[[Message, float | None], None],
        *,
        first: float = FIRST,
        longest: float = LONGEST,
        patience: float = PATIENCE,
        most: int = MOST,
        abort: Callable[[], None] = lambda: None,
        forget: Callable[[], None] = lambda: None,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self.label, self._thread_name = label, thread
        self._compose, self._send, self._abort, self._forget = compose, send, abort, forget
        self._wait = wait
        self._first, self._longest, self._patience, self._most = first, longest, patience, most
        self._reset()
        reset_after_fork(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._sender = os.urandom(9).hex()
        self._number = 0
        #: Number of accepted alerts.
        self.delivered = 0
        self._clear()

    def _clear(self) -> None:
        self._queue: deque[Message] = deque()
        self._firing: set[str] = set()
        self._thread: threading.Thread | None = None
        #: Set when the outbox closes (no more long waits), and when its thread is abandoned.
        self._closing, self._gone = threading.Event(), threading.Event()
        #: End of a closing outbox, on the monotonic clock.
        self._until: float | None = None
        self._sending = False
        self._accepted()

    def _accepted(self) -> None:
        self._attempts = self._dropped = 0
        self._failing_since = 0.0
        self._refused = False
        #: Reason why the oldest alert is not delivered yet; empty without a failure.
        self.trouble = ""

    @property
    def waiting(self) -> int:
        """Number of undelivered alerts."""
        self.check_fork()
        return len(self._queue)

    # --- called by the action: never waits for a receiver -----------------------------------------------

    def enqueue(self, decision: Decision) -> Outcome:
        """Queue the state change of a decision, if it is one."""
        rule = decision.rule
        self.check_fork()
        with self._condition:
            known = rule in self._firing
            if decision.undo and not known:
                return Outcome(decision=decision, done=True, message="not sent: its start was not sent either")
            if known and not decision.undo:
                return Outcome(decision=decision, done=True, message="not sent again: its start was sent")
            number = self._number + 1
            message = Message(
                id=f"msg_{self._sender}_{number}",
                number=number,
                rule=rule,
                state=RESOLVED if decision.undo else FIRING,
                decision=decision,
            )
            message = replace(message, payload=self._compose(message))
            self._number = number
            (self._firing.discard if decision.undo else self._firing.add)(rule)
            text = f"queued {message}" + self._drop_oldest()
            self._queue.append(message)
            text += self._need_thread()
            if len(self._queue) > 1:
                text += f"; {len(self._queue)} wait"
            if self.trouble:
                text += f"; the oldest is not delivered yet: {self.trouble}"
            self._condition.notify_all()
        return Outcome(decision=decision, done=True, message=text)

    def _drop_oldest(self) -> str:
        if len(self._queue) < self._most:
            return ""
        at = 1 if self._sending and len(self._queue) > 1 else 0  # the first is being sent
        message = self._queue[at]
        del self._queue[at]
        self._dropped += 1
        if self._dropped == 1:
            log.error("%s: %d alerts wait, the oldest are dropped from now on: %s", self.label, self._most, message)
        return f"; dropped {message}, because {self._most} wait"

    def _need_thread(self) -> str:
        if self._thread is None:
            events = self._closing, self._gone
            thread = threading.Thread(target=self._run, args=events, name=self._thread_name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no thread to be had; the next alert tries again
                return f"; not sent yet: {error}"
            self._thread = thread
        return ""

    # --- the delivery thread ----------------------------------------------------------------------------

    def _run(self, closing: threading.Event, gone: threading.Event) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or gone.is_set())
                if gone.is_set():
                    return
                message, until = self._queue[0], self._until
                self._sending = True
            failure = self._attempt(message, until)
            with self._condition:
                if gone.is_set():
                    return
                self._sending = False
                pause = self._failed(message, failure) if failure is not None else self._succeeded()
                self._condition.notify_all()
            if failure is None:
                continue
            if failure.after is None and not closing.is_set():
                self._wait(closing, pause)
            else:  # a wait that the receiver requested is kept, also while closing
                self._wait(gone, pause if failure.after is not None else _CLOSING_RETRY)

    def _attempt(self, message: Message, until: float | None) -> Undelivered | None:
        try:
            self._send(message, None if until is None else max(0.1, until - time.monotonic()))
        except Undelivered as failure:
            return failure
        except (Exception, SystemExit) as error:  # noqa: BLE001 - an error of a plugin must not stop the delivery
            return Undelivered(f"{type(error).__name__} while sending")  # its text may contain the address
        return None

    def _succeeded(self) -> float:
        self._queue.popleft()
        self.delivered += 1
        if self.trouble:
            seconds = time.monotonic() - self._failing_since
            lost = f"; {self._dropped} were dropped meanwhile" if self._dropped else ""
            log.warn("%s accepts alerts again after %.0f s; %d wait%s", self.label, seconds, len(self._queue), lost)
        self._accepted()
        return 0.0

    def _failed(self, message: Message, failure: Undelivered) -> float:
        why = str(failure)
        if not self.trouble:
            self._failing_since = time.monotonic()
            if not failure.refused:
                log.warn("%s: %s; %s waits, and is retried until it is accepted", self.label, why, message)
        if failure.refused and not self._refused:
            self._refused = True
            log.error(
                "%s: %s; fix the address or the receiver. Retried every %g s, %d alerts wait behind %s",
                self.label,
                why,
                self._longest,
                len(self._queue) - 1,
                message,
            )
        self.trouble = why
        self._attempts += 1
        if failure.after is not None:
            return min(max(failure.after, 0.0), LONGEST_REQUESTED) + self._first * _random()
        if failure.refused:
            return self._longest
        # Half of it at random, so that many senders do not return to a receiver at once.
        return min(self._longest, self._first * 2.0 ** min(self._attempts - 1, 60)) * (0.5 + 0.5 * _random())

    # --- closing ----------------------------------------------------------------------------------------

    def settle(self, timeout: float) -> bool:
        """Wait until all is delivered or an attempt fails; return whether all is delivered."""
        self.check_fork()
        with self._condition:
            self._condition.wait_for(lambda: not self._queue or bool(self.trouble), timeout)
            return not self._queue

    def flush(self, timeout: float) -> bool:
        """Wait until all is delivered; False after ``timeout`` seconds."""
        self.check_fork()
        with self._condition:
            return self._condition.wait_for(lambda: not self._queue, timeout)

    def expedite(self, until: float) -> None:
        """Deliver before this moment of the monotonic clock, without long waits between attempts."""
        self.check_fork()
        with self._condition:
            if self._queue:
                self._need_thread()
            self._until = until
            self._closing.set()

    def close(self, until: float | None = None) -> None:
        """Deliver until ``until`` at the latest, and stop the thread. Undelivered alerts are listed in the log.

        A closed outbox may be used again; every rule that fires then is alerted anew.
        """
        if until is None:
            until = time.monotonic() + self._patience
        self.expedite(until)
        with self._condition:
            self._condition.wait_for(lambda: not self._queue, max(0.0, until - time.monotonic()))
            left, trouble, thread = list(self._queue), self.trouble, self._thread
            self._gone.set()
            self._condition.notify_all()
            self._clear()
        if left:
            self._abort()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSING_RETRY)
        if left:
            listed = ", ".join(str(message) for message in left[:_LISTED])
            more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
            log.error("%s: not delivered (%s): %s%s", self.label, trouble or "no answer yet", listed, more)

    def after_fork(self) -> None:
        """Start empty in a child: the parent delivers the queue."""
        self.check_fork()

    def check_fork(self) -> None:
        """Do that if it is due: another fork hook may use the outbox before it is called itself."""
        if self._pid != os.getpid():
            self._forget()
            self._reset()


class OutboxAction:
    """Base of the actions that queue each state change in every one of ``outboxes``."""

    #: It changes nothing: also run in a dry run.
    harms = False

    def __init__(self, name: str, outboxes: Sequence[Outbox], patience: float) -> None:
        self.name, self.outboxes, self._patience = name, list(outboxes), patience

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(outbox.label for outbox in self.outboxes)})"

    def run(self, decision: Decision) -> Outcome:
        """Queue that the rule fires."""
        outcomes = [outbox.enqueue(decision) for outbox in self.outboxes]
        if len(outcomes) == 1:
            return outcomes[0]
        pairs = zip(self.outboxes, outcomes, strict=True)
        text = " | ".join(f"{outbox.label}: {each.message}" for outbox, each in pairs)
        return Outcome(decision=decision, done=all(each.done for each in outcomes), message=text)

    def undo(self, decision: Decision) -> Outcome:
        """Queue that it is resolved, if its firing was queued."""
        return self.run(decision)

    def close(self) -> None:
        """Deliver within ``patience``; undelivered alerts are listed in the log."""
        close_all(self.outboxes, self._patience)


def close_all(outboxes: Sequence[Outbox], patience: float) -> None:
    """Close them concurrently, within ``patience`` for all of them together."""
    until = time.monotonic() + patience
    for outbox in outboxes:
        outbox.expedite(until)
    for outbox in outboxes:
        outbox.close(until)


def _random() -> float:
    """Return a number from 0 to 1, without importing ``random``, and different in forked processes."""
    return int.from_bytes(os.urandom(4), "big") / 0xFFFFFFFF
