"""The Warden: looks at memory on one thread, tells on another."""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from memwarden.actions.notify import Notify
from memwarden.assess.pressure import PressureDetector
from memwarden.engine.clock import SystemClock
from memwarden.engine.courier import Courier, Parcel, Receiver, label_of
from memwarden.engine.pace import SHORTEST, FillRate, delay
from memwarden.engine.tick import Tick
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.findings import Reading
from memwarden.model.limits import Limit
from memwarden.model.plain import to_plain
from memwarden.model.units import parse_duration
from memwarden.policy.rules import Policy, Rule
from memwarden.protocols import Action, Clock, Detector, Reader, Recorder
from memwarden.readers.sources import own_sources

_log = logging.getLogger("memwarden")
_log.addHandler(logging.NullHandler())

#: A receiver that is busy for longer is set aside.
PATIENCE_SECONDS = 10.0
#: What ``stop()`` waits for receivers at most.
STOP_PATIENCE_SECONDS = 2.0

_alive: weakref.WeakSet[Warden] = weakref.WeakSet()


class Stop(Protocol):
    """Anything that can be asked whether to stop: a ``threading.Event``, for one."""

    def is_set(self) -> bool: ...


class Warden:
    """Watches memory until it is stopped.

    ``interval`` is the asked interval in seconds (or ``"500ms"``): recorders and subscribers get a sample
    at this pace and every event at once; looking happens more often when memory fills fast. Without
    ``readers`` it watches this process, its memory group and the machine. ``asked`` is a limit of one's own
    on what is watched.

    ::

        with Warden(interval=5) as warden:
            warden.subscribe(lambda event: print(event.kind.value, event.message))
            ...

    ``eager`` looks more often at first, before the age of the watch doubles: for what may end soon.

    ``start`` may be called again after ``stop``. After ``fork`` the child has a stopped warden.
    """

    def __init__(
        self,
        readers: Sequence[Reader] | None = None,
        *,
        interval: float | str = 1.0,
        detector: Detector | None = None,
        rules: Sequence[Rule] = (),
        actions: Sequence[Action] | None = None,
        recorders: Sequence[Recorder] = (),
        asked: Limit | None = None,
        clock: Clock | None = None,
        patience: float = PATIENCE_SECONDS,
        eager: bool = False,
    ) -> None:
        self.interval = parse_duration(interval)
        self.rules = tuple(rules)
        self.asked = asked
        self._readers = tuple(own_sources() if readers is None else readers)
        self._detector = detector if detector is not None else PressureDetector()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._recorders = tuple(recorders)
        self._patience, self._eager = patience, eager
        self._actions = {action.name: action for action in (actions if actions is not None else (Notify(),))}
        for rule in self.rules:
            if rule.action not in self._actions:
                known = ", ".join(sorted(self._actions)) or "none"
                raise SettingsError(f"rule {rule.name!r}: no action is called {rule.action!r}; known: {known}")
        self._tick = Tick(self._readers, self._detector, Policy(self.rules), self._clock, asked)
        self._rate = FillRate()
        self._last: Reading | None = None
        self._courier = Courier(self._clock)
        self._courier.add(_to_log, "log")
        for recorder in self._recorders:
            self._courier.add(recorder.record, label_of(recorder))
        self._guard = threading.Lock()  # over the two fields below, never across a join or a callback
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._started_wall: float | None = None
        _alive.add(self)

    # --- life -----------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the sampler thread is at work."""
        return self._thread is not None

    def start(self) -> Warden:
        """Take a first look and begin watching. Starting a running warden changes nothing."""
        self._ended.wait(STOP_PATIENCE_SECONDS)  # a stop on another thread first comes to its end
        with self._guard:
            if self._thread is not None:
                return self
            first = self._clock.monotonic()
            # The event belongs to this run: an earlier run that still ends cannot be woken to a second life.
            self._wake = wake = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(first, wake), name="memwarden-sampler", daemon=True)
            self._ended.clear()
        self._courier.start()
        self._started_wall = self._clock.wall()
        self._tell(EventKind.START, f"watching every {self.interval:g} s")
        self._look(first, record=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End watching: no thread is left, but one that a hanging receiver holds (it is named in the log)."""
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._wake.set()
        if thread is not threading.current_thread():
            thread.join()
        self._tell(EventKind.STOP, "stopped")
        for name in self._courier.stop(STOP_PATIENCE_SECONDS):
            _log.warning("%s hangs; its thread was left behind", name)
        self.close()
        self._ended.set()

    def close(self) -> None:
        """Give back the descriptors of readers and recorders; ``stop`` does so by itself."""
        for reader in self._readers:
            reader.close()
        for recorder in self._recorders:
            recorder.close()

    def __enter__(self) -> Warden:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- looking --------------------------------------------------------------------------------------

    def look(self) -> Reading:
        """Look once, now, on this thread; for a warden that is not running."""
        if self._thread is not None:
            raise RuntimeError("look() is for a stopped warden; ask a running one for .last")
        return self._look(self._clock.monotonic(), record=False)

    def _look(self, due: float, record: bool) -> Reading:
        reading, events, decisions = self._tick(due)
        sample, assessment = reading
        self._last = reading
        if assessment.available is not None:
            self._rate.see(sample.monotonic, assessment.available)
        if record:
            self._send(
                Event(
                    kind=EventKind.SAMPLE,
                    wall=sample.wall,
                    monotonic=sample.monotonic,
                    value=reading,
                )
            )
        for event in events:
            self._send(event)
        for decision in decisions:
            self._act(decision)
        return reading

    def _run(self, first: float, wake: threading.Event) -> None:
        clock, interval = self._clock, self.interval
        recorded, due = first, first
        while True:
            now = clock.monotonic()
            reading = self._last
            pace = delay(reading.assessment, self._rate.rate(now), interval) if reading is not None else interval
            if self._eager:
                pace = min(pace, max(SHORTEST, now - first))
            # Records keep to the grid of the asked interval: lateness does not add up.
            grid = recorded + interval
            if grid <= now:
                grid = recorded + interval * ((now - recorded) // interval + 1)
            due = min(grid, max(due, now - SHORTEST) + pace)
            if clock.wait(wake, max(0.0, due - now)):
                return
            try:
                self._look(due, record=due == grid)
            except Exception as error:  # noqa: BLE001 - a detector of somebody else must not end the watching
                self._tell(EventKind.TROUBLE, f"judging failed: {error!r}")
                due = grid
            if due == grid:
                recorded = grid
            if hanging := self._courier.check(self._patience):
                self._tell(EventKind.TROUBLE, f"{hanging} hangs and was set aside")

    def _act(self, decision: Decision) -> None:
        action = self._actions[decision.action]

        def run() -> None:
            begun = self._clock.monotonic()
            try:
                outcome = action.run(decision)
            except Exception as error:  # noqa: BLE001 - what an action raises is its outcome
                took = self._clock.monotonic() - begun
                outcome = Outcome(decision=decision, done=False, message=repr(error), seconds=took)
            self._tell(EventKind.OUTCOME, outcome.message, outcome)

        self._courier.send(Parcel(None, run, f"action {action.name}"))

    # --- telling --------------------------------------------------------------------------------------

    def subscribe(self, receiver: Receiver) -> Callable[[], None]:
        """Call ``receiver(event)`` for every event, on the worker thread; the result ends the subscription."""
        return self._courier.add(receiver, label_of(receiver))

    def tell(self, event: Event) -> None:
        """Pass an event of one's own to recorders and subscribers."""
        self._send(event)

    def _tell(self, kind: EventKind, message: str, value: object = None) -> None:
        self._send(
            Event(
                kind=kind,
                wall=self._clock.wall(),
                monotonic=self._clock.monotonic(),
                message=message,
                value=value,
            )
        )

    def _send(self, event: Event) -> None:
        self._courier.send(Parcel(event))

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything told so far was delivered; False when ``timeout`` real seconds pass first."""
        return self._courier.flush(timeout)

    @property
    def last(self) -> Reading | None:
        """The newest reading, None before the first look."""
        return self._last

    def watch(self, stop: Stop | None = None) -> Iterator[Reading]:
        """Readings at the asked interval, for as long as the warden runs and ``stop`` is not set.

        Starts the warden when it is not running, and stops it again when the iteration ends.
        """
        readings: queue.SimpleQueue[Reading | None] = queue.SimpleQueue()

        def receive(event: Event) -> None:
            if event.kind is EventKind.SAMPLE:
                readings.put(event.value)
            elif event.kind is EventKind.STOP:
                readings.put(None)

        end = self.subscribe(receive)
        ours = not self.running
        try:
            if ours:
                self.start()
            while stop is None or not stop.is_set():
                try:
                    reading = readings.get(timeout=min(0.2, self.interval))
                except queue.Empty:
                    continue
                if reading is None:
                    return
                yield reading
        finally:
            end()
            if ours:
                self.stop()

    def status(self) -> dict[str, Any]:
        """Everything known, as one dict that JSON can hold."""
        last = self._last
        return {
            "schema": 1,
            "running": self.running,
            "interval_seconds": self.interval,
            "started": self._started_wall,
            "rules": [str(rule) for rule in self.rules],
            "stuck_receivers": list(self._courier.stuck),
            "reading": None if last is None else to_plain(last),
        }

    # --- fork -----------------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In the child: stopped and usable. The threads stayed with the parent, and so do its locks."""
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._thread = None
        self._courier.forget_threads()
        self.close()  # the child's copies of the descriptors only


def _to_log(event: Event) -> None:
    if event.kind in (EventKind.TROUBLE, EventKind.OVERFLOW):
        _log.warning("%s", event.message, extra={"memwarden": event})
    elif event.kind in (EventKind.GAP, EventKind.LEVEL, EventKind.GAP_CLOSED):
        _log.debug("%s", event.message, extra={"memwarden": event})


def _child() -> None:
    for warden in list(_alive):
        warden._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
