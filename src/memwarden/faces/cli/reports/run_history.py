"""History of a run: its peak, its levels, and the points of the chart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from memwarden.contain.own_cgroup import PARENT
from memwarden.faces.cli.live.target import Adapted
from memwarden.model.events import Event, EventKind
from memwarden.model.exits import Evidence
from memwarden.model.facts import ProcessMemory, TreeMemory
from memwarden.model.limits import Constraint, Limit
from memwarden.model.verdicts import Assessment, PressureLevel
from memwarden.protocols import Reader

#: Points kept for the chart; when they are twice as many, neighbours are joined (the larger stays).
_POINTS = 240


class Groups(Adapted):
    """Reader of the control groups of a command, while it runs.

    ``limit`` is the requested limit if our group is of version 2: there ``memory.max`` is higher by the parting
    reserve.
    """

    def __init__(self, reader: Reader, limit: Limit | None = None) -> None:
        super().__init__(reader, "gone", "absent")
        self._limit = limit

    def read(self) -> Mapping[str, Any]:
        facts = super().read()
        groups = facts.get("cgroups")
        if self._limit is None or not groups or f"/{PARENT}/run-" not in groups[0].path:
            return facts
        return {**facts, "cgroups": (groups[0]._replace(limit=self._limit.bytes), *groups[1:])}


class RunHistory(Adapted):
    """Reads the tree through ``reader`` at every sample (not only the recorded ones), and keeps a summary.

    It is one of the warden's readers, and subscribes to its events.
    """

    def __init__(self, reader: Reader, monotonic: Callable[[], float]) -> None:
        super().__init__(reader, "gone", "absent")
        self._monotonic = monotonic
        self.start = monotonic()
        self.peak = 0
        self.peak_tree: TreeMemory | None = None
        self.points: list[tuple[float, int]] = [(0.0, 0)]
        self.levels: list[tuple[float, Assessment]] = []
        self.troubles: list[str] = []
        self.processes: set[Any] = set()

    def read(self) -> Mapping[str, Any]:
        facts = super().read()
        if "tree" not in facts:
            return facts
        tree: TreeMemory = facts["tree"]
        total = tree.total
        self.processes.update(tree.keys)
        if total > self.peak:
            self.peak, self.peak_tree = total, tree
        self.mark(self._monotonic(), total)
        return facts

    def receive(self, event: Event) -> None:
        """Store an event of the warden, on its worker thread."""
        if event.kind is EventKind.LEVEL and isinstance(event.value, Assessment):
            self.levels.append((event.monotonic - self.start, event.value))
        elif event.kind is EventKind.TROUBLE:
            self.troubles.append(event.message)

    def reached(self, evidence: Evidence, limit: Limit) -> None:
        """Add the moment at the limit, which falls between two samples, as a CRITICAL one."""
        self.mark(evidence.monotonic, evidence.used)
        if self.levels and self.levels[-1][1].level is PressureLevel.CRITICAL:
            return
        since = evidence.monotonic
        binding = Constraint(limit, evidence.used)
        critical = Assessment(PressureLevel.CRITICAL, PressureLevel.CRITICAL, binding, limit, 0, since)
        self.levels.append((since - self.start, critical))

    def mark(self, monotonic: float, used: int) -> None:
        """Add a point to the chart."""
        self.points.append((max(0.0, monotonic - self.start), used))
        if len(self.points) >= 2 * _POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [max(pair, key=lambda point: point[1]) for pair in pairs]

    def largest(self, most: int = 3) -> list[ProcessMemory]:
        """Return the members that used most at the peak."""
        return [] if self.peak_tree is None else self.peak_tree.rows()[:most]
