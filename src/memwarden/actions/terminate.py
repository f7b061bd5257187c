"""Ending registered processes that are not essential: gently, then firmly, the whole tree of each."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from memwarden.actions.suspend import SuspendedTree
from memwarden.actions.targets import Target, Targets
from memwarden.errors import ActionFailed, TargetChanged
from memwarden.model.decisions import Decision, Outcome
from memwarden.process.process_tree import ProcessTree
from memwarden.process.signals import CONTINUE, KILL
from memwarden.protocols import IdentityProbe

GRACE_SECONDS = 5.0
_KILL_SECONDS = 5.0


class Terminate:
    """Ends the newest non-essential target, one for each decision, so that a rule can re-measure in between.

    The target and what it started is stopped first, so that all of it is found; then it gets SIGTERM and runs on
    for ``grace`` seconds at most; then it is stopped again and killed. The outcome names whom and how; it is not
    ``done`` when there was nobody to end. Raises :class:`ActionFailed` when somebody cannot be ended, and
    :class:`TargetChanged` when the target is gone. What had left the tree before (a daemon) and what is
    registered as essential is not touched.
    """

    name = "terminate"
    harms = True

    def __init__(
        self,
        targets: Targets,
        probe: IdentityProbe,
        *,
        grace: float = GRACE_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._targets, self._probe, self._grace, self._pause = targets, probe, grace, pause

    def rehearse(self, decision: Decision) -> Outcome:
        """Says whom it would end."""
        candidates = self._targets.expendable(decision)
        if not candidates:
            return self._nobody(decision)
        family = self._targets.family(candidates[0])
        message = f"would end {candidates[0]}{family.others()}"
        return Outcome(decision=decision, done=False, message=message)

    def run(self, decision: Decision) -> Outcome:
        if decision.dry_run:
            return self.rehearse(decision)
        candidates = self._targets.expendable(decision)
        if not candidates:
            return self._nobody(decision)
        begun = time.monotonic()
        message = self._end(candidates[0])
        return Outcome(decision=decision, done=True, message=message, seconds=time.monotonic() - begun)

    def _nobody(self, decision: Decision) -> Outcome:
        message = "nobody to end: no non-essential process is registered"
        return Outcome(decision=decision, done=False, message=message)

    def _end(self, target: Target) -> str:
        family = self._targets.family(target)
        standstill = SuspendedTree(family, self._probe)
        try:
            standstill.freeze(pause=self._pause)
            reached = family.signal(signal.SIGTERM, family.members)
        finally:
            standstill.thaw()
        if not reached:
            if family.refused:
                raise ActionFailed(f"{target} cannot be ended: {next(iter(family.refused.values()))}")
            raise TargetChanged(f"{target} has ended by itself")
        # Those whom somebody else had stopped, too: who stands still cannot answer.
        if CONTINUE is not None:
            family.signal(CONTINUE, family.members)
        if self._gone(family, self._grace):
            return f"ended {target}{family.others()} by SIGTERM"
        until = time.monotonic() + _KILL_SECONDS
        while family.alive() and time.monotonic() < until:
            standstill = SuspendedTree(family, self._probe)
            try:
                standstill.freeze(pause=self._pause)
                family.signal(KILL, family.members)
            finally:
                standstill.thaw()
            self._gone(family, 0.5)
        if left := family.alive():
            why = "; ".join(family.refused[key] for key in left if key in family.refused)
            raise ActionFailed(f"{target} does not end, not even by SIGKILL: {why or f'pid {left[0].pid} still runs'}")
        return f"ended {target}{family.others()} by SIGKILL"

    def _gone(self, family: ProcessTree, patience: float) -> bool:
        """Wait until no member is left; what they fork meanwhile belongs to them."""
        until, nap = time.monotonic() + patience, 0.001
        while family.grow() or family.alive():
            if time.monotonic() >= until:
                return False
            self._pause(nap)
            nap = min(nap * 1.5, 0.020)
        return True
