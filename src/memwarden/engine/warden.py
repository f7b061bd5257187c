"""The Warden: looks at memory on one thread, tells on another."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from memwarden.assess.judge import Judge
from memwarden.engine import changes, lifecycle
from memwarden.engine.action_registry import ActionRegistry
from memwarden.engine.clock import SystemClock
from memwarden.engine.dispatcher import Dispatcher, Message, Receiver, label_of
from memwarden.engine.sampling_interval import SHORTEST, FillRate, delay
from memwarden.engine.tick import Tick
from memwarden.engine.waker import Waker
from memwarden.errors import SettingsError
from memwarden.model import log
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Limit
from memwarden.model.serialize import iso, to_dict
from memwarden.model.units import parse_duration
from memwarden.model.verdicts import Reading
from memwarden.protocols import Action, Clock, Detector, Reader, Recorder
from memwarden.readers.factory import default_readers
from memwarden.readers.self_report import SelfReportReader, Tell

if TYPE_CHECKING:  # imported where there are rules
    from memwarden.actions.caches import Caches
    from memwarden.actions.gate import Gate
    from memwarden.actions.targets import Target
    from memwarden.model.decisions import Decision, Outcome
    from memwarden.policy.rules import Policy, Rule

#: A receiver that is busy for longer is set aside.
PATIENCE_SECONDS = 10.0
#: What ``stop()`` waits at most for the look that is under way, and then for receivers.
STOP_PATIENCE_SECONDS = 2.0
#: What ``status()`` waits at most for samples that are not counted yet.
STATUS_PATIENCE_SECONDS = 0.5
#: Readings that wait for a slow ``watch()`` loop at most.
WAITING_READINGS = 256
#: How often wake-ups are told how the groups stand.
FOLLOW_SECONDS = 5.0
#: The name of the thread that looks.
SAMPLER = "memwarden-sampler"


class _Life:
    """One run, from start to stop: an earlier one that still ends cannot be woken to a second life."""

    __slots__ = ("first", "left", "looked", "thread", "wake")

    def __init__(self, run: Callable[[_Life], None]) -> None:
        #: Rings when the run ends, and when another interval was asked for.
        self.wake = Waker()
        #: When the grid of that interval begins.
        self.first = 0.0
        #: Set when the first look was taken, and the kernel was asked.
        self.looked = threading.Event()
        #: Whether ``stop`` went on without waiting for the look that was under way.
        self.left = False
        self.thread = threading.Thread(target=run, args=(self,), name=SAMPLER, daemon=True)


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

    Rules may name every action that ships (``notify``, ``collect``, ``trim``, ``caches``, ``stop-admitting``,
    ``pause``, ``terminate``); ``actions`` are further ones, and take the place of one of the same name. ``dry_run``
    only says what those that harm would do.

    ``eager`` looks more often at first, before the age of the watch doubles: for what may end soon. ``shortest``
    is the least time between two looks, however fast memory fills.

    Where the kernel wakes those who wait for memory it wakes the warden, too; ``wakeups=False`` asks it not to.

    ``program`` is called at each sample, on the thread that looks, and returns what your program knows of its own
    memory (:class:`ProgramMemory`, or None): the leak verdict on this process goes by it.

    ``start`` may be called again after ``stop``. After ``fork`` the child has a stopped warden.
    """

    def __init__(
        self,
        readers: Sequence[Reader] | None = None,
        *,
        interval: float | str = 1.0,
        detector: Detector | None = None,
        rules: Sequence[Rule] = (),
        actions: Sequence[Action] = (),
        recorders: Sequence[Recorder] = (),
        asked: Limit | None = None,
        clock: Clock | None = None,
        patience: float = PATIENCE_SECONDS,
        eager: bool = False,
        shortest: float | str = SHORTEST,
        dry_run: bool = False,
        wakeups: bool | None = None,
        program: Tell | None = None,
    ) -> None:
        # By default where it is our own memory and time that is watched.
        self._wakeups = readers is None and clock is None if wakeups is None else wakeups
        self._own = readers is None
        for recorder in recorders:
            if not isinstance(recorder, Recorder):
                raise SettingsError(f"recorders: {recorder!r} is no recorder; one is JsonlRecorder(path)")
        if asked is not None and not isinstance(asked, Limit):
            raise SettingsError(f"asked: {asked!r} is no Limit; write Limit(parse_size({asked!r}), 'asked')")
        self.interval = parse_duration(interval)
        self.asked = asked
        self._detector = detector if detector is not None else Judge()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._recorders = tuple(recorders)
        self._patience, self._eager = patience, eager
        self._shortest = parse_duration(shortest)
        self._remedies = ActionRegistry(actions, dry_run)
        sources = tuple(default_readers() if readers is None else readers)
        if readers is None or program is not None:
            sources = (*sources, SelfReportReader(program, self._remedies.fills))
        self._tick = Tick(sources, self._detector, None, self._clock, asked)
        if rules:
            self._tick.policy = self._policy(rules)
        self._new_policy: Policy | None = None
        self._outcomes: deque[tuple[float, Outcome]] = deque()  # each with the moment at which it was told
        self._rate = FillRate()
        self._last: Reading | None = None
        self._courier = Dispatcher(self._clock)
        if not any(getattr(recorder, "logs", False) for recorder in self._recorders):
            self._courier.add(_to_log, "log", max_delay=math.inf)
        for recorder in self._recorders:
            max_delay, each = getattr(recorder, "max_delay", 0.0), getattr(recorder, "every_look", False)
            self._courier.add(recorder.record, label_of(recorder), _closer(recorder), max_delay, every_look=each)
        self._guard = threading.Lock()  # over the fields below, never across a join or a callback
        self._life: _Life | None = None
        self._behind: threading.Thread | None = None  # a thread that a hanging reader holds
        self._ended = threading.Event()  # cleared while a stop is under way
        self._ended.set()
        self._started_wall: float | None = None
        self._followed = -math.inf
        lifecycle.add(self)

    def _policy(self, rules: Sequence[Rule]) -> Policy:
        policy = self._remedies.policy(rules)
        measures = {rule.condition.measure for rule in rules}
        if self._own and any(measure == "stalls" or measure.startswith("psi.") for measure in measures):
            self._add_stalls()
        if self._own and any(measure.startswith("gpu.") for measure in measures):
            self._add_cards()
        return policy

    def _add_stalls(self) -> None:
        """Read the kernel's stalls from now on: a rule asks for them, and most watches can do without."""
        if any(reader.name == "psi" for reader in self._tick.readers):
            return
        from memwarden.readers.linux.psi import PsiReader

        self._tick.readers = (*self._tick.readers, PsiReader())

    def _add_cards(self) -> None:
        """Read graphics cards from now on, since a rule asks for them. Raises :class:`ExtraMissing`."""
        if any(reader.name == "nvidia" for reader in self._tick.readers):
            return
        from memwarden.readers.nvidia import NvidiaReader

        self._tick.readers = (*self._tick.readers, NvidiaReader())

    def track_process(self, pid: int, name: str, *, essential: bool = True) -> Target:
        """Register a process of yours. One that is not ``essential`` may be paused and ended by rules that say so.

        Raises :class:`ReadError` when there is none, :class:`ActionFailed` where it is this process or one above it.
        """
        return self._remedies.targets.track_process(pid, name, essential=essential)

    def untrack_process(self, pid: int) -> None:
        """Forget it; nothing happens when it is not registered."""
        self._remedies.targets.untrack_process(pid)

    @property
    def caches(self) -> Caches:
        """The caches that the action ``caches`` clears: register yours."""
        return self._remedies.caches

    @property
    def gate(self) -> Gate:
        """What the action ``stop-admitting`` closes: ask it before you take on more work."""
        return self._remedies.gate

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force, or those that the next look will begin with."""
        if self._new_policy is not None:
            return self._new_policy.rules
        return () if self._tick.policy is None else self._tick.policy.rules

    def use_rules(self, rules: Sequence[Rule]) -> None:
        """Decide by these rules from the next look on; from any thread.

        A rule that stays as it was keeps what it remembers. Raises :class:`SettingsError` when an action is not
        known; then the old rules stay.
        """
        self._new_policy = self._policy(rules)

    # --- life -----------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the sampler thread is at work."""
        return self._life is not None

    def start(self) -> Warden:
        """Take a first look and begin watching. Starting a running warden changes nothing.

        Raises :class:`RuntimeError` while a reader that hung when the warden was stopped still hangs.
        """
        while True:
            # A stop on another thread first comes to its end; it takes half of this at most.
            ended = self._ended.wait(4 * STOP_PATIENCE_SECONDS)
            with self._guard:
                if self._life is not None:
                    return self
                if self._ended.is_set() or not ended:
                    life = self._begin()
                    break
        life.looked.wait(self._patience)
        return self

    def _begin(self) -> _Life:
        if self._behind is not None and self._behind.is_alive():
            raise RuntimeError("a reader still hangs since the last run; start again when it has returned")
        self._behind = None
        life = _Life(self._run)
        self._rate = FillRate()  # what filled before the last stop says nothing of now
        self._courier.start()
        self._started_wall = self._clock.wall()
        self._send(
            self._event(EventKind.START, f"watching every {self.interval:g} s")._replace(
                details={
                    "interval_seconds": self.interval,
                    "goes_on": self._last is not None,
                    **changes.policy_to_dict(self._tick.policy),
                }
            )
        )
        self._life = life
        try:
            life.thread.start()
        except RuntimeError:  # no more threads
            self._life = None
            self._courier.stop(0.0)
            raise
        return life

    def stop(self) -> None:
        """End watching: no thread is left, but one that a hanging receiver or reader holds (the log names it)."""
        me = threading.current_thread()
        with self._guard:
            life, self._life = self._life, None
            if life is not None:
                self._ended.clear()
        if life is None:
            if not me.name.startswith("memwarden-"):  # these are what the other stop waits for
                self._ended.wait(3 * STOP_PATIENCE_SECONDS)
            return
        try:
            life.wake.set()
            life.looked.set()  # a start on another thread need not wait for it any more
            if life.thread is not me:
                life.thread.join(STOP_PATIENCE_SECONDS)
            if life.thread.is_alive():
                life.left, self._behind = True, None if life.thread is me else life.thread
            if self._behind is not None:
                log.warn("a reader hangs; the thread that looks was left behind")
            for name in self._courier.stop(STOP_PATIENCE_SECONDS, self._event(EventKind.STOP, "stopped")):
                log.warn("%s hangs; its thread was left behind", name)
            self._close_actions()
            if not life.left:
                self._close_readers()
        finally:
            self._ended.set()

    def ask(self, interval: float | str, first: float | None = None) -> None:
        """Record at another interval from now on, from any thread: at once, or at ``first`` on the monotonic clock.

        Rules that were replaced are put into force with it, before the next look.
        """
        self.interval = parse_duration(interval)
        life = self._life
        if life is not None:
            life.first = self._clock.monotonic() if first is None else first
            life.wake.set()

    def close(self) -> None:
        """Give back the descriptors of readers and recorders; ``stop`` does so by itself."""
        self._close_readers()
        self._close_actions()
        for recorder in self._recorders:
            _closer(recorder)()

    def _close_actions(self) -> None:
        for action in self._remedies.closing:
            _closer(action)()

    def _close_readers(self) -> None:
        for reader in self._tick.readers:
            _closer(reader)()

    def __enter__(self) -> Warden:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- looking --------------------------------------------------------------------------------------

    def look(self) -> Reading:
        """Look once, now, on this thread; for a warden that is not running."""
        if self._life is not None:
            raise RuntimeError("look() is for a stopped warden; ask a running one for .last")
        self._look(self._clock.monotonic(), record=False)
        self._courier.drain()
        assert self._last is not None
        return self._last

    def _look(self, due: float, record: bool, life: _Life | None = None) -> None:
        if self._outcomes or self._new_policy is not None:
            self._take_in()
        between = not record and life is not None
        reading, events, decisions = self._tick(due, between)
        if life is not None and life.left:
            return  # the run ended during this look: nobody is told of it any more
        self._take(reading, record)
        if life is not None and life.wake.listening and reading.sample.monotonic >= self._followed + FOLLOW_SECONDS:
            self._followed = reading.sample.monotonic
            life.wake.follow(reading.sample.cgroups)
        for event in events:
            self._send(event)
        for decision in decisions:
            self._act(decision)

    def _take(self, reading: Reading, record: bool) -> None:
        self._last = reading
        sample, assessment = reading
        if assessment.available is not None:
            self._rate.see(sample.monotonic, assessment.available)
        if self._courier.takes_samples if record else self._courier.takes_looks:
            event = Event(EventKind.SAMPLE, sample.wall, sample.monotonic, "", reading)
            self._courier.send(Message(event, between=not record))

    def _take_in(self) -> None:
        """What came from other threads since the last look: outcomes of actions, other rules."""
        policy, new = self._tick.policy, self._new_policy
        now = self._clock.monotonic()
        while self._outcomes and self._outcomes[0][0] < now:  # a record tells by the times who knew of what
            _, outcome = self._outcomes.popleft()
            if policy is not None:
                policy.learn(outcome)
        if new is None:
            return
        self._new_policy = None
        told = self._event(EventKind.RULES, "; ".join(map(str, new.rules)) or "no rules")
        self._send(told._replace(details=changes.policy_to_dict(new)))
        if policy is None or self._last is None:
            self._tick.policy = new
            return
        sample = self._last.sample
        decided = policy.replace(new, sample)
        for event in changes.of_decided(sample, decided):
            self._send(event)
        for decision in decided.decisions:
            self._act(decision)

    def _run(self, life: _Life) -> None:
        clock, interval = self._clock, self.interval
        first = due = clock.monotonic()
        point, recorded = 0, True  # the number of the newest point of the grid, and whether the last look was on one
        works = self._try_to_look(due, True, life, True)
        if self._life is life:
            if self._wakeups:
                self._listen(life)  # before start() returns: a fork in between would take half of it along
            life.looked.set()
        looked: float | None = None  # what the pace counts from; None: a look was taken since
        while self._life is life:
            now = clock.monotonic()
            if looked is None:
                looked = max(due, now - SHORTEST)
            pace = interval
            if works and self._last is not None:
                pace = delay(self._last.assessment, self._rate.rate(now), interval, self._shortest)
            if self._eager:
                pace = min(pace, max(SHORTEST, now - first))
            # Records keep to the grid of the asked interval: lateness does not add up. A point that passed
            # during a look is skipped, but where that look was an extra one: then it is told at once, late.
            on_time, passed = point + 1, int((now - first) // interval)
            if first + on_time * interval <= now:
                on_time = max(on_time, passed + 1 if recorded else passed)
            grid = first + on_time * interval
            due = looked + pace
            on_grid = grid <= max(due, now)
            if on_grid:
                due = grid
            if clock.wait(life.wake, max(0.0, due - now)):
                life.wake.clear()
                if self._life is life:  # another interval was asked for: a grid of its own, whose first point is 0
                    interval, first, point, recorded = self.interval, life.first, -1, False
                    self._take_in()
                continue
            if life.wake.woken and grid > (now := clock.monotonic()):
                due, on_grid = now, False  # the kernel said that something happens: a look between
            if on_grid:
                point = on_time
            looked, recorded = None, on_grid
            works = self._try_to_look(due, recorded, life, works)
        life.wake.close()
        if life.left:
            self._close_readers()

    def _listen(self, life: _Life) -> None:
        """Have the kernel wake us where it does. What it refuses ``memwarden doctor`` tells."""
        from memwarden.readers.linux.wakeups import own_wakeups

        try:
            with lifecycle.opening():
                granted, _ = own_wakeups()
                life.wake.listen(granted)
        except OSError as error:  # no descriptors left: the time still wakes us
            log.warn("the kernel cannot be asked to wake us: %s", error)

    def _try_to_look(self, due: float, record: bool, life: _Life, worked: bool) -> bool:
        """Whether the look could be judged: told when it changes."""
        trouble = ""
        try:
            self._look(due, record, life)
            if self._courier.is_busy and (hanging := self._courier.check(self._patience)):
                self._tell(EventKind.TROUBLE, f"{hanging} hangs and was set aside")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a detector of somebody else must not end the watching
            trouble = f"judging failed: {error!r}"
        if worked is bool(trouble) and not life.left:
            self._tell(EventKind.TROUBLE, trouble or "judging works again")
        return not trouble

    def _act(self, decision: Decision) -> None:
        label = f"action {decision.action}"

        from memwarden.model.decisions import Outcome

        def run() -> None:
            begun = self._clock.monotonic()
            try:
                if label in self._courier.stuck:  # each further run would take one more thread
                    outcome = Outcome(decision=decision, done=False, message=f"{label} still hangs")
                else:
                    outcome = self._remedies.perform(decision)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - what an action raises is its outcome
                took = self._clock.monotonic() - begun
                outcome = Outcome(decision=decision, done=False, message=repr(error), seconds=took)
            told = self._event(EventKind.OUTCOME, outcome.message, outcome)
            self._outcomes.append((told.monotonic, outcome))
            self._send(told)

        self._courier.send(Message(None, run, label))

    # --- telling --------------------------------------------------------------------------------------

    def subscribe(self, receiver: Receiver) -> Callable[[], None]:
        """Call ``receiver(event)`` for every event, on the worker thread; the result ends the subscription."""
        return self._courier.add(receiver, label_of(receiver))

    def tell(self, event: Event) -> None:
        """Pass an event of one's own to recorders and subscribers: on this thread where the warden is stopped."""
        self._send(event)
        if self._life is None:
            self._courier.drain()

    def _tell(self, kind: EventKind, message: str, value: object = None) -> None:
        self._send(self._event(kind, message, value))

    def _event(self, kind: EventKind, message: str, value: object = None) -> Event:
        wall, now = self._clock.wall(), self._clock.monotonic()
        return Event(kind=kind, wall=wall, monotonic=now, message=message, value=value)

    def _send(self, event: Event) -> None:
        self._courier.send(Message(event))

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything told so far was delivered; False when ``timeout`` real seconds pass first."""
        return self._courier.flush(timeout)

    @property
    def last(self) -> Reading | None:
        """The newest reading, None before the first look."""
        return self._last

    def watch(self, stop: Stop | None = None) -> Iterator[Reading]:
        """Readings at the asked interval, for as long as the warden runs and ``stop`` is not set.

        Starts the warden when it is not running, and stops it again when the iteration ends. A loop that is slower
        than the readings loses the oldest that wait.
        """
        import queue

        readings: queue.SimpleQueue[Reading | None] = queue.SimpleQueue()

        def receive(event: Event) -> None:
            if event.kind is EventKind.SAMPLE:
                if readings.qsize() >= WAITING_READINGS:
                    with contextlib.suppress(queue.Empty):
                        readings.get_nowait()
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
                    if not self.running:  # in a child after fork, or where a hanging receiver held STOP up
                        return
                    continue
                if reading is None:
                    return
                yield reading
        finally:
            end()
            if ours:
                self.stop()

    def status(self) -> dict[str, Any]:
        """Everything known, as one dict that JSON can hold.

        ``statistics`` are those of the first recorder that counts, up to the newest sample, or None. Where a receiver
        is slow it waits half a second for that, at most.
        """
        last, life = self.last, self._life
        counts = next((recorder for recorder in self._recorders if hasattr(recorder, "as_dict")), None)
        if counts is not None:
            self.flush(STATUS_PATIENCE_SECONDS)  # samples may max_delay
        return {
            "schema": 1,
            "running": self.running,
            "interval_seconds": self.interval,
            "started": None if self._started_wall is None else iso(self._started_wall),
            "rules": [str(rule) for rule in self.rules],
            "woken_for": [] if life is None else list(life.wake.listening),
            "stuck_receivers": list(self._courier.stuck),
            "reading": None if last is None else to_dict(last),
            "statistics": None if counts is None else counts.as_dict(),
        }

    # --- fork -----------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """In the child: stopped and usable. The threads stayed with the parent, and so do its locks."""
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        if self._life is not None:
            self._life.wake.after_fork()
        self._life = self._behind = None
        self._courier.forget_threads()
        if (forget := getattr(self._detector, "forget", None)) is not None:
            forget()
        self.close()  # the child's copies of the descriptors only


def _closer(part: Reader | Recorder | Action) -> Callable[[], None]:
    def close() -> None:
        try:
            part.close()  # type: ignore[union-attr]  # of actions only those that have one
        except Exception as error:  # noqa: BLE001 - the next one is to be closed all the same
            log.warn("%s could not be closed: %r", label_of(part), error)

    return close


def _to_log(event: Event) -> None:
    if event.kind in (EventKind.TROUBLE, EventKind.OVERFLOW):
        log.warn("%s", event.message, event=event)
    elif event.kind in (EventKind.GAP, EventKind.LEVEL, EventKind.LEAK, EventKind.GAP_CLOSED):
        log.debug("%s", event.message, event=event)
