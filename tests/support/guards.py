"""Scripted parts of guards: a tree of sizes, and the headroom of container and machine."""

from __future__ import annotations

from collections.abc import Callable

from memwarden.admission.ledger.headroom import HeadroomReading
from memwarden.guards.budget.guard_monitor import GuardContext
from memwarden.guards.budget.memory_guard import Guard
from memwarden.guards.budget.tree_usage import TreeUsage
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.model.limits import Constraint, Limit
from memwarden.model.units import GIB, MIB

OWN = ProcessKey(100, 1)


class Tree:
    """A tree whose members the test sets: pid -> (resident, shared) MiB. ``read`` follows ``on_read`` first."""

    name = "tree"

    def __init__(self, **_: object) -> None:
        self.sizes: dict[int, tuple[float, float]] = {OWN.pid: (50, 10)}
        self.on_read: Callable[[], object] = lambda: None
        self.closed = False

    def read(self) -> dict[str, TreeMemory]:
        self.on_read()
        keys = tuple(ProcessKey(pid, 1) for pid in self.sizes)
        rss = tuple(int(each[0] * MIB) for each in self.sizes.values())
        shared = tuple(int(each[1] * MIB) for each in self.sizes.values())
        return {"tree": TreeMemory(OWN, keys, ("python",) * len(keys), rss, shared)}

    def close(self) -> None:
        self.closed = True


class Left:
    """A headroom that the test sets, below a limit."""

    def __init__(self, headroom: int = 8 * GIB, limit: int = 16 * GIB) -> None:
        self.headroom, self.limit = headroom, limit

    def read(self, quick: bool = False) -> HeadroomReading:
        found = Constraint(Limit(self.limit, "cgroup /here"), self.limit - self.headroom)
        return HeadroomReading(found, found)

    def memory_of(self, process: ProcessKey) -> int | None:
        return None

    def keep_only(self, processes: object) -> None: ...

    def after_fork(self) -> None: ...


class NoMonitor:
    """Monitor without a thread that remembers the guards inside."""

    def __init__(self) -> None:
        self.inside: list[object] = []

    def add(self, watched: object) -> None:
        self.inside.append(watched)

    def remove(self, watched: object) -> None:
        self.inside = [each for each in self.inside if each is not watched]


class Scene:
    """Guards over one scripted process."""

    def __init__(self) -> None:
        self.tree, self.left, self.monitor, self.now = Tree(), Left(), NoMonitor(), 1000.0
        self.context = GuardContext(self.left, self.monitor)  # type: ignore[arg-type]
        self.parts: dict[int, float] = {}

    def usage(self) -> TreeUsage:
        return TreeUsage(
            self.tree,
            monotonic=lambda: self.now,
            proportional=lambda pid: int(self.parts.get(pid, self.tree.sizes[pid][0] - self.tree.sizes[pid][1]) * MIB),
        )

    def guard(self, limit: int | str | None = "100MiB", name: str = "load", **options: object) -> Guard:
        return Guard(
            limit,
            name,
            tree_usage=self.usage,
            context=self.context,
            monotonic=lambda: self.now,
            **options,  # type: ignore[arg-type]
        )

    def take(self, mib: float, pid: int = OWN.pid) -> None:
        """The process has so many MiB more of its own."""
        rss, shared = self.tree.sizes.get(pid, (0, 0))
        self.tree.sizes[pid] = rss + mib, shared
