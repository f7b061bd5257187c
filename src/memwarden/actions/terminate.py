"""The action that terminates registered non-essential processes with their trees."""

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
    """Terminates the newest non-essential target, one for each decision, so that a rule can sample in between.

    The target's tree is stopped first, so that all of it is found; then it gets SIGTERM and runs for at most
    ``grace`` seconds; then it is stopped again and killed. Without a target the outcome is not ``done``. Raises
    :class:`ActionFailed` if a process cannot be killed, and :class:`TargetChanged` if the target is gone. Processes
    that had left the tree (daemons) and those registered as essential are not touched.
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
        """Name the target without terminating it."""
        return self._act(decision, lambda target: f"would terminate {target}{self._targets.tree(target).others()}")

    def run(self, decision: Decision) -> Outcome:
        return self.rehearse(decision) if decision.dry_run else self._act(decision, self._terminate, done=True)

    def _act(self, decision: Decision, act: Callable[[Target], str], done: bool = False) -> Outcome:
        candidates = self._targets.expendable(decision)
        if not candidates:
            message = "nothing to terminate: no non-essential process is registered"
            return Outcome(decision=decision, done=False, message=message)
        start = time.monotonic()
        message = act(candidates[0])
        return Outcome(decision=decision, done=done, message=message, seconds=time.monotonic() - start if done else 0.0)

    def _signal(self, tree: ProcessTree, number: int) -> bool:
        """Signal the whole tree while it is stopped; return whether a member got the signal."""
        suspended = SuspendedTree(tree, self._probe)
        try:
            suspended.freeze(pause=self._pause)
            return bool(tree.signal(number, tree.members))
        finally:
            suspended.thaw()

    def _terminate(self, target: Target) -> str:
        tree = self._targets.tree(target)
        if not self._signal(tree, signal.SIGTERM):
            if tree.refused:
                raise ActionFailed(f"{target} cannot be terminated: {next(iter(tree.refused.values()))}")
            raise TargetChanged(f"{target} has exited by itself")
        # Also those that another process had stopped: a stopped process cannot handle SIGTERM.
        if CONTINUE is not None:
            tree.signal(CONTINUE, tree.members)
        if self._gone(tree, self._grace):
            return f"terminated {target}{tree.others()} by SIGTERM"
        until = time.monotonic() + _KILL_SECONDS
        while tree.alive() and time.monotonic() < until:
            self._signal(tree, KILL)
            self._gone(tree, 0.5)
        if left := tree.alive():
            why = "; ".join(tree.refused[key] for key in left if key in tree.refused)
            raise ActionFailed(f"{target} still runs after SIGKILL: {why or f'pid {left[0].pid} is not killed yet'}")
        return f"terminated {target}{tree.others()} by SIGKILL"

    def _gone(self, tree: ProcessTree, patience: float) -> bool:
        """Wait until no member is left, those that are forked meanwhile included."""
        until, nap = time.monotonic() + patience, 0.001
        while tree.grow() or tree.alive():
            if time.monotonic() >= until:
                return False
            self._pause(nap)
            nap = min(nap * 1.5, 0.020)
        return True
