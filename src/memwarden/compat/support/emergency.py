"""The actions of the pressure monitor when memory is short, and their targets."""

from __future__ import annotations

from memwarden.actions.caches import Caches
from memwarden.actions.gate import Gate
from memwarden.actions.registry import standard_actions
from memwarden.actions.targets import Targets
from memwarden.policy.presets import emergency
from memwarden.policy.rules import Rule
from memwarden.readers.factory import identity_probe, rss_function
from memwarden.readers.linux.identity import ProcProbe

#: The levels of the old monitor and the actions of each. No process is paused or terminated below CRITICAL, and none
#: that was not registered as non-essential. The emergency uses the percentage of CRITICAL without hysteresis: a level
#: is left half a minute after memory is free again, and in that time no process must be terminated.
RULES = (
    Rule(name="gentle collection", when="level >= MODERATE", then="collect"),
    Rule(name="aggressive cleanup", when="level >= HIGH", then=("collect", "trim", "caches")),
    emergency(),
)


class Emergency:
    """The registers that its actions use: processes, caches, and the gate for new work."""

    def __init__(self, proc: str | None = None) -> None:
        probe = identity_probe() if proc is None else ProcProbe(proc)
        self.targets, self.caches, self.gate = Targets(probe), Caches(), Gate()
        self.actions = standard_actions(self.targets, probe, self.caches, self.gate, rss_function())

    def take_back(self) -> None:
        """Resume what was paused, and open the gate: no monitor watches any more."""
        for action in self.actions:
            if (close := getattr(action, "close", None)) is not None:
                close()
