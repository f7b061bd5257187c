"""One warden for all guards of a process: it looks while any of them is on, however many there are.

What it is for: the peak between two checkpoints. It looks
once a second, and more often the nearer a guard is to its budget, as the warden's pace has it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from memwarden.admission.ledger.headroom import HeadroomReading, SystemHeadroom
from memwarden.assess.pressure import bare_level
from memwarden.engine.warden import Warden
from memwarden.errors import ReadError
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.protocols import Clock
from memwarden.readers.factory import identity_probe

if TYPE_CHECKING:
    from memwarden.admission.ledger.headroom import Headroom

#: Seconds between two looks while every guard is far from its budget.
INTERVAL = 1.0
#: How long another thread's look at the surroundings is waited for.
PATIENCE_SECONDS = 0.1


class Watched(Protocol):
    """What the overseer looks after."""

    name: str
    limit: int

    def glance(self) -> int:
        """Bytes taken now, as an upper bound; on the thread that looks."""
        ...


class GuardMonitor:
    """Looks after guards from :meth:`join` to :meth:`leave`. Safe to use from any thread; nobody's in a child.

    Both may be called in the midst of each other: a generator that holds a guard may be collected at any place. So
    there is no lock: those who are looked after are put and taken by one operation each, and only the outermost call
    of a thread sees to the warden.
    """

    name = "guards"

    def __init__(self, clock: Clock | None = None) -> None:
        self._watched: dict[int, Watched] = {}
        self._settling: set[int] = set()
        self._found: Constraint | None = None
        self.warden = Warden([self], detector=self, interval=INTERVAL, clock=clock, wakeups=False)
        reset_after_fork(self)

    def join(self, watched: Watched) -> None:
        """Look after it. Where no thread can be started it is not looked after, and its checkpoints do what they do."""
        self._watched[id(watched)] = watched
        self._settle()

    def leave(self, watched: Watched) -> None:
        """Look after it no more; the last one takes the threads along."""
        self._watched.pop(id(watched), None)
        if not threading.current_thread().name.startswith("memwarden-"):  # it may hold a lock: its next look will do
            self._settle()

    def _settle(self) -> None:
        """Run while anybody is there; whoever comes or goes meanwhile is seen in the next round."""
        me = threading.get_ident()
        if me in self._settling:
            return
        self._settling.add(me)
        try:
            while True:
                if self._watched:
                    self.warden.start()
                else:
                    self.warden.stop()
                if bool(self._watched) is self.warden.running:
                    return
        except RuntimeError:  # no more threads, or the interpreter is ending
            return
        finally:
            self._settling.discard(me)

    # --- as the warden's reader and detector ---------------------------------------------------------

    def read(self) -> Mapping[str, Any]:
        """Look at each guard."""
        nearest = None
        if not self._watched:
            self._settle()
        for watched in list(self._watched.values()):
            try:
                taken = watched.glance()
            except ReadError:
                continue
            found = Constraint(Limit(watched.limit, f"guard {watched.name}".rstrip()), taken)
            if nearest is None or found.headroom < nearest.headroom:
                nearest = found
        self._found = nearest
        return {}

    def assess(self, sample: Sample) -> Assessment:
        """How near the nearest guard is to its budget."""
        found = self._found
        if found is None:
            return Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, sample.monotonic)
        level = bare_level(found.ratio)
        return Assessment(level, level, found, found.limit, max(0, found.headroom), sample.monotonic)

    def close(self) -> None:
        """Nothing is kept here."""

    def after_fork(self) -> None:
        """In a child: everybody stayed with the parent."""
        self._watched, self._settling = {}, set()


class GuardContext:
    """What all guards of a process look through: the overseer, and what container and machine leave."""

    def __init__(self, surroundings: Headroom | None = None, overseer: GuardMonitor | None = None) -> None:
        if surroundings is None:
            surroundings = SystemHeadroom(identity_probe())
        self.overseer = GuardMonitor() if overseer is None else overseer
        self._surroundings, self._lock = surroundings, threading.Lock()
        self._last = HeadroomReading(None, None)
        reset_after_fork(self)

    def look(self, quick: bool = False) -> HeadroomReading:
        """What is left now; from any thread. A quick look may find less than there is."""
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):  # a signal handler in the midst of a look
            return self._last
        try:
            self._last = self._surroundings.read(quick)
            return self._last
        finally:
            self._lock.release()

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread of the parent, and the descriptors are the parent's."""
        self._lock = threading.Lock()
        self._surroundings.after_fork()


_here: dict[str, GuardContext] = {}


def guard_context() -> GuardContext:
    """The one of this process."""
    found = _here.get("")
    return _here.setdefault("", GuardContext()) if found is None else found
