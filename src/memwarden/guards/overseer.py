"""One warden for all guards of a process: it looks while any of them is on, however many there are.

What it is for: the peak between two checkpoints, and interrupting a block that comes to no checkpoint. It looks
once a second, and more often the nearer a guard is to its budget, as the warden's pace has it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memwarden.actions.forks import renew_after_fork
from memwarden.assess.pressure import bare_level
from memwarden.engine.warden import Warden
from memwarden.errors import ReadError
from memwarden.model.events import Event, EventKind
from memwarden.model.findings import Assessment, PressureLevel
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.protocols import Clock
from memwarden.readers.sources import own_probe

if TYPE_CHECKING:
    from memwarden.admission.surroundings import Look, Surroundings

#: Seconds between two looks while every guard is far from its budget.
INTERVAL = 1.0


class Watched:
    """What the overseer looks after."""

    name: str
    limit: int

    def glance(self) -> int:
        """Bytes taken now, as an upper bound; on the thread that looks."""
        raise NotImplementedError

    def overdrawn(self) -> None:
        """It was found over its budget; on the thread that calls back."""
        raise NotImplementedError


class Overseer:
    """Looks after guards from :meth:`join` to :meth:`leave`. Safe to use from any thread; nobody's in a child."""

    name = "guards"

    def __init__(self, clock: Clock | None = None) -> None:
        self._lock = threading.Lock()  # never held while the warden starts, stops or tells
        self._watched: tuple[Watched, ...] = ()
        self._found: Constraint | None = None
        self.warden = Warden([self], detector=self, interval=INTERVAL, clock=clock, wakeups=False)
        self.warden.subscribe(self._receive)
        renew_after_fork(self)

    def join(self, watched: Watched) -> None:
        """Look after it. Where no thread can be started it is not looked after, and its checkpoints do what they do."""
        with self._lock:
            self._watched = (*self._watched, watched)
        self._settle()

    def leave(self, watched: Watched) -> None:
        """Look after it no more; the last one takes the threads along."""
        with self._lock:
            self._watched = tuple(each for each in self._watched if each is not watched)
        self._settle()

    def _settle(self) -> None:
        """Run while anybody is there; whoever comes or goes meanwhile is seen in the next round."""
        while True:
            try:
                if self._watched:
                    self.warden.start()
                else:
                    self.warden.stop()
            except RuntimeError:  # no more threads, or the interpreter is ending
                return
            if bool(self._watched) is self.warden.running:
                return

    # --- as the warden's reader and detector ---------------------------------------------------------

    def read(self) -> Mapping[str, Any]:
        """Look at each guard."""
        nearest = None
        for watched in self._watched:
            try:
                taken = watched.glance()
            except ReadError:
                continue
            found = Constraint(Limit(watched.limit, f"guard {watched.name}".rstrip()), taken)
            if nearest is None or found.headroom < nearest.headroom:
                nearest = found
            if taken > watched.limit:
                self._tell(watched)
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

    def _tell(self, watched: Watched) -> None:
        self.warden.tell(Event(EventKind.DECISION, 0.0, 0.0, f"{watched.name} is over its budget", watched))

    def _receive(self, event: Event) -> None:
        if isinstance(event.value, Watched):
            event.value.overdrawn()

    def after_fork(self) -> None:
        """In a child: everybody stayed with the parent."""
        self._lock = threading.Lock()
        self._watched = ()


class Here:
    """What all guards of a process look through: the overseer, and what container and machine leave."""

    def __init__(self, surroundings: Surroundings | None = None, overseer: Overseer | None = None) -> None:
        if surroundings is None:
            from memwarden.admission.surroundings import SystemSurroundings

            surroundings = SystemSurroundings(own_probe())
        self.overseer = Overseer() if overseer is None else overseer
        self._surroundings, self._lock = surroundings, threading.Lock()
        renew_after_fork(self)

    def look(self, quick: bool = False) -> Look:
        """What is left now; from any thread. A quick look may find less than there is."""
        with self._lock:
            return self._surroundings.look(quick)

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread of the parent, and the descriptors are the parent's."""
        self._lock = threading.Lock()
        self._surroundings.after_fork()


_here: dict[str, Here] = {}


def here_now() -> Here:
    """The one of this process."""
    found = _here.get("")
    return _here.setdefault("", Here()) if found is None else found
