"""Pausing registered processes that are not essential, until the need is over."""

from __future__ import annotations

import sys
import threading
import time

from memwarden.actions.suspend import FREEZE_SECONDS, SuspendedTree
from memwarden.actions.targets import Target, Targets
from memwarden.errors import ActionFailed, TargetChanged
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.facts import ProcessKey
from memwarden.process.fork_hooks import reset_after_fork
from memwarden.protocols import IdentityProbe


class Pause:
    """Stops the newest non-essential target that runs, with all that it started: one for each decision.

    Nothing is given back by it: what is stopped keeps its memory and takes no more. ``undo`` lets run on what
    was stopped for that rule, ``close`` everybody. When this process is killed a shell does so: without one
    nobody is paused (:class:`ActionFailed`). Who was stopped by somebody else is left to them.
    """

    name = "pause"
    harms = True
    #: What stands still holds its memory: without relief it runs on after a rule's ``hold``.
    brief = True

    def __init__(self, targets: Targets, probe: IdentityProbe, *, patience: float = FREEZE_SECONDS) -> None:
        self._targets, self._probe, self._patience = targets, probe, patience
        self._lock = threading.Lock()
        self._paused: dict[ProcessKey, tuple[Target, str, SuspendedTree]] = {}
        reset_after_fork(self)

    def rehearse(self, decision: Decision) -> Outcome:
        """Says whom it would pause."""
        for target in self._candidates(decision):
            if not self._probe.stopped(target.key):
                message = f"would pause {target}{self._targets.family(target).others()}"
                return Outcome(decision=decision, done=False, message=message)
        return self._nobody(decision)

    def run(self, decision: Decision) -> Outcome:
        if decision.dry_run:
            return self.rehearse(decision)
        begun = time.monotonic()
        with self._lock:
            for target in self._candidates(decision):
                try:
                    message = self._pause(target, decision)
                except TargetChanged:
                    continue  # it has ended just now
                if message:
                    took = time.monotonic() - begun
                    return Outcome(decision=decision, done=True, message=message, seconds=took)
        return self._nobody(decision)

    def undo(self, decision: Decision) -> Outcome:
        """Let run on whom it paused for this rule."""
        resumed = self._resume(decision.rule)
        message = f"resumed {', '.join(map(str, resumed))}" if resumed else "nobody is paused for this rule"
        return Outcome(decision=decision, done=bool(resumed), message=message)

    def close(self) -> None:
        """Let everybody run on."""
        self._resume(None)

    def _candidates(self, decision: Decision) -> list[Target]:
        return self._targets.expendable(decision, without=self._paused)

    def _nobody(self, decision: Decision) -> Outcome:
        message = "nobody to pause: no non-essential process is registered that runs"
        return Outcome(decision=decision, done=False, message=message)

    def _pause(self, target: Target, decision: Decision) -> str:
        """What was done, in words; nothing where it stood still before."""
        family = self._targets.family(target)
        standstill = SuspendedTree(family, self._probe)
        still = False
        try:
            if sys.platform != "linux":
                raise ActionFailed(f"{target} is not paused: outside Linux nobody could let it run on after us")
            if not standstill.guarded:
                raise ActionFailed(f"{target} is not paused: there is no /bin/sh that would let it run on after us")
            still = standstill.freeze(self._patience)
            if standstill.stopped:
                self._paused[target.key] = target, decision.rule, standstill
        finally:
            if target.key not in self._paused:
                standstill.thaw()
        if target.key not in self._paused:
            if family.refused:
                raise ActionFailed(f"{target} cannot be paused: {next(iter(family.refused.values()))}")
            return ""
        return f"paused {target}{family.others()}" + ("" if still else "; not all of it stands still yet")

    def _resume(self, rule: str | None) -> list[Target]:
        with self._lock:
            chosen = [key for key, (_, owner, _) in self._paused.items() if rule in (None, owner)]
            resumed = []
            for key in reversed(chosen):
                target, _, standstill = self._paused.pop(key)
                standstill.thaw()
                resumed.append(target)
            return resumed

    def after_fork(self) -> None:
        """In a child: what the parent stopped is the parent's."""
        self._lock = threading.Lock()
        self._paused = {}
