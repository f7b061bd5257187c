"""The second thread: delivers events to recorders and callbacks, and runs actions.

It is a thread of its own so that a slow disk, a hanging callback or an action that waits never stops the sampling. Its
queue is bounded: when it is full the oldest *sample* is dropped (never an event), and that is reported. A receiver that
hangs is named and set aside with the thread that it blocks; a new thread goes on with the other receivers, from the
event at which it hung, and the receiver is used again once it returns.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memwarden.engine.subscription import Message, Subscription
from memwarden.errors import RecordError
from memwarden.model import log
from memwarden.model.events import Event, EventKind
from memwarden.protocols import Clock

#: A sample that comes earlier than a subscription's interval asks for, by so much of the warden's, counts as the one
#: that is due.
EARLY = 0.75
#: Samples that are delayed at most, so that few use memory and few are lost with the process.
MOST_DELAYED = 64


class _Busy(NamedTuple):
    """The call that the thread is in: since when, of which receiver, and the message that others still lack."""

    since: float
    label: str
    subscription: Subscription | None
    rest: Message | None


class Dispatcher:
    """Delivers in order, on one thread. ``most`` bounds the samples that wait.

    A receiver may allow samples to be delayed (``max_delay``): then the thread is woken once for several of them, since
    waking it costs more than everything else that is done for a sample. Any other event is delivered at once, and what
    waits before it.
    """

    def __init__(self, clock: Clock, most: int = 1024) -> None:
        self._clock, self._most = clock, most
        self._queue: deque[Message] = deque()
        self._samples = 0
        self._dropped = 0
        self._all: list[Subscription] = []
        self._of_samples: list[Subscription] = []
        self._of_every_sample: list[Subscription] = []
        self._thinned = False  # whether a subscription has an interval of its own
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._closed = True
        self._draining = False
        self._busy: _Busy | None = None
        self._max_delay = math.inf
        self._woken = -math.inf
        #: Seconds between two samples, and those that were asked for where a subscription has no interval of its own.
        self.interval = self.asked = 0.0
        #: Labels of receivers that hang.
        self.hanging: list[str] = []

    def add(self, subscription: Subscription) -> Callable[[], None]:
        """Deliver to a subscription from now on; the result removes it.

        Its ``close`` is called on the same thread when the dispatcher stops, after the last event. A sample may wait
        ``max_delay`` seconds, and as long again as the next sample is away; infinite: it gets no samples at all.
        ``every_sample``: it also gets those between two of the asked interval. ``every``: it gets samples at this
        interval only.
        """
        if subscription.every is not None:
            subscription.since = self._clock.monotonic()  # an earlier sample may still wait, and is not its first
        self._change(lambda now: [*now, subscription])

        def remove() -> None:
            subscription.removed = True
            self._change(lambda now: [each for each in now if each is not subscription])

        return remove

    def _change(self, change: Callable[[list[Subscription]], list[Subscription]]) -> None:
        with self._condition:
            self._all = change(self._all)
            self._max_delay = min((each.max_delay for each in self._all), default=math.inf)
            self._of_samples = [each for each in self._all if each.max_delay < math.inf]
            self._thinned = any(each.every is not None for each in self._all)
            self._of_every_sample = [each for each in self._of_samples if each.every_sample]

    @property
    def takes_samples(self) -> bool:
        """True where a receiver takes samples."""
        return self._max_delay < math.inf

    @property
    def takes_every_sample(self) -> bool:
        """True where a receiver takes the samples between those of the asked interval."""
        return bool(self._of_every_sample)

    def shortest(self) -> tuple[float, float]:
        """Return the least interval of a subscription (infinite: none has one), and when the next sample is due."""
        with self._condition:
            intervals = [each.every for each in self._all if each.every is not None]
            return min(intervals, default=math.inf), min((each.due for each in self._of_samples), default=-math.inf)

    # --- for the sampler: never blocks on a receiver ---------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a message."""
        with self._condition:
            if message.is_sample:
                if self._samples >= self._most:
                    self._drop_sample()
                self._queue.append(message)
                self._samples += 1
                now = self._clock.monotonic()
                if now - self._woken < self._max_delay and self._samples < MOST_DELAYED:
                    return
                self._woken = now
            else:
                self._queue.append(message)
            self._condition.notify()

    def flush(self, timeout: float) -> bool:
        """Wait until everything sent before is delivered."""
        with self._condition:
            if self._thread is None or self._thread is threading.current_thread():
                return not self._queue
        delivered = threading.Event()
        self.send(Message(None, delivered.set, "flush"))
        return delivered.wait(timeout)

    def drain(self) -> None:
        """Deliver what waits on this thread, where the dispatcher has none running."""
        with self._condition:
            if self._thread is not None:
                return
            self._thread = me = threading.current_thread()
            self._closing = self._closed = self._draining = True  # ends with the queue, leaves the receivers open
        try:
            self._run()
        finally:
            with self._condition:
                self._draining = False
                if self._thread is me:  # interrupted
                    self._thread = self._busy = None
                self._condition.notify_all()

    def _put(self, message: Message, first: bool = False) -> None:
        self._samples += message.is_sample
        if first:
            self._queue.appendleft(message)
        else:
            self._queue.append(message)

    def _drop_sample(self) -> None:
        """Drop the oldest sample that waits."""
        for at, each in enumerate(self._queue):
            if each.is_sample:
                del self._queue[at]
                break
        self._samples -= 1
        self._dropped += 1

    @property
    def is_busy(self) -> bool:
        """True while a receiver is being called."""
        return self._busy is not None

    def check(self, patience: float) -> str | None:
        """Set a receiver aside that has been busy for longer than ``patience`` seconds; returns its name."""
        with self._condition:
            if self._busy is None or self._thread is None:
                return None
            if self._clock.monotonic() - self._busy.since < patience:
                return None
            label = self._busy.label
            self._set_aside(self._busy)
            self._spawn()  # the old thread finds that it was replaced, when its call returns
            return label

    def _set_aside(self, busy: _Busy) -> None:
        if busy.subscription is not None:
            busy.subscription.hanging = True
        self.hanging.append(busy.label)
        self._busy = None
        if busy.rest is not None and busy.rest.receivers:
            self._put(busy.rest, first=True)

    # --- the thread -----------------------------------------------------------------------------

    def start(self) -> None:
        with self._condition:
            if self._draining and self._thread is not threading.current_thread():
                self._condition.wait_for(lambda: not self._draining, 1.0)
            self._closing = self._closed = False
            if self._draining and self._busy is not None:  # started by a receiver: the rest is for the new thread
                if self._busy.rest is not None and self._busy.rest.receivers:
                    self._put(self._busy.rest, first=True)
                self._busy = None
                self._spawn()
            elif self._thread is None:  # else it was stopped from inside a callback and goes on
                self._spawn()

    def _spawn(self) -> None:
        thread = threading.Thread(target=self._run, name="memwarden-dispatcher", daemon=True)
        thread.start()  # which may fail; it waits for the condition that we hold
        self._thread = thread

    def stop(self, patience: float, last: Event | None = None) -> list[str]:
        """Deliver what waits, then ``last``, close the receivers and end the thread.

        Returns the names of receivers that hang, after ``patience`` real seconds at most. On the dispatcher's own
        thread (inside a callback) it returns at once, and the thread ends when it has delivered the rest.
        """
        deadline = time.monotonic() + patience
        with self._condition:
            if last is not None:
                self._put(Message(last))
            self._closing = True
            self._condition.notify_all()
            thread, lost = self._thread, 0
        while thread is not None and thread is not threading.current_thread():
            busy = self._busy
            # Half of the time that is left for the busy receiver, so that the others still get their events.
            thread.join(max((deadline - time.monotonic()) / 2, 0.01))
            with self._condition:
                late = time.monotonic() >= deadline
                if self._thread is thread and self._busy is not None and (late or self._busy is busy):
                    self._set_aside(self._busy)
                    self._thread = None
                    if not late:
                        self._spawn()
                if late:
                    lost = len(self._queue)
                    self._queue.clear()
                    self._samples = 0
                    thread = self._thread = None
                elif self._thread is not None or not thread.is_alive():
                    thread = self._thread
        if lost:
            log.warn("%d events were not delivered: receivers are too slow or hang", lost)
        return list(self.hanging)

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._condition:
                while not self._queue and not self._closing and self._thread is me:
                    self._condition.wait()
                if self._thread is not me:
                    return
                if not self._queue:
                    if self._closed:
                        self._thread = None
                        return
                    self._closed = True
                    for each in self._all:
                        if each.close is not None and not each.hanging:
                            self._put(Message(None, each.close, each.label))
                    continue
                if self._dropped:
                    text = f"{self._dropped} samples were dropped: receivers are too slow"
                    message = Message(self.event(EventKind.OVERFLOW, text))
                    self._dropped = 0
                else:
                    message = self._queue.popleft()
                    self._samples -= message.is_sample
            if message.call is not None:
                self._attempt(message.call, message.label)
            elif message.event is not None:
                receivers = message.receivers
                if receivers is None and message.is_sample:
                    receivers = self._of_every_sample if message.between else self._due(message.event.monotonic)
                self._deliver(message.event, self._all if receivers is None else receivers)

    def _due(self, now: float) -> list[Subscription]:
        """The subscriptions that this sample of the asked interval is for."""
        due = []
        for each in self._of_samples:
            if self._thinned and now < max(each.since, each.due - EARLY * self.interval):
                continue
            each.due = now + (self.asked if each.every is None else each.every)
            due.append(each)
        return due

    def _deliver(self, event: Event, receivers: Sequence[Subscription]) -> None:
        for at, each in enumerate(receivers, 1):
            if each.hanging or each.removed:
                continue

            def call(subscription: Subscription = each) -> None:
                subscription.receiver(event)

            if not self._attempt(call, each.label, each, Message(event, receivers=receivers[at:])):
                return

    def _attempt(
        self,
        call: Callable[[], None],
        label: str,
        subscription: Subscription | None = None,
        rest: Message | None = None,
    ) -> bool:
        """Call, and report a failure; False when this thread was replaced meanwhile."""
        with self._condition:
            self._busy = mine = _Busy(self._clock.monotonic(), label, subscription, rest)
        trouble: str | None = None
        try:
            call()
        except RecordError as error:
            trouble = str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it must not stop the delivery to others
            trouble = f"{label} raised {error!r}"
        close = None
        with self._condition:
            ours = self._busy is mine
            if ours:
                self._busy = None
                if trouble is None and (subscription is None or not subscription.failing):
                    return True  # nothing to report
            reports = []
            if label in self.hanging and not ours:  # it returned after it was set aside
                self.hanging.remove(label)
                reports.append(f"{label} answers again")
                if subscription is not None:
                    subscription.hanging = False
                    close = subscription.close if self._thread is None else None
            reports += self._changes(trouble, subscription, label, rest)
            for text in list(reports):
                if self._thread is not None and (self._queue or not self._closing):
                    # The event that ends a run stays the last of it.
                    self._put(Message(self.event(EventKind.TROUBLE, text)), first=self._closing)
                    reports.remove(text)
            self._condition.notify_all()
        for text in reports:  # no receiver is left but the log
            log.warn("%s", text)
        if close is not None:
            close()
        return ours

    def _changes(
        self, trouble: str | None, subscription: Subscription | None, label: str, rest: Message | None
    ) -> list[str]:
        """Report a call: once when it first fails and once when it works again, not for every event."""
        if subscription is None:
            return [trouble] if trouble is not None else []
        if rest is not None and rest.event is not None and rest.event.kind is EventKind.TROUBLE:
            # A failure to report a failure is reported once and never again: it would repeat for ever.
            if trouble is None or subscription.failing or subscription.failing_on_trouble:
                return []
            subscription.failing_on_trouble = True
            return [trouble]
        if (trouble is not None) == subscription.failing:
            return []
        subscription.failing = trouble is not None
        return [trouble or f"{label} works again"]

    # --- events of now --------------------------------------------------------------------------------

    def event(
        self, kind: EventKind, message: str, value: object = None, details: dict[str, Any] | None = None
    ) -> Event:
        """Return an event of this moment."""
        wall, now = self._clock.wall(), self._clock.monotonic()
        return Event(kind=kind, wall=wall, monotonic=now, message=message, value=value, details=details)

    def report(self, kind: EventKind, message: str, details: dict[str, Any] | None = None) -> None:
        """Queue an event of this moment."""
        self.send(Message(self.event(kind, message, details=details)))

    def forget_threads(self) -> None:
        """In a child after fork: no thread came along, and a lock may have been held by one that did not."""
        self._condition = threading.Condition()
        self._thread = None
        self._queue.clear()
        self._samples = self._dropped = 0
        self._closing = self._closed = True
        self._draining = False
        self._busy = None
        self.hanging = []
        for each in self._all:
            each.hanging = False
