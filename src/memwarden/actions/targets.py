"""The processes that may be ended or paused: only those that somebody registered, by pid and start time."""

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
    """A registered process; one that is ``essential`` is watched and never ended."""

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
        """Register the process that has this pid *now*. Essential unless it is said otherwise.

        Raises :class:`ReadError` when there is none, :class:`ActionFailed` for the own process and those it
        descends from: nobody ends itself by accident.
        """
        key = self._probe.key_of(pid)
        target = Target(key=key, name=name, essential=essential)
        if not essential:
            self.family(target)
        with self._lock:
            self._targets[key] = target
        return target

    def untrack_process(self, pid: int) -> None:
        """Forget it; nothing happens when it is not registered."""
        with self._lock:
            self._targets = {key: target for key, target in self._targets.items() if key.pid != pid}

    def living(self) -> list[Target]:
        """Those that still are who they were; the others are forgotten."""
        with self._lock:
            known = list(self._targets.values())
        living = [target for target in known if self._probe.alive(target.key)]
        with self._lock:
            for target in known:
                if target not in living and self._targets.get(target.key) is target:
                    del self._targets[target.key]
        return living

    def expendable(self, decision: Decision, without: Collection[ProcessKey] = ()) -> list[Target]:
        """Those that may be ended for this decision, the newest first: it may name the one that it means."""
        return [
            target
            for target in reversed(self.living())
            if not target.essential and target.key not in without and decision.target in (None, target.key)
        ]

    def family(self, target: Target) -> ProcessTree:
        """A target and what it started, without what is registered as essential.

        Raises :class:`TargetChanged` when it is gone, :class:`ActionFailed` when this process is of the family.
        """
        with self._lock:
            spared = {each.key for each in self._targets.values() if each.essential}
        own = self._probe.own()
        try:
            family = ProcessTree(target.key, self._probe, spared - {target.key, own})
        except TargetChanged:
            raise TargetChanged(f"{target} is gone, or another process now") from None
        if own in family.members:
            raise ActionFailed(f"{target} is this process, or one that it descends from; it cannot be non-essential")
        return family

    def after_fork(self) -> None:
        """In a child: the lock may be held by a thread of the parent."""
        self._lock = threading.Lock()
