"""What every warden can do: the actions that ship, and the registers that they work on."""

from __future__ import annotations

from memwarden.actions.caches import Caches
from memwarden.actions.gate import Gate
from memwarden.actions.standard import standard_actions
from memwarden.actions.targets import Targets
from memwarden.protocols import Action
from memwarden.readers.sources import own_probe, own_resident


class Remedies:
    """Made when first used: a watch without rules needs none of it."""

    def __init__(self) -> None:
        probe = own_probe()
        resident = own_resident()
        self.targets, self.caches, self.gate = Targets(probe), Caches(resident=resident), Gate()
        standard = standard_actions(self.targets, probe, self.caches, self.gate, resident)
        self.actions: dict[str, Action] = {action.name: action for action in standard}
