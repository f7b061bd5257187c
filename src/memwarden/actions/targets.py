"""The processes that may be terminated or paused: only registered ones, by pid and start time."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

from memwarden.errors import ActionFailed, TargetChanged
from memwarden.model.decisions import Decision
from memwarden.model.facts import ProcessKey
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.process.process_tree import ProcessTree
from memwarden.protocols import IdentityProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A registered process; an ``essential`` one is watched and never terminated."""

    key: ProcessKey
    name: str
    essential: bool

    def __str__(self) -> str:
        return f"{self.name} (pid {self.key.pid})"


class Targets:
    """A registry, safe to use from any thread and in a child after fork. The oldest registration comes first."""

    def __init__(self, probe: IdentityProbe) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._targets: dict[ProcessKey, Target] = {}
        reset_after_fork(self)

    def track_process(self, pid: int, name: str, *, essential: bool = True) -> Target:
        """Register the process that has this pid *now*.

        Raises :class:`ReadError` if there is none, and :class:`ActionFailed` if this process or one of its ancestors
        is registered as non-essential.
        """
        key = self._probe.key_of(pid)
        target = Target(key=key, name=name, essential=essential)
        if not essential:
            self.tree(target)
        with self._lock:
            self._targets[key] = target
        return target

    def untrack_process(self, pid: int) -> None:
        """Unregister it; do nothing if it is not registered."""
        with self._lock:
            self._targets = {key: target for key, target in self._targets.items() if key.pid != pid}

    def living(self) -> list[Target]:
        """Return the targets that still run, and unregister the others."""
        with self._lock:
            known = list(self._targets.values())
        gone = [target for target in known if not self._probe.alive(target.key)]
        with self._lock:
            self._targets = {key: target for key, target in self._targets.items() if target not in gone}
        return [target for target in known if target not in gone]

    def expendable(self, decision: Decision, without: Collection[ProcessKey] = ()) -> list[Target]:
        """Return the non-essential targets for this decision, newest first; a decision may name its target."""
        return [
            target
            for target in reversed(self.living())
            if not target.essential and target.key not in without and decision.target in (None, target.key)
        ]

    def tree(self, target: Target) -> ProcessTree:
        """Return a target's process tree, without what is registered as essential.

        Raises :class:`TargetChanged` if it is gone, :class:`ActionFailed` if this process belongs to the tree.
        """
        with self._lock:
            spared = {each.key for each in self._targets.values() if each.essential}
        own = self._probe.own()
        try:
            tree = ProcessTree(target.key, self._probe, spared - {target.key, own})
        except TargetChanged:
            raise TargetChanged(f"{target} is gone, or another process now") from None
        if own in tree.members:
            raise ActionFailed(f"{target} is this process or an ancestor of it; register it as essential")
        return tree

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread of the parent."""
        self._lock = threading.Lock()
