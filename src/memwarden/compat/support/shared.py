"""One warden for all monitors of a process: one thread that looks, and each monitor gets samples at its own interval.

The warden runs while anybody is there, and looks at the least interval that anybody asks for. Whoever asks for
a longer one gets every so many-th sample: never later than asked by more than a quarter of the least interval,
sometimes earlier. Alone, a monitor gets exactly what it asks for.
"""

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

#: The clock of everybody who brings none.
SYSTEM_CLOCK = SystemClock()
#: A sample so much of the least interval before its time is taken for the one that is due.
EARLY = 0.75

Receiver = Callable[[Event], object]


class Mark:
    """An action that does nothing: the decision is all that is wanted."""

    name = "mark"
    harms = False

    def run(self, decision: Decision) -> Outcome:
        return Outcome(decision=decision, done=True, message=decision.reason)


class Member:
    """What ``owner`` gets while it watches along, from ``join`` to ``leave``.

    ``receiver`` gets its own START, then a sample each ``interval`` seconds and every other event, and its own STOP
    last. ``beside`` get START and whatever follows it, also samples that are not due; each is set aside alone when it
    hangs. ``close`` is called in the end, twice at times. ``rules`` are followed at each look meanwhile, also between
    the samples; what they decide is told to all.
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
        #: When the next sample is due, on the monotonic clock.
        self.due = -math.inf
        #: When it left.
        self.left = math.inf
        self.receiver, self._beside, self._close, self.rules = receiver, beside, close, tuple(rules)
        self._shared: Shared
        self._begun = False
        self._busy = 0  # calls of the receiver that are under way
        self._ends: list[Callable[[], None]] = []
        #: Set when it was told STOP.
        self.gone = threading.Event()

    def enter(self, shared: Shared) -> None:
        """Begin to receive."""
        self._shared = shared
        self._subscribe(self.receiver, first=True)
        for each in self._beside:
            self._subscribe(each)

    def add(self, receiver: Receiver) -> Callable[[], None]:
        """One more beside; the result takes it off."""
        return self._subscribe(receiver)

    def _subscribe(self, receiver: Receiver, first: bool = False) -> Callable[[], None]:
        def receive(event: Event) -> None:
            if first and event.value is self and event.kind is EventKind.START:
                self._begun = True
            if not self._is_for_us(event, first):
                return
            self._busy += first
            try:
                receiver(event)
            finally:
                self._busy -= first
                if first and (event.kind is EventKind.STOP or not self._ends):
                    self.forget()
                    self.gone.set()

        # Under the receiver's own name, which is told when it raises or hangs.
        end = self._shared.warden.subscribe(functools.update_wrapper(receive, receiver))
        self._ends.append(end)
        return end

    def _is_for_us(self, event: Event, first: bool) -> bool:
        if event.kind in (EventKind.START, EventKind.STOP):
            return event.value is self
        if event.monotonic > self.left:
            self.forget()  # it hung when it was told STOP
        if not self._begun or event.monotonic > self.left:
            return False
        if first and event.kind is EventKind.SAMPLE:
            if event.monotonic < self.due - EARLY * self._shared.least:
                return False
            self.due = event.monotonic + self.interval
        return True

    def forget(self) -> None:
        """Receive no more."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()
        if not self._busy:  # else it hangs, and this is done when it comes back
            self._close()


class Shared:
    """A warden, and who watches along."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources  # held, so that their id stays theirs
        #: What the actions of the warden go by.
        self.emergency = Emergency()
        self.warden = Warden(sources(), actions=(*self.emergency.actions, Mark()), clock=clock)
        #: The least interval that anybody asks for.
        self.least = 1.0
        self._clock = clock
        self._lock = Lock()  # never held while the warden starts, stops or tells
        self._members: list[Member] = []
        _alive.add(self)

    def member(self, owner: object) -> Member | None:
        """What this one watches along by; None where it does not. In a child after fork nobody does."""
        return next((each for each in self._members if each.owner is owner), None)

    def has(self, owner: object) -> bool:
        """Whether this one watches along."""
        return self.member(owner) is not None

    def join(self, member: Member) -> bool:
        """Tell it START, look at once, and go on; False where its owner watches along already.

        Raises :class:`RuntimeError` where the warden cannot start.
        """
        with self._lock:
            if self.has(member.owner):
                return False
            self._members = [*self._members, member]
        member.enter(self)
        self._tell(EventKind.START, member)
        self._ask()
        try:
            self._settle()
        except RuntimeError:
            self._remove(member.owner)
            member.forget()
            raise
        return True

    def leave(self, owner: object) -> bool:
        """Tell it STOP, as the last, and leave no thread behind the last one; False where it does not watch."""
        member = self._remove(owner)
        if member is None:
            return False
        member.left = self._clock.monotonic()
        self._tell(EventKind.STOP, member)
        ours = threading.current_thread().name.startswith("memwarden-")  # then STOP comes when this call returns
        late = time.monotonic() + STOP_PATIENCE_SECONDS
        if self._members:
            if not ours:
                member.gone.wait(STOP_PATIENCE_SECONDS)
            # Not before: a sample that was due for this one alone is not to be taken for the others'.
            self._ask(first=max(member.left, min((each.due for each in self._members), default=0.0)))
        self._settle()
        if not self.warden.running:
            self.emergency.take_back()
        if not ours and not member.gone.wait(max(0.1, late - time.monotonic())) and not self.warden.running:
            member.forget()  # somebody hangs, and nobody is there any more who could tell STOP later
        return True

    def _remove(self, owner: object) -> Member | None:
        with self._lock:
            for member in self._members:
                if member.owner is owner:
                    self._members = [each for each in self._members if each is not member]
                    return member
        return None

    def _ask(self, first: float | None = None) -> None:
        with self._lock:
            self.least = min((each.interval for each in self._members), default=self.least)
            # Each once: who asks for the same rule shares it.
            self.warden.use_rules(list(dict.fromkeys(rule for each in self._members for rule in each.rules)))
        self.warden.ask(self.least, first)

    def _tell(self, kind: EventKind, member: Member) -> None:
        self.warden.tell(Event(kind=kind, wall=self._clock.wall(), monotonic=self._clock.monotonic(), value=member))

    def _settle(self) -> None:
        """Let the warden run while anybody is there: whoever came or went meanwhile is seen in the next round."""
        while True:
            if self._members:
                self.warden.start()
            else:
                self.warden.stop()  # or wait until somebody else's stop has come to its end
            if bool(self._members) is self.warden.running:
                return

    def renounce(self) -> None:
        """In a child after fork: everybody stayed with the parent."""
        members, self._members = self._members, []
        for member in members:
            member.forget()


_alive: weakref.WeakSet[Shared] = weakref.WeakSet()
_all: weakref.WeakValueDictionary[tuple[int, int], Shared] = weakref.WeakValueDictionary()
_lock = Lock()


def shared(sources: Sources, clock: Clock) -> Shared:
    """The one for these sources and this clock."""
    key = id(sources), id(clock)  # each holds its own, so an id cannot be somebody else's
    with _lock:
        found = _all.get(key)
        if found is None:
            found = _all[key] = Shared(sources, clock)
        return found


def _child() -> None:
    for each in list(_alive):
        each.renounce()


at_fork(COMPAT, child=_child)
