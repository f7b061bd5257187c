"""The thread that takes samples: it waits until one is due, runs a tick, and passes on what came of it."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from memwarden.engine import changes, lifecycle
from memwarden.engine.dispatcher import Dispatcher
from memwarden.engine.sampling_interval import SHORTEST, FillRate, Grid, delay
from memwarden.engine.subscription import Message, close_quietly
from memwarden.engine.tick import Tick
from memwarden.engine.waker import Waker
from memwarden.model import log
from memwarden.model.events import Event, EventKind
from memwarden.model.verdicts import Reading
from memwarden.protocols import Clock

if TYPE_CHECKING:  # imported where there are rules
    from memwarden.model.decisions import Decision, Outcome
    from memwarden.policy.rules import Policy

#: How often the kernel's wake-ups are given the state of the groups.
FOLLOW_SECONDS = 5.0
#: The name of the thread.
SAMPLER = "memwarden-sampler"


class Run:
    """One run, from start to stop. Each has its own thread and waker, so that none can wake an earlier one."""

    __slots__ = ("abandoned", "first", "sampled", "thread", "waker")

    def __init__(self, loop: Callable[[Run], None]) -> None:
        #: Wakes the thread when the run ends, and when another interval was set.
        self.waker = Waker()
        #: The first point of the grid of that interval, on the monotonic clock.
        self.first = 0.0
        #: Set when the first sample was taken, and the kernel was asked for wake-ups.
        self.sampled = threading.Event()
        #: Whether ``stop`` went on without waiting for the sample that was being taken.
        self.abandoned = False
        self.thread = threading.Thread(target=loop, args=(self,), name=SAMPLER, daemon=True)


class Sampler:
    """Takes samples while :attr:`current` is the run that its thread was started for."""

    def __init__(
        self,
        tick: Tick,
        dispatcher: Dispatcher,
        perform: Callable[[Decision], Outcome],
        clock: Clock,
        *,
        patience: float,
        eager: bool,
        shortest: float,
        wakeups: bool,
    ) -> None:
        self.tick = tick
        self._dispatcher, self._perform, self._clock = dispatcher, perform, clock
        self._patience, self._eager, self._shortest, self._wakeups = patience, eager, shortest, wakeups
        #: Seconds between two recorded samples.
        self.interval = 1.0
        self.current: Run | None = None
        self.last: Reading | None = None
        #: Rules that are put in force before the next sample.
        self.new_policy: Policy | None = None
        self._outcomes: deque[tuple[float, Outcome]] = deque()  # each with the time at which it was reported
        self._rate = FillRate()
        self._followed = -math.inf

    def new_run(self) -> Run:
        """Return a run that is not started yet; the fill rate before it is forgotten."""
        self._rate = FillRate()
        return Run(self._loop)

    # --- one sample -----------------------------------------------------------------------------------

    def sample(self, due: float, record: bool, run: Run | None = None) -> None:
        """Take one sample. ``record``: it is one of the asked interval."""
        if self._outcomes or self.new_policy is not None:
            self._apply_changes()
        reading, events, decisions = self.tick(due, between=not record and run is not None)
        if run is not None and run.abandoned:
            return  # the run ended during this sample, which is not reported any more
        self._keep(reading, record)
        sample = reading.sample
        if run is not None and run.waker.listening and sample.monotonic >= self._followed + FOLLOW_SECONDS:
            self._followed = sample.monotonic
            run.waker.follow(sample.cgroups)
        for event in events:
            self._dispatcher.send(Message(event))
        for decision in decisions:
            self._act(decision)

    def _keep(self, reading: Reading, record: bool) -> None:
        self.last = reading
        sample, assessment = reading
        if assessment.available is not None:
            self._rate.see(sample.monotonic, assessment.available)
        if self._dispatcher.takes_samples if record else self._dispatcher.takes_every_sample:
            event = Event(EventKind.SAMPLE, sample.wall, sample.monotonic, "", reading)
            self._dispatcher.send(Message(event, between=not record))

    def _apply_changes(self) -> None:
        """Take in what other threads left since the last sample: outcomes of actions, other rules."""
        policy, new = self.tick.policy, self.new_policy
        now = self._clock.monotonic()
        while self._outcomes and self._outcomes[0][0] < now:  # a replay goes by these times
            _, outcome = self._outcomes.popleft()
            if policy is not None:
                policy.on_outcome(outcome)
        if new is None:
            return
        self.new_policy = None
        message = "; ".join(map(str, new.rules)) or "no rules"
        self._dispatcher.report(EventKind.RULES, message, details=changes.policy_to_dict(new))
        if policy is None or self.last is None:
            self.tick.policy = new
            return
        sample = self.last.sample
        decided = policy.replace(new, sample)
        for event in changes.of_decided(sample, decided):
            self._dispatcher.send(Message(event))
        for decision in decided.decisions:
            self._act(decision)

    def _act(self, decision: Decision) -> None:
        """Have the dispatcher run an action, and report its outcome."""
        label = f"action {decision.action}"

        from memwarden.model.decisions import Outcome

        def run() -> None:
            started = self._clock.monotonic()
            try:
                if label in self._dispatcher.hanging:  # each further run would block one more thread
                    outcome = Outcome(decision=decision, done=False, message=f"{label} still hangs")
                else:
                    outcome = self._perform(decision)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - what an action raises is its outcome
                took = self._clock.monotonic() - started
                outcome = Outcome(decision=decision, done=False, message=repr(error), seconds=took)
            event = self._dispatcher.event(EventKind.OUTCOME, outcome.message, outcome)
            self._outcomes.append((event.monotonic, outcome))
            self._dispatcher.send(Message(event))

        self._dispatcher.send(Message(None, run, label))

    # --- the thread -----------------------------------------------------------------------------------

    def _loop(self, run: Run) -> None:
        clock = self._clock
        due = clock.monotonic()
        grid, started = Grid(due, self.interval, started=True), due
        works = self._try_sample(due, True, run, True)
        if self.current is run:
            if self._wakeups:
                self._listen(run)  # before start() returns: a fork in between would leave copies of descriptors
            run.sampled.set()
        since: float | None = None  # where the delay counts from; None: a sample was taken
        while self.current is run:
            now = clock.monotonic()
            if since is None:
                since = max(due, now - SHORTEST)
            wait = grid.interval
            if works and self.last is not None:
                wait = delay(self.last.assessment, self._rate.rate(now), wait, self._shortest)
            if self._eager:
                wait = min(wait, max(SHORTEST, now - started))
            due, point = since + wait, grid.next(now)
            on_grid = point <= max(due, now)
            if on_grid:
                due = point
            if clock.wait(run.waker, max(0.0, due - now)):
                run.waker.clear()
                if self.current is run:  # another interval was set: it has a grid of its own
                    grid = Grid(run.first, self.interval, started=False)
                    self._apply_changes()
                continue
            if run.waker.woken and point > (now := clock.monotonic()):
                due, on_grid = now, False  # the kernel woke us: a sample in between
            grid.sampled(on_grid)
            since = None
            works = self._try_sample(due, on_grid, run, works)
        run.waker.close()
        if run.abandoned:
            self.close_readers()

    def _listen(self, run: Run) -> None:
        """Ask the kernel for wake-ups; those that it refuses are listed by ``memwarden doctor``."""
        from memwarden.readers.linux.wakeups import own_wakeups

        try:
            with lifecycle.opening():
                granted, _ = own_wakeups()
                run.waker.listen(granted)
        except OSError as error:  # no descriptors left: the timer still wakes us
            log.warn("the kernel's wake-ups cannot be used, only the timer: %s", error)

    def _try_sample(self, due: float, record: bool, run: Run, worked: bool) -> bool:
        """Take a sample; False where it could not be judged, which is reported when it changes."""
        trouble = ""
        try:
            self.sample(due, record, run)
            if self._dispatcher.is_busy and (hanging := self._dispatcher.check(self._patience)):
                self._dispatcher.report(EventKind.TROUBLE, f"{hanging} hangs and was set aside")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's detector must not stop the sampling
            trouble = f"judging failed: {error!r}"
        if worked is bool(trouble) and not run.abandoned:
            self._dispatcher.report(EventKind.TROUBLE, trouble or "judging works again")
        return not trouble

    def close_readers(self) -> None:
        """Close the descriptors of the readers; the next read opens them again."""
        for reader in self.tick.readers:
            close_quietly(reader)
