"""One warden for all monitors of a process: each subscribes with its own interval, and the last to leave stops it."""

from __future__ import annotations

import functools
import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from memwarden.compat.support.emergency import Emergency
from memwarden.compat.support.locks import Lock
from memwarden.compat.support.readings import Sources
from memwarden.engine.clock import SystemClock
from memwarden.engine.warden import STOP_PATIENCE_SECONDS, Warden
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.units import parse_duration
from memwarden.policy.rules import Rule
from memwarden.process.fork_hooks import COMPAT, at_fork
from memwarden.protocols import Clock

#: The clock of monitors that are given none.
SYSTEM_CLOCK = SystemClock()
#: Longer than any monitor's: a warden without subscriptions is stopped anyway.
LONGEST = "30d"

Receiver = Callable[[Event], object]


class Mark:
    """An action that does nothing: the decision is all that is wanted."""

    name = "mark"
    harms = False

    def run(self, decision: Decision) -> Outcome:
        return Outcome(decision=decision, done=True, message=decision.reason)


class Member:
    """A monitor that takes part, from ``join`` to ``leave``.

    ``receiver`` and those in ``beside`` get START, then a sample each ``interval`` seconds and every other event;
    ``receiver`` gets STOP last. Each is set aside alone when it hangs. ``close`` is called in the end, twice at times.
    ``rules`` are followed meanwhile, also between the samples; their decisions are reported to all members.
    """

    def __init__(
        self,
        owner: object,
        interval: float | str,
        receiver: Receiver,
        beside: Sequence[Receiver] = (),
        close: Callable[[], object] = lambda: None,
        rules: Sequence[Rule] = (),
    ) -> None:
        self.owner, self.interval = owner, parse_duration(interval)
        self.receiver, self._beside, self._close, self.rules = receiver, beside, close, tuple(rules)
        #: When it joined and left, on the monotonic clock.
        self.joined = self.left = math.inf
        self._warden: Warden
        self._busy = 0  # calls of the receiver that are under way
        self._ends: list[Callable[[], None]] = []
        #: Set when it got STOP.
        self.stopped = threading.Event()

    def enter(self, warden: Warden, clock: Clock) -> None:
        """Subscribe."""
        self._warden, self.joined = warden, clock.monotonic()
        self._start = Event(kind=EventKind.START, wall=clock.wall(), monotonic=self.joined, value=self)
        self._subscribe(self.receiver, first=True)
        for each in self._beside:
            self._subscribe(each)

    def add(self, receiver: Receiver) -> Callable[[], None]:
        """Subscribe one more beside; the result removes it."""
        return self._subscribe(receiver)

    def _subscribe(self, receiver: Receiver, first: bool = False) -> Callable[[], None]:
        started = False

        def receive(event: Event) -> None:
            nonlocal started
            if not self._is_for_us(event):
                return
            new, started = not started, True
            self._busy += first
            try:
                try:
                    if new:
                        receiver(self._start)
                finally:
                    receiver(event)
            finally:
                self._busy -= first
                if first and (event.kind is EventKind.STOP or not self._ends):
                    self.forget()
                    self.stopped.set()

        # Under the receiver's own name, which is reported when it raises or hangs.
        end = self._warden.subscribe(functools.update_wrapper(receive, receiver), every=self.interval)
        self._ends.append(end)
        return end

    def _is_for_us(self, event: Event) -> bool:
        if event.kind in (EventKind.START, EventKind.STOP):
            return event.value is self
        if event.monotonic > self.left:
            self.forget()  # it hung when it should have got STOP
        return self.joined <= event.monotonic <= self.left

    def forget(self) -> None:
        """Unsubscribe."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()
        if not self._busy:  # else it hangs, and this is done when it returns
            self._close()


class Shared:
    """A warden, and the members that take part."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources  # kept, so that their id stays theirs
        #: The registers of the warden's actions.
        self.emergency = Emergency()
        self.warden = Warden(sources(), interval=LONGEST, actions=(*self.emergency.actions, Mark()), clock=clock)
        self._clock = clock
        self._lock = Lock()  # never held while the warden starts, stops or delivers
        self._members: list[Member] = []
        _alive.add(self)

    def member(self, owner: object) -> Member | None:
        """Return the member of this owner; None where it takes no part. A child after fork has no members."""
        return next((each for each in self._members if each.owner is owner), None)

    def has(self, owner: object) -> bool:
        """True while this owner takes part."""
        return self.member(owner) is not None

    def join(self, member: Member) -> bool:
        """Send it START and a first sample, and go on; False where its owner takes part already.

        Raises :class:`RuntimeError` where the warden cannot start.
        """
        with self._lock:
            if self.has(member.owner):
                return False
            self._members = [*self._members, member]
        self._use_rules()
        member.enter(self.warden, self._clock)
        try:
            self._settle()
        except RuntimeError:
            self._remove(member.owner)
            member.forget()
            raise
        return True

    def leave(self, owner: object) -> bool:
        """Send it STOP as the last, and leave no thread behind the last member; False where it takes no part."""
        member = self._remove(owner)
        if member is None:
            return False
        member.left = self._clock.monotonic()
        wall = self._clock.wall()
        self.warden.publish(Event(kind=EventKind.STOP, wall=wall, monotonic=member.left, value=member))
        ours = threading.current_thread().name.startswith("memwarden-")  # then STOP comes when this call returns
        late = time.monotonic() + STOP_PATIENCE_SECONDS
        if self._members:
            if not ours:
                member.stopped.wait(STOP_PATIENCE_SECONDS)
            self._use_rules()
        self._settle()
        if not self.warden.running:
            self.emergency.take_back()
        if not ours and not member.stopped.wait(max(0.1, late - time.monotonic())) and not self.warden.running:
            member.forget()  # it hangs, and no thread is left to deliver STOP later
        return True

    def _remove(self, owner: object) -> Member | None:
        with self._lock:
            for member in self._members:
                if member.owner is owner:
                    self._members = [each for each in self._members if each is not member]
                    return member
        return None

    def _use_rules(self) -> None:
        with self._lock:
            # Each once: members with the same rule share it.
            self.warden.use_rules(list(dict.fromkeys(rule for each in self._members for rule in each.rules)))

    def _settle(self) -> None:
        """Run the warden while it has members: those that join or leave meanwhile count in the next round."""
        while True:
            if self._members:
                self.warden.start()
            else:
                self.warden.stop()  # or wait until a stop on another thread is over
            if bool(self._members) is self.warden.running:
                return

    def abandon(self) -> None:
        """In a child after fork: all members stayed with the parent."""
        members, self._members = self._members, []
        for member in members:
            member.forget()


_alive: weakref.WeakSet[Shared] = weakref.WeakSet()
_all: weakref.WeakValueDictionary[tuple[int, int], Shared] = weakref.WeakValueDictionary()
_lock = Lock()


def shared(sources: Sources, clock: Clock) -> Shared:
    """Return the one for these sources and this clock."""
    key = id(sources), id(clock)  # each keeps its own, so an id cannot be another one's
    with _lock:
        found = _all.get(key)
        if found is None:
            found = _all[key] = Shared(sources, clock)
        return found


def _child() -> None:
    for each in list(_alive):
        each.abandon()


at_fork(COMPAT, child=_child)
