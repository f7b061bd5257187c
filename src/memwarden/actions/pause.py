"""The action that pauses registered non-essential processes until the rule is over."""

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
    """Pauses the newest running non-essential target with its tree: one for each decision.

    It frees no memory: a paused process keeps its memory and takes no more. ``undo`` resumes what was paused for that
    rule, ``close`` everything. When this process is killed, a helper shell resumes it; without a shell nothing is
    paused (:class:`ActionFailed`). A process that another one had stopped stays stopped.
    """

    name = "pause"
    harms = True
    #: A paused process keeps its memory: it is resumed after a rule's ``hold`` at the latest.
    brief = True

    def __init__(self, targets: Targets, probe: IdentityProbe, *, patience: float = FREEZE_SECONDS) -> None:
        self._targets, self._probe, self._patience = targets, probe, patience
        self._lock = threading.Lock()
        self._paused: dict[ProcessKey, tuple[Target, str, SuspendedTree]] = {}
        reset_after_fork(self)

    def rehearse(self, decision: Decision) -> Outcome:
        """Name the target without pausing it."""
        for target in self._candidates(decision):
            if not self._probe.stopped(target.key):
                message = f"would pause {target}{self._targets.tree(target).others()}"
                return Outcome(decision=decision, done=False, message=message)
        return self._nothing(decision)

    def run(self, decision: Decision) -> Outcome:
        if decision.dry_run:
            return self.rehearse(decision)
        start = time.monotonic()
        with self._lock:
            for target in self._candidates(decision):
                try:
                    message = self._pause(target, decision)
                except TargetChanged:
                    continue  # it has just exited
                if message:
                    took = time.monotonic() - start
                    return Outcome(decision=decision, done=True, message=message, seconds=took)
        return self._nothing(decision)

    def undo(self, decision: Decision) -> Outcome:
        """Resume what it paused for this rule."""
        resumed = self._resume(decision.rule)
        message = f"resumed {', '.join(map(str, resumed))}" if resumed else "nothing is paused for this rule"
        return Outcome(decision=decision, done=bool(resumed), message=message)

    def close(self) -> None:
        """Resume everything."""
        self._resume(None)

    def _candidates(self, decision: Decision) -> list[Target]:
        return self._targets.expendable(decision, without=self._paused)

    def _nothing(self, decision: Decision) -> Outcome:
        message = "nothing to pause: no registered non-essential process runs"
        return Outcome(decision=decision, done=False, message=message)

    def _pause(self, target: Target, decision: Decision) -> str:
        """Pause it; return the message, empty if it was stopped before."""
        if sys.platform != "linux":
            raise ActionFailed(f"{target} is not paused: on {sys.platform} it would stay paused if we are killed")
        tree = self._targets.tree(target)
        suspended = SuspendedTree(tree, self._probe)
        try:
            if not suspended.guarded:
                raise ActionFailed(f"{target} is not paused: there is no /bin/sh to resume it if we are killed")
            complete = suspended.freeze(self._patience)
            if not suspended.stopped and tree.refused:
                raise ActionFailed(f"{target} cannot be paused: {next(iter(tree.refused.values()))}")
        except BaseException:
            suspended.thaw()
            raise
        if not suspended.stopped:
            suspended.thaw()
            return ""
        self._paused[target.key] = target, decision.rule, suspended
        return f"paused {target}{tree.others()}" + ("" if complete else "; not all of it has stopped yet")

    def _resume(self, rule: str | None) -> list[Target]:
        with self._lock:
            chosen = [key for key, (_, owner, _) in self._paused.items() if rule in (None, owner)]
            resumed = []
            for key in reversed(chosen):
                target, _, suspended = self._paused.pop(key)
                suspended.thaw()
                resumed.append(target)
            return resumed

    def after_fork(self) -> None:
        """In a child: the parent resumes what it paused."""
        self._lock = threading.Lock()
        self._paused = {}
