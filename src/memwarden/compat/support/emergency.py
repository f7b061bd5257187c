"""What the pressure monitor does when memory is short, and to whom."""

from __future__ import annotations

from memwarden.actions.caches import Caches
from memwarden.actions.gate import Gate
from memwarden.actions.registry import standard_actions
from memwarden.actions.targets import Targets
from memwarden.policy.presets import emergency
from memwarden.policy.rules import Rule
from memwarden.readers.factory import identity_probe, rss_function
from memwarden.readers.linux.identity import ProcProbe

#: The levels of the old monitor and what each led to. Nobody is paused or ended below CRITICAL, and nobody at all
#: who was not registered as one that is not essential. The emergency goes by the bare figure that CRITICAL begins
#: at: a level is left half a minute after memory came back, and in that time nobody is to be ended any more.
RULES = (
    Rule(name="gentle collection", when="level >= MODERATE", then="collect"),
    Rule(name="aggressive cleanup", when="level >= HIGH", then=("collect", "trim", "caches")),
    emergency(),
)


class Emergency:
    """The registers that its actions go by: processes, caches, and the gate that new work passes."""

    def __init__(self, proc: str | None = None) -> None:
        probe = identity_probe() if proc is None else ProcProbe(proc)
        self.targets, self.caches, self.gate = Targets(probe), Caches(), Gate()
        self.actions = standard_actions(self.targets, probe, self.caches, self.gate, rss_function())

    def take_back(self) -> None:
        """Let run on who was paused, and open the gate: nobody watches any more."""
        for action in self.actions:
            if (close := getattr(action, "close", None)) is not None:
                close()
