"""One warden for all guards of a process: it measures them while any is active.

It finds the peak between two checkpoints. It reads once a second, and more often the nearer a guard is to its budget.
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

#: Seconds between two readings while every guard is far from its budget.
INTERVAL = 1.0
#: Seconds to wait for another thread's reading of the headroom.
PATIENCE_SECONDS = 0.1


class Monitored(Protocol):
    """A guarded block."""

    name: str
    limit: int

    def measure(self) -> int:
        """Return the bytes taken now, as an upper bound; called on the sampling thread."""
        ...


class GuardMonitor:
    """Measures guards from :meth:`add` to :meth:`remove`. Thread-safe; empty in a child process.

    Either method may interrupt the other on the same thread: a generator that holds a guard may be collected at any
    point. So there is no lock: each change is one operation, and only the outermost call of a thread starts or stops
    the warden.
    """

    name = "guards"

    def __init__(self, clock: Clock | None = None) -> None:
        self._guards: dict[int, Monitored] = {}
        self._settling: set[int] = set()
        self._nearest: Constraint | None = None
        self.warden = Warden([self], detector=self, interval=INTERVAL, clock=clock, wakeups=False)
        reset_after_fork(self)

    def add(self, guard: Monitored) -> None:
        """Measure a guard. Where no thread can be started it is not measured between its checkpoints."""
        self._guards[id(guard)] = guard
        self._settle()

    def remove(self, guard: Monitored) -> None:
        """Stop measuring a guard; the last one stops the threads."""
        self._guards.pop(id(guard), None)
        # A finalizer on one of our own threads, which may hold a lock: the next reading settles.
        if not threading.current_thread().name.startswith("memwarden-"):
            self._settle()

    def _settle(self) -> None:
        """Start or stop the warden until it matches the guards, which other threads change meanwhile."""
        me = threading.get_ident()
        if me in self._settling:
            return
        self._settling.add(me)
        try:
            while bool(self._guards) is not self.warden.running:
                if self._guards:
                    self.warden.start()
                else:
                    self.warden.stop()
        except RuntimeError:  # no more threads, or the interpreter exits
            return
        finally:
            self._settling.discard(me)

    # --- as the warden's reader and detector ---------------------------------------------------------

    def read(self) -> Mapping[str, Any]:
        """Measure each guard."""
        nearest = None
        if not self._guards:
            self._settle()
        for guard in list(self._guards.values()):
            try:
                used = guard.measure()
            except ReadError:
                continue
            found = Constraint(Limit(guard.limit, f"guard {guard.name}".rstrip()), used)
            if nearest is None or found.headroom < nearest.headroom:
                nearest = found
        self._nearest = nearest
        return {}

    def assess(self, sample: Sample) -> Assessment:
        """Return the pressure level of the guard that is nearest to its budget."""
        found = self._nearest
        if found is None:
            return Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, sample.monotonic)
        level = bare_level(found.ratio)
        return Assessment(level, level, found, found.limit, max(0, found.headroom), sample.monotonic)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def after_fork(self) -> None:
        """Forget the parent's guards in a child."""
        self._guards, self._settling = {}, set()


class GuardContext:
    """Shared by all guards of a process: their monitor, and the headroom of container and machine."""

    def __init__(self, headroom: Headroom | None = None, monitor: GuardMonitor | None = None) -> None:
        self.monitor = GuardMonitor() if monitor is None else monitor
        self._source = SystemHeadroom(identity_probe()) if headroom is None else headroom
        self._lock = threading.Lock()
        self._last = HeadroomReading(None, None)
        reset_after_fork(self)

    def headroom(self, quick: bool = False) -> HeadroomReading:
        """Return the headroom now; from any thread. A quick reading may find less than there is."""
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):  # a signal handler that interrupted a reading
            return self._last
        try:
            self._last = self._source.read(quick)
            return self._last
        finally:
            self._lock.release()

    def after_fork(self) -> None:
        """Renew the lock and the descriptors in a child."""
        self._lock = threading.Lock()
        self._source.after_fork()


_shared: dict[str, GuardContext] = {}


def guard_context() -> GuardContext:
    """Return the context of this process."""
    return _shared.get("") or _shared.setdefault("", GuardContext())  # atomic: two threads get the same one
