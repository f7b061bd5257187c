"""The processes that may be ended: only those that somebody registered, by pid and start time."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from memwarden.errors import ActionFailed
from memwarden.model.facts import ProcessKey
from memwarden.protocols import IdentityProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A registered process; one that is ``essential`` is watched and never ended."""

    key: ProcessKey
    name: str
    essential: bool


class Targets:
    """A registry, safe to use from any thread. The oldest registration comes first."""

    def __init__(self, probe: IdentityProbe) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._targets: dict[ProcessKey, Target] = {}

    def track_process(self, pid: int, name: str, *, essential: bool = True) -> Target:
        """Register the process that has this pid *now*. Essential unless it is said otherwise.

        Raises :class:`ReadError` when there is none, :class:`ActionFailed` for the own process: nobody ends
        itself by accident.
        """
        key = self._probe.key_of(pid)
        if key == self._probe.own() and not essential:
            raise ActionFailed(f"{name} (pid {pid}) is this process; it cannot be non-essential to itself")
        target = Target(key=key, name=name, essential=essential)
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
            self._targets = {key: target for key, target in self._targets.items() if self._probe.alive(key)}
            return list(self._targets.values())
