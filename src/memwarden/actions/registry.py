"""The built-in actions."""

from __future__ import annotations

from memwarden.actions.caches import Caches
from memwarden.actions.collect import Collect
from memwarden.actions.gate import Gate, StopAdmitting
from memwarden.actions.notify import Notify
from memwarden.actions.pause import Pause
from memwarden.actions.rss_delta import Resident
from memwarden.actions.targets import Targets
from memwarden.actions.terminate import Terminate
from memwarden.actions.trim import Trim
from memwarden.protocols import Action, IdentityProbe


def standard_actions(
    targets: Targets, probe: IdentityProbe, caches: Caches, gate: Gate, resident: Resident | None = None
) -> tuple[Action, ...]:
    """Return every built-in action, over these targets, caches and this gate, in the order of an emergency.

    ``resident`` returns the resident size of this process in bytes; caches have their own.
    """
    return (
        Notify(),
        StopAdmitting(gate),
        Collect(resident=resident),
        Trim(resident=resident),
        caches,
        Pause(targets, probe),
        Terminate(targets, probe),
    )
