"""Ending registered processes that are not essential: gently, then firmly, the whole tree of each."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable

from memwarden.actions.signals import KILL, send
from memwarden.actions.targets import Target, Targets
from memwarden.errors import ActionFailed, TargetChanged
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.facts import ProcessKey
from memwarden.protocols import IdentityProbe

GRACE_SECONDS = 5.0
_KILL_SECONDS = 5.0


class Terminate:
    """Ends the newest non-essential target, one for each decision, so that a rule can re-measure in between.

    ``dry_run`` only says whom it would end. The outcome names whom and how; it is not ``done`` when there was
    nobody to end.
    """

    name = "terminate"

    def __init__(
        self,
        targets: Targets,
        probe: IdentityProbe,
        *,
        grace: float = GRACE_SECONDS,
        dry_run: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._targets, self._probe = targets, probe
        self._grace, self._dry_run, self._pause = grace, dry_run, pause

    def run(self, decision: Decision) -> Outcome:
        candidates = [target for target in self._targets.living() if not target.essential]
        if not candidates:
            return Outcome(
                decision=decision, done=False, message="nobody to end: no non-essential process is registered"
            )
        target = candidates[-1]
        who = f"{target.name} (pid {target.key.pid})"
        if self._dry_run:
            return Outcome(decision=decision, done=False, message=f"dry run: would end {who} and its children")
        begun = time.monotonic()
        how = self._end(target)
        return Outcome(decision=decision, done=True, message=f"ended {who} by {how}", seconds=time.monotonic() - begun)

    def _end(self, target: Target) -> str:
        """Raises :class:`TargetChanged` when it is gone, :class:`ActionFailed` when it cannot be ended."""
        members = self._probe.tree(target.key)
        if not members:
            raise TargetChanged(f"{target.name} (pid {target.key.pid}) is gone, or another process now")
        self._signal(members, signal.SIGTERM)
        if self._gone(members, self._grace):
            return "SIGTERM"
        # Who was forked meanwhile descends from one of those that were there.
        for key in list(members):
            members += [each for each in self._probe.tree(key) if each not in members]
        self._signal(members, KILL)
        if not self._gone(members, _KILL_SECONDS):
            raise ActionFailed(f"{target.name} (pid {target.key.pid}) does not end, not even by SIGKILL")
        return "SIGKILL"

    def _signal(self, members: list[ProcessKey], number: int) -> None:
        for key in members:
            with contextlib.suppress(ActionFailed):  # gone meanwhile, or not ours to signal: then it stays and is told
                send(key, number, self._probe)

    def _gone(self, members: list[ProcessKey], patience: float) -> bool:
        until = time.monotonic() + patience
        while any(self._probe.alive(key) for key in members):
            if time.monotonic() >= until:
                return False
            self._pause(0.01)
        return True
