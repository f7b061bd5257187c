"""One warden for all monitors of a process: each subscribes with its own interval, and the last to leave stops it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from memwarden.compat.support.locks import Lock
from memwarden.compat.support.readings import Sources
from memwarden.engine.clock import SystemClock
from memwarden.engine.subscription import Receiver
from memwarden.engine.warden import STOP_PATIENCE_SECONDS, Warden
from memwarden.model.decisions import Decision, Outcome
from memwarden.policy.rules import Rule
from memwarden.process.fork_hooks import COMPAT, at_fork
from memwarden.protocols import Clock

#: The clock of monitors that are given none.
SYSTEM_CLOCK = SystemClock()
#: Longer than any monitor's: a warden without subscriptions is stopped anyway.
LONGEST = "30d"


class Mark:
    """An action that does nothing: the decision is all that is wanted."""

    name = "mark"
    harms = False

    def run(self, decision: Decision) -> Outcome:
        return Outcome(decision=decision, done=True, message=decision.reason)


class _Member(NamedTuple):
    """A monitor that takes part."""

    owner: object
    interval: float | str
    rules: Sequence[Rule]
    #: Called when it left.
    stop: Callable[[], object]
    #: End its subscriptions.
    ends: list[Callable[[], None]]


class Shared:
    """A warden, and the monitors that take part, from ``join`` to ``leave``."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources, self._clock = sources, clock  # kept, so that no other object gets their ids
        self.warden = Warden(sources(), interval=LONGEST, actions=[Mark()], clock=clock)
        self._lock = Lock()  # never held while the warden starts, stops or delivers
        self._members: list[_Member] = []
        _alive.add(self)

    def _member(self, owner: object) -> _Member | None:
        return next((each for each in self._members if each.owner is owner), None)

    def has(self, owner: object) -> bool:
        """True while this owner takes part. A child after fork has no members."""
        return self._member(owner) is not None

    def join(
        self,
        owner: object,
        interval: float | str,
        receivers: Sequence[Receiver],
        rules: Sequence[Rule] = (),
        stop: Callable[[], object] = lambda: None,
    ) -> bool:
        """Send the receivers a sample now and each ``interval`` seconds, and every other event; follow ``rules``.

        ``stop`` is called when the owner has left. Returns False where it takes part already. Raises
        :class:`RuntimeError` where the warden cannot start.
        """
        with self._lock:
            if self.has(owner):
                return False
            self._members = [*self._members, _Member(owner, interval, rules, stop, [])]
        self._use_rules()
        for receiver in receivers:
            self.add(owner, receiver)
        try:
            self._settle()
        except RuntimeError:
            self._end(self._remove(owner))
            raise
        return True

    def add(self, owner: object, receiver: Receiver) -> Callable[[], None]:
        """Send one more receiver the same, where the owner takes part; the result ends that."""
        member = self._member(owner)
        if member is None:
            return lambda: None
        end = self.warden.subscribe(receiver, every=member.interval)
        member.ends.append(end)
        return end

    def leave(self, owner: object) -> bool:
        """Deliver what is due, and leave no thread behind the last member; False where the owner takes no part."""
        member = self._remove(owner)
        if member is None:
            return False
        if self._members:
            self.warden.flush(STOP_PATIENCE_SECONDS)
            self._use_rules()
        self._settle()
        self._end(member)
        return True

    def _remove(self, owner: object) -> _Member | None:
        with self._lock:
            member = self._member(owner)
            self._members = [each for each in self._members if each is not member]
            return member

    @staticmethod
    def _end(member: _Member | None) -> None:
        if member is not None:
            for end in member.ends:
                end()
            member.stop()

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
            for end in member.ends:
                end()


_alive: weakref.WeakSet[Shared] = weakref.WeakSet()
_all: weakref.WeakValueDictionary[tuple[int, int], Shared] = weakref.WeakValueDictionary()
_lock = Lock()


def shared(sources: Sources, clock: Clock) -> Shared:
    """Return the one for these sources and this clock."""
    key = id(sources), id(clock)
    with _lock:
        found = _all.get(key)
        if found is None:
            found = _all[key] = Shared(sources, clock)
        return found


def _child() -> None:
    for each in list(_alive):
        each.abandon()


at_fork(COMPAT, child=_child)
