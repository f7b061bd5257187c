"""The Warden: samples memory on one thread, delivers to recorders, callbacks and actions on another."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from memwarden.assess.judge import Judge
from memwarden.engine import changes, lifecycle
from memwarden.engine.action_registry import ActionRegistry
from memwarden.engine.clock import SystemClock
from memwarden.engine.dispatcher import Dispatcher
from memwarden.engine.sampler import Run, Sampler
from memwarden.engine.sampling_interval import SHORTEST
from memwarden.engine.subscription import Message, Receiver, Subscription, close_quietly, label_of, write_log
from memwarden.engine.tick import Tick
from memwarden.errors import SettingsError
from memwarden.model import log
from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Limit
from memwarden.model.serialize import iso, to_dict
from memwarden.model.units import parse_duration
from memwarden.model.verdicts import Reading
from memwarden.protocols import Action, Clock, Detector, Reader, Recorder, Stop
from memwarden.readers.factory import default_readers
from memwarden.readers.self_report import Report, SelfReportReader

if TYPE_CHECKING:  # imported where there are rules
    from memwarden.actions.caches import Caches
    from memwarden.actions.gate import Gate
    from memwarden.actions.targets import Target, Targets
    from memwarden.policy.rules import Policy, Rule

#: A receiver that is busy for longer is set aside.
PATIENCE_SECONDS = 10.0
#: ``stop()`` waits so long at most for the sample that is being taken, and then for receivers.
STOP_PATIENCE_SECONDS = 2.0
#: ``status()`` waits so long at most for samples that are not counted yet.
STATUS_PATIENCE_SECONDS = 0.5
#: Readings that wait for a slow ``watch()`` loop at most.
WAITING_READINGS = 256


class Warden:
    """Watches memory until it is stopped.

    ``interval`` is the asked interval in seconds (or ``"500ms"``): recorders and subscribers get a sample at this
    interval and every event at once; when memory fills fast, samples are taken more often. Without ``readers`` it
    watches this process, its memory group and the machine. ``asked`` is a limit of your own on what is watched.

    ::

        with Warden(interval=5) as warden:
            warden.subscribe(lambda event: print(event.kind.value, event.message))
            ...

    Rules may name every action that ships (``notify``, ``collect``, ``trim``, ``caches``, ``stop-admitting``,
    ``pause``, ``terminate``); ``actions`` are further ones, and replace one of the same name. With ``dry_run`` actions
    that do harm are only reported, not run.

    ``eager`` takes more samples at first, before the age of the watch doubles: for processes that may end soon.
    ``shortest`` is the least time between two samples, however fast memory fills.

    Where the kernel reports memory pressure it wakes the warden, too; ``wakeups=False`` leaves that out.

    ``program`` is called at each sample, on the sampler thread, and returns what your program knows of its own memory
    (:class:`ProgramMemory`, or None): the leak verdict on this process uses it.

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
        program: Report | None = None,
    ) -> None:
        for recorder in recorders:
            if not isinstance(recorder, Recorder):
                raise SettingsError(f"recorders: {recorder!r} is no recorder; one is JsonlRecorder(path)")
        if asked is not None and not isinstance(asked, Limit):
            raise SettingsError(f"asked: {asked!r} is no Limit; write Limit(parse_size({asked!r}), 'asked')")
        self.asked = asked
        self._own_readers = readers is None
        self._detector = detector if detector is not None else Judge()
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._recorders = tuple(recorders)
        self._patience = patience
        self._actions = ActionRegistry(actions, dry_run)
        sources = tuple(default_readers() if readers is None else readers)
        if readers is None or program is not None:
            sources = (*sources, SelfReportReader(program, self._actions.fills))
        self._dispatcher = Dispatcher(self._clock)
        self._sampler = Sampler(
            Tick(sources, self._detector, None, self._clock, asked),
            self._dispatcher,
            self._actions.perform,
            self._clock,
            patience=patience,
            eager=eager,
            shortest=parse_duration(shortest),
            # By default where it is our own memory and real time that is watched.
            wakeups=readers is None and clock is None if wakeups is None else wakeups,
        )
        self._sampler.interval = self._dispatcher.interval = self._dispatcher.asked = parse_duration(interval)
        if rules:
            self._sampler.tick.policy = self._policy(rules)
        if not any(getattr(recorder, "logs", False) for recorder in self._recorders):
            self._dispatcher.add(Subscription(write_log, "log", max_delay=math.inf))
        for recorder in self._recorders:
            self._dispatcher.add(
                Subscription(
                    recorder.record,
                    label_of(recorder),
                    lambda recorder=recorder: close_quietly(recorder),  # type: ignore[misc]
                    getattr(recorder, "max_delay", 0.0),
                    getattr(recorder, "every_sample", False),
                )
            )
        self._guard = threading.Lock()  # over the fields below and the interval; never across a join or a callback
        self._hung: threading.Thread | None = None  # a sampler thread that a hanging reader blocks
        self._stopped = threading.Event()  # cleared while a stop is under way
        self._stopped.set()
        self._started_wall: float | None = None
        lifecycle.add(self)

    # --- rules and actions ----------------------------------------------------------------------------

    def _policy(self, rules: Sequence[Rule]) -> Policy:
        policy = self._actions.policy(rules)
        metrics = {rule.condition.metric for rule in rules}
        if self._own_readers and any(metric == "stalls" or metric.startswith("psi.") for metric in metrics):
            from memwarden.readers.linux.psi import PsiReader

            self._add_reader(PsiReader())
        if self._own_readers and any(metric.startswith("gpu.") for metric in metrics):
            from memwarden.readers.nvidia import NvidiaReader

            self._add_reader(NvidiaReader())  # raises ExtraMissing without its package
        return policy

    def _add_reader(self, reader: Reader) -> None:
        """Read more from now on, which only a rule asks for."""
        if all(each.name != reader.name for each in self._sampler.tick.readers):
            self._sampler.tick.readers = (*self._sampler.tick.readers, reader)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force, or those that take effect at the next sample."""
        policy = self._sampler.new_policy or self._sampler.tick.policy
        return () if policy is None else policy.rules

    def use_rules(self, rules: Sequence[Rule]) -> None:
        """Decide by these rules from the next sample on; from any thread.

        A rule that stays as it was keeps its state. Raises :class:`SettingsError` for an action that is not known; then
        the old rules stay.
        """
        self._sampler.new_policy = self._policy(rules)

    def track_process(self, pid: int, name: str, *, essential: bool = True) -> Target:
        """Register a process. One that is not ``essential`` may be paused and terminated by rules that name that.

        Raises :class:`ReadError` when there is none, :class:`ActionFailed` where it is this process or an ancestor.
        """
        return self._actions.targets.track_process(pid, name, essential=essential)

    def untrack_process(self, pid: int) -> None:
        """Forget it; nothing happens when it is not registered."""
        self._actions.targets.untrack_process(pid)

    @property
    def targets(self) -> Targets:
        """The processes that were registered."""
        return self._actions.targets

    @property
    def caches(self) -> Caches:
        """The caches that the action ``caches`` clears: register yours."""
        return self._actions.caches

    @property
    def gate(self) -> Gate:
        """The gate that the action ``stop-admitting`` closes: ask it before you accept more work."""
        return self._actions.gate

    # --- start and stop -------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """True while the sampler thread runs."""
        return self._sampler.current is not None

    def start(self) -> Warden:
        """Take a first sample and start to watch. Starting a running warden changes nothing.

        Raises :class:`RuntimeError` while a reader that hung when the warden was stopped still hangs.
        """
        while True:
            # A stop on another thread is waited for first; it takes half of this at most.
            stopped = self._stopped.wait(4 * STOP_PATIENCE_SECONDS)
            with self._guard:
                if self._sampler.current is not None:
                    return self
                if self._stopped.is_set() or not stopped:
                    run = self._start_run()
                    break
        run.sampled.wait(self._patience)
        return self

    def _start_run(self) -> Run:
        if self._hung is not None and self._hung.is_alive():
            raise RuntimeError("a reader still hangs since the last run; start again when it has returned")
        self._hung = None
        sampler, dispatcher = self._sampler, self._dispatcher
        run = sampler.new_run()
        dispatcher.start()
        self._started_wall = self._clock.wall()
        dispatcher.report(
            EventKind.START,
            f"watching every {self.interval:g} s",
            details={
                "interval_seconds": self.interval,
                "goes_on": sampler.last is not None,
                **changes.policy_to_dict(sampler.tick.policy),
            },
        )
        sampler.current = run
        try:
            run.thread.start()
        except RuntimeError:  # no more threads
            sampler.current = None
            dispatcher.stop(0.0)
            raise
        return run

    def stop(self) -> None:
        """Stop watching: no thread is left, but one that a hanging receiver or reader blocks (the log names it)."""
        me = threading.current_thread()
        with self._guard:
            run, self._sampler.current = self._sampler.current, None
            if run is not None:
                self._stopped.clear()
        if run is None:
            if not me.name.startswith("memwarden-"):  # these are what the other stop waits for
                self._stopped.wait(3 * STOP_PATIENCE_SECONDS)
            return
        try:
            run.waker.set()
            run.sampled.set()  # a start on another thread need not wait for it any more
            if run.thread is not me:
                run.thread.join(STOP_PATIENCE_SECONDS)
            if run.thread.is_alive():
                run.abandoned, self._hung = True, None if run.thread is me else run.thread
            if self._hung is not None:
                log.warn("a reader hangs; the sampler thread was left behind")
            last = self._dispatcher.event(EventKind.STOP, "stopped")
            for name in self._dispatcher.stop(STOP_PATIENCE_SECONDS, last):
                log.warn("%s hangs; its thread was left behind", name)
            self._close_actions()
            if not run.abandoned:
                self._sampler.close_readers()
        finally:
            self._stopped.set()

    def close(self) -> None:
        """Close the descriptors of readers and recorders; ``stop`` does so, too."""
        self._sampler.close_readers()
        self._close_actions()
        for recorder in self._recorders:
            close_quietly(recorder)

    def _close_actions(self) -> None:
        for action in self._actions.closing:
            close_quietly(action)

    def __enter__(self) -> Warden:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- samples --------------------------------------------------------------------------------------

    @property
    def interval(self) -> float:
        """Seconds between two samples that are recorded."""
        return self._sampler.interval

    def set_interval(self, interval: float | str, first: float | None = None) -> None:
        """Record at another interval from now on, from any thread: at once, or at ``first`` on the monotonic clock.

        Rules that were replaced take effect with it, before the next sample.
        """
        seconds = parse_duration(interval)
        with self._guard:
            self._dispatcher.asked = seconds
            self._use_interval(first)

    def _use_interval(self, first: float | None = None) -> None:
        """Record at the least interval that is asked for."""
        least, _ = self._dispatcher.shortest()
        self._sampler.interval = self._dispatcher.interval = min(self._dispatcher.asked, least)
        run = self._sampler.current
        if run is not None:
            run.first = self._clock.monotonic() if first is None else first
            run.waker.set()

    def sample(self) -> Reading:
        """Take one sample now, on this thread; for a warden that is not running."""
        if self._sampler.current is not None:
            raise RuntimeError("sample() is for a stopped warden; a running one has .last")
        self._sampler.sample(self._clock.monotonic(), record=False)
        self._dispatcher.drain()
        assert self._sampler.last is not None
        return self._sampler.last

    @property
    def last(self) -> Reading | None:
        """The newest reading, None before the first sample."""
        return self._sampler.last

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

        remove = self.subscribe(receive)
        ours = not self.running
        try:
            if ours:
                self.start()
            while stop is None or not stop.is_set():
                try:
                    reading = readings.get(timeout=min(0.2, self.interval))
                except queue.Empty:
                    if not self.running:  # in a child after fork, or where a hanging receiver delayed STOP
                        return
                    continue
                if reading is None:
                    return
                yield reading
        finally:
            remove()
            if ours:
                self.stop()

    # --- events ---------------------------------------------------------------------------------------

    def subscribe(self, receiver: Receiver, *, every: float | str | None = None) -> Callable[[], None]:
        """Call ``receiver(event)`` for every event, on the dispatcher thread; the result ends the subscription.

        With ``every`` (seconds, or ``"5m"``) it gets samples at this interval, the first at once: the warden then
        samples as often as the most frequent subscription asks for, and a less frequent one gets every n-th sample,
        never later than asked by more than a quarter of the warden's interval. All others keep the asked interval.
        """
        seconds = None if every is None else parse_duration(every)
        with self._guard:
            remove = self._dispatcher.add(Subscription(receiver, label_of(receiver), every=seconds))
            if seconds is not None:
                self._use_interval()
        if seconds is None:
            return remove

        def end() -> None:
            remove()
            with self._guard:
                # Not before a sample is due for another subscription.
                _, due = self._dispatcher.shortest()
                self._use_interval(max(self._clock.monotonic(), due))

        return end

    def publish(self, event: Event) -> None:
        """Pass an event of your own to recorders and subscribers: on this thread where the warden is stopped."""
        self._dispatcher.send(Message(event))
        if self._sampler.current is None:
            self._dispatcher.drain()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every event so far was delivered; False when ``timeout`` real seconds pass first."""
        return self._dispatcher.flush(timeout)

    def status(self) -> dict[str, Any]:
        """Everything known, as one dict that JSON can hold.

        ``statistics`` are those of the first recorder that counts, up to the newest sample, or None. Where a receiver
        is slow it waits half a second for that, at most.
        """
        last, run = self.last, self._sampler.current
        counts = next((recorder for recorder in self._recorders if hasattr(recorder, "as_dict")), None)
        if counts is not None:
            self.flush(STATUS_PATIENCE_SECONDS)  # samples may be delayed
        return {
            "schema": 1,
            "running": self.running,
            "interval_seconds": self.interval,
            "started": None if self._started_wall is None else iso(self._started_wall),
            "rules": [str(rule) for rule in self.rules],
            "woken_for": [] if run is None else list(run.waker.listening),
            "stuck_receivers": list(self._dispatcher.hanging),
            "reading": None if last is None else to_dict(last),
            "statistics": None if counts is None else counts.as_dict(),
        }

    # --- fork -----------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """In the child: stopped and usable. The threads stayed with the parent, and so do its locks."""
        self._guard = threading.Lock()
        self._stopped = threading.Event()
        self._stopped.set()
        if self._sampler.current is not None:
            self._sampler.current.waker.after_fork()
        self._sampler.current = self._hung = None
        self._dispatcher.forget_threads()
        if (forget := getattr(self._detector, "forget", None)) is not None:
            forget()
        self.close()  # the child's copies of the descriptors only
