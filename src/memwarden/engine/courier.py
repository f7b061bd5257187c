"""The second thread: hands events to recorders and callbacks, and decisions to actions.

It is a thread of its own so that a slow disk, a hanging callback or an action that waits never stops the
looking. Its queue is bounded: when it is full the oldest *sample* falls out (never an event), and that is
told. A receiver that hangs is named and set aside with the thread it holds; a fresh thread carries on with
the others, and the receiver is used again once it returns.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.protocols import Clock

Receiver = Callable[[Event], None]


class Parcel:
    """Something to be delivered: an event to everybody, or a call to one."""

    __slots__ = ("call", "event", "label")

    def __init__(self, event: Event | None, call: Callable[[], None] | None = None, label: str = "") -> None:
        self.event, self.call, self.label = event, call, label


class _Hand:
    """One receiver, and whether it still works."""

    def __init__(self, receiver: Receiver, label: str) -> None:
        self.receiver, self.label = receiver, label
        self.failing = False
        self.hanging = False


class Courier:
    """Delivers in order, on one thread. ``most`` bounds the parcels that wait."""

    def __init__(self, clock: Clock, most: int = 1024) -> None:
        self._clock, self._most = clock, most
        self._queue: deque[Parcel] = deque()
        self._samples = 0
        self._dropped = 0
        self._hands: list[_Hand] = []
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._busy: tuple[float, str, _Hand | None] | None = None
        self.stuck: list[str] = []

    def add(self, receiver: Receiver, label: str) -> Callable[[], None]:
        """Deliver events to ``receiver`` from now on; the result takes it off again."""
        hand = _Hand(receiver, label)
        with self._condition:
            self._hands = [*self._hands, hand]

        def remove() -> None:
            with self._condition:
                self._hands = [each for each in self._hands if each is not hand]

        return remove

    # --- the sampler's side: never blocks on a receiver ---------------------------------------------

    def send(self, parcel: Parcel) -> None:
        """Queue a parcel."""
        with self._condition:
            self._put(parcel)
            self._condition.notify()

    def flush(self, timeout: float) -> bool:
        """Wait until everything sent before is delivered."""
        with self._condition:
            if self._thread is None or self._thread is threading.current_thread():
                return not self._queue
        delivered = threading.Event()
        self.send(Parcel(None, delivered.set, "flush"))
        return delivered.wait(timeout)

    def _put(self, parcel: Parcel) -> None:
        sample = parcel.event is not None and parcel.event.kind is EventKind.SAMPLE
        if sample and self._samples >= self._most:
            for at, each in enumerate(self._queue):
                if each.event is not None and each.event.kind is EventKind.SAMPLE:
                    del self._queue[at]
                    break
            self._samples -= 1
            self._dropped += 1
        self._samples += sample
        self._queue.append(parcel)

    def check(self, patience: float) -> str | None:
        """Set a receiver aside that has been busy for longer than ``patience`` seconds; returns its name."""
        with self._condition:
            if self._busy is None or self._thread is None:
                return None
            since, label, hand = self._busy
            if self._clock.monotonic() - since < patience:
                return None
            if hand is not None:
                hand.hanging = True
            self.stuck.append(label)
            self._busy = None
            self._spawn()  # the old thread finds that it was replaced, when its call returns
            return label

    # --- its own thread -----------------------------------------------------------------------------

    def start(self) -> None:
        with self._condition:
            self._closing = False
            self._spawn()

    def _spawn(self) -> None:
        self._thread = threading.Thread(target=self._run, name="memwarden-courier", daemon=True)
        self._thread.start()

    def stop(self, patience: float) -> list[str]:
        """Deliver what waits and end the thread; returns the names of receivers that hang beyond ``patience``."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)
            if thread.is_alive() and self._busy is not None:
                self.stuck.append(self._busy[1])
        with self._condition:
            self._thread = None
            return list(self.stuck)

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._condition:
                while not self._queue and not self._closing and self._thread is me:
                    self._condition.wait()
                if self._thread is not me or not self._queue:
                    return
                parcel = self._queue.popleft()
                if parcel.event is not None and parcel.event.kind is EventKind.SAMPLE:
                    self._samples -= 1
                dropped, self._dropped = self._dropped, 0
            if dropped:
                self._deliver(
                    self._trouble(
                        EventKind.OVERFLOW,
                        f"{dropped} samples were dropped: receivers are too slow",
                    )
                )
            if parcel.call is not None:
                self._attempt(parcel.call, parcel.label, None)
            elif parcel.event is not None:
                self._deliver(parcel.event)

    def _deliver(self, event: Event) -> None:
        me = threading.current_thread()
        for hand in self._hands:
            if hand.hanging or self._thread is not me:
                continue

            def call(hand: _Hand = hand) -> None:
                hand.receiver(event)

            self._attempt(call, hand.label, hand, told=event.kind is EventKind.TROUBLE)

    def _attempt(self, call: Callable[[], None], label: str, hand: _Hand | None, told: bool = False) -> None:
        with self._condition:
            if self._thread is not threading.current_thread():
                return
            self._busy = mine = (self._clock.monotonic(), label, hand)
        trouble: str | None = None
        try:
            call()
        except RecordError as error:
            trouble = str(error)
        except Exception as error:  # noqa: BLE001 - a guest's receiver must not end the delivery to the others
            trouble = f"{label} raised {error!r}"
        with self._condition:
            if self._busy is mine:
                self._busy = None
            else:  # it came back after it was given up
                if label in self.stuck:
                    self.stuck.remove(label)
                if hand is not None:
                    hand.hanging = False
                self._put(Parcel(self._trouble(EventKind.TROUBLE, f"{label} answers again")))
                self._condition.notify_all()
            # Told once when it begins and once when it is over, not for every event.
            if hand is not None and (trouble is not None) != hand.failing:
                hand.failing = trouble is not None
                self._put(Parcel(self._trouble(EventKind.TROUBLE, trouble or f"{label} works again")))
            elif hand is None and trouble is not None and not told:
                self._put(Parcel(self._trouble(EventKind.TROUBLE, trouble)))

    def _trouble(self, kind: EventKind, message: str) -> Event:
        return Event(kind=kind, wall=self._clock.wall(), monotonic=self._clock.monotonic(), message=message)

    def forget_threads(self) -> None:
        """In a child after fork: no thread came along, and a lock may have been held by one that did not."""
        self._condition = threading.Condition()
        self._thread = None
        self._queue.clear()
        self._samples = self._dropped = 0
        self._busy = None
        self.stuck = []


def label_of(receiver: Any) -> str:
    """A name for a callable, to be told when it raises or hangs."""
    name = getattr(receiver, "__qualname__", None) or type(receiver).__qualname__
    module = getattr(receiver, "__module__", None)
    return f"{module}.{name}" if module else str(name)
