"""The second thread: hands events to recorders and callbacks, and decisions to actions.

It is a thread of its own so that a slow disk, a hanging callback or an action that waits never stops the
looking. Its queue is bounded: when it is full the oldest *sample* falls out (never an event), and that is
told. A receiver that hangs is named and set aside with the thread it holds; a fresh thread carries on with
the others, from the very event it hung in, and the receiver is used again once it returns.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memwarden.errors import RecordError
from memwarden.model import log
from memwarden.model.events import Event, EventKind
from memwarden.protocols import Clock

Receiver = Callable[[Event], None]


class Subscription:
    """One receiver, and whether it still works."""

    def __init__(
        self, receiver: Receiver, label: str, close: Callable[[], None] | None, max_delay: float, every_look: bool
    ) -> None:
        self.receiver, self.label, self.close, self.max_delay = receiver, label, close, max_delay
        self.every_look = every_look
        self.failing = False
        self.failing_on_trouble = False
        self.hanging = False
        self.removed = False


class Message:
    """Something to be delivered: an event to everybody (or to the ``hands`` that still lack it), or a call to one."""

    __slots__ = ("between", "call", "event", "hands", "is_sample", "label")

    def __init__(
        self,
        event: Event | None = None,
        call: Callable[[], None] | None = None,
        label: str = "",
        hands: Sequence[Subscription] | None = None,
        between: bool = False,
    ) -> None:
        self.event, self.call, self.label, self.hands = event, call, label, hands
        #: Whether it is a sample between two of the asked interval.
        self.between = between
        self.is_sample = event is not None and event.kind is EventKind.SAMPLE


class _Busy(NamedTuple):
    """What the thread is at: whom it called when, and who still waits for the same event."""

    since: float
    label: str
    hand: Subscription | None
    rest: Message | None


#: Samples that max_delay at most, so that few are held in memory and few are lost with the process.
LINGERING = 64


class Dispatcher:
    """Delivers in order, on one thread. ``most`` bounds the samples that wait.

    A receiver may say that samples can *max_delay*: then the thread is woken once for several of them, since waking
    it costs more than everything else that is done for a sample. Any other event is delivered at once, and what
    waits before it.
    """

    def __init__(self, clock: Clock, most: int = 1024) -> None:
        self._clock, self._most = clock, most
        self._queue: deque[Message] = deque()
        self._samples = 0
        self._dropped = 0
        self._hands: list[Subscription] = []
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._closed = True
        self._draining = False
        self._busy: _Busy | None = None
        self._sample_hands: list[Subscription] = []
        self._look_hands: list[Subscription] = []
        self._linger = math.inf
        self._woken = -math.inf
        self.stuck: list[str] = []

    def add(
        self,
        receiver: Receiver,
        label: str,
        close: Callable[[], None] | None = None,
        max_delay: float = 0.0,
        *,
        every_look: bool = False,
    ) -> Callable[[], None]:
        """Deliver events to ``receiver`` from now on; the result takes it off again.

        ``close`` is called on the same thread when the courier ends, after the last event. A sample may wait
        ``max_delay`` seconds, and as long again as the next sample is away; infinite: it is not for samples at all.
        ``every_look`` has it told the looks between the samples, too.
        """
        hand = Subscription(receiver, label, close, max_delay, every_look)
        self._change(lambda hands: [*hands, hand])

        def remove() -> None:
            hand.removed = True
            self._change(lambda hands: [each for each in hands if each is not hand])

        return remove

    def _change(self, change: Callable[[list[Subscription]], list[Subscription]]) -> None:
        with self._condition:
            self._hands = change(self._hands)
            self._linger = min((hand.max_delay for hand in self._hands), default=math.inf)
            self._sample_hands = [hand for hand in self._hands if hand.max_delay < math.inf]
            self._look_hands = [hand for hand in self._sample_hands if hand.every_look]

    @property
    def takes_samples(self) -> bool:
        """Whether anybody wants samples."""
        return self._linger < math.inf

    @property
    def takes_looks(self) -> bool:
        """Whether anybody wants the looks between the samples."""
        return bool(self._look_hands)

    # --- the sampler's side: never blocks on a receiver ---------------------------------------------

    def send(self, parcel: Message) -> None:
        """Queue a message."""
        with self._condition:
            if parcel.is_sample:
                if self._samples >= self._most:
                    self._drop_sample()
                self._queue.append(parcel)
                self._samples += 1
                now = self._clock.monotonic()
                if now - self._woken < self._linger and self._samples < LINGERING:
                    return
                self._woken = now
            else:
                self._queue.append(parcel)
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
        """Deliver what waits on this thread, where no thread of its own is at work."""
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

    def _put(self, parcel: Message, first: bool = False) -> None:
        self._samples += parcel.is_sample
        if first:
            self._queue.appendleft(parcel)
        else:
            self._queue.append(parcel)

    def _drop_sample(self) -> None:
        """The oldest sample that waits falls out."""
        for at, each in enumerate(self._queue):
            if each.is_sample:
                del self._queue[at]
                break
        self._samples -= 1
        self._dropped += 1

    @property
    def is_busy(self) -> bool:
        """Whether a receiver is being called."""
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
        if busy.hand is not None:
            busy.hand.hanging = True
        self.stuck.append(busy.label)
        self._busy = None
        if busy.rest is not None and busy.rest.hands:
            self._put(busy.rest, first=True)

    # --- its own thread -----------------------------------------------------------------------------

    def start(self) -> None:
        with self._condition:
            if self._draining and self._thread is not threading.current_thread():
                self._condition.wait_for(lambda: not self._draining, 1.0)
            self._closing = self._closed = False
            if self._draining and self._busy is not None:  # started by a receiver: the rest is for the new thread
                if self._busy.rest is not None and self._busy.rest.hands:
                    self._put(self._busy.rest, first=True)
                self._busy = None
                self._spawn()
            elif self._thread is None:  # else it was stopped from inside a callback and goes on
                self._spawn()

    def _spawn(self) -> None:
        thread = threading.Thread(target=self._run, name="memwarden-courier", daemon=True)
        thread.start()  # which may fail; it waits for the condition that we hold
        self._thread = thread

    def stop(self, patience: float, last: Event | None = None) -> list[str]:
        """Deliver what waits, then ``last``, close the receivers and end the thread.

        Returns the names of receivers that hang, after ``patience`` real seconds at most. On the courier's own
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
            # Half of what is left for whoever is busy now, so that the others still get theirs behind it.
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
        return list(self.stuck)

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
                    for hand in self._hands:
                        if hand.close is not None and not hand.hanging:
                            self._put(Message(None, hand.close, hand.label))
                    continue
                if self._dropped:
                    message = f"{self._dropped} samples were dropped: receivers are too slow"
                    parcel = Message(self._trouble(EventKind.OVERFLOW, message))
                    self._dropped = 0
                else:
                    parcel = self._queue.popleft()
                    self._samples -= parcel.is_sample
            if parcel.call is not None:
                self._attempt(parcel.call, parcel.label)
            elif parcel.event is not None:
                hands = parcel.hands
                if hands is None and parcel.is_sample:
                    hands = self._look_hands if parcel.between else self._sample_hands
                self._deliver(parcel.event, self._hands if hands is None else hands)

    def _deliver(self, event: Event, hands: Sequence[Subscription]) -> None:
        for at, hand in enumerate(hands, 1):
            if hand.hanging or hand.removed:
                continue

            def call(hand: Subscription = hand) -> None:
                hand.receiver(event)

            if not self._attempt(call, hand.label, hand, Message(event, hands=hands[at:])):
                return

    def _attempt(
        self, call: Callable[[], None], label: str, hand: Subscription | None = None, rest: Message | None = None
    ) -> bool:
        """Call, and tell what comes of it; False when this thread was replaced meanwhile."""
        with self._condition:
            self._busy = mine = _Busy(self._clock.monotonic(), label, hand, rest)
        trouble: str | None = None
        try:
            call()
        except RecordError as error:
            trouble = str(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a guest must not end the delivery to the others
            trouble = f"{label} raised {error!r}"
        close = None
        with self._condition:
            ours = self._busy is mine
            if ours:
                self._busy = None
                if trouble is None and (hand is None or not hand.failing):
                    return True  # nothing to tell
            told = []
            if label in self.stuck and not ours:  # it came back after it was given up
                self.stuck.remove(label)
                told.append(f"{label} answers again")
                if hand is not None:
                    hand.hanging = False
                    close = hand.close if self._thread is None else None
            told += self._changes(trouble, hand, label, rest)
            for message in list(told):
                if self._thread is not None and (self._queue or not self._closing):
                    # The event that ends a run stays the last of it.
                    self._put(Message(self._trouble(EventKind.TROUBLE, message)), first=self._closing)
                    told.remove(message)
            self._condition.notify_all()
        for message in told:  # nobody is there any more to be told but the log
            log.warn("%s", message)
        if close is not None:
            close()
        return ours

    def _changes(self, trouble: str | None, hand: Subscription | None, label: str, rest: Message | None) -> list[str]:
        """What is told of a call: once when trouble begins and once when it is over, not for every event."""
        if hand is None:
            return [trouble] if trouble is not None else []
        if rest is not None and rest.event is not None and rest.event.kind is EventKind.TROUBLE:
            # Trouble with telling of trouble is told once and never again: it would feed itself.
            if trouble is None or hand.failing or hand.failing_on_trouble:
                return []
            hand.failing_on_trouble = True
            return [trouble]
        if (trouble is not None) == hand.failing:
            return []
        hand.failing = trouble is not None
        return [trouble or f"{label} works again"]

    def _trouble(self, kind: EventKind, message: str) -> Event:
        return Event(kind=kind, wall=self._clock.wall(), monotonic=self._clock.monotonic(), message=message)

    def forget_threads(self) -> None:
        """In a child after fork: no thread came along, and a lock may have been held by one that did not."""
        self._condition = threading.Condition()
        self._thread = None
        self._queue.clear()
        self._samples = self._dropped = 0
        self._closing = self._closed = True
        self._draining = False
        self._busy = None
        self.stuck = []
        for hand in self._hands:
            hand.hanging = False


def label_of(receiver: Any) -> str:
    """A name for a callable, to be told when it raises or hangs."""
    name = getattr(receiver, "__qualname__", None) or type(receiver).__qualname__
    module = getattr(receiver, "__module__", None)
    return f"{module}.{name}" if module else str(name)
