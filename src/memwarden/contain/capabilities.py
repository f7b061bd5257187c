"""What this machine grants for holding a command to a limit, tried and not guessed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from memwarden.contain.ceiling import Ceiling
from memwarden.contain.cgroup1 import Cgroup1Ceiling
from memwarden.contain.cgroup2 import Cgroup2Ceiling
from memwarden.contain.polling import PollingCeiling
from memwarden.errors import CeilingUnavailable, SettingsError
from memwarden.model.units import MIB

#: The ways, best first.
KINDS = ("cgroup2", "cgroup1", "polling")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One way, and whether it can be had; ``reason`` says why not."""

    kind: str
    granted: bool
    reason: str = ""
    #: What protects the tree when the monitor itself is killed.
    afterwards: str = ""


def obtain(
    limit: int,
    kind: str = "auto",
    *,
    cgroup: str | None = None,
    adopter: int | None = None,
    strangers: Collection[int] = (),
) -> tuple[Ceiling, list[Capability]]:
    """The best ceiling that can be had (or the one named), and why none of the better ones.

    Raises :class:`CeilingUnavailable` when the named one, or a group given by ``cgroup``, cannot be had.
    """
    if kind not in ("auto", *KINDS):
        raise SettingsError(f"ceiling {kind!r}: not known; choose auto, {', '.join(KINDS)}")
    makers: dict[str, Callable[[], Ceiling]] = {
        "cgroup2": lambda: Cgroup2Ceiling(limit, cgroup),
        "cgroup1": lambda: Cgroup1Ceiling(limit, cgroup),
        "polling": lambda: PollingCeiling(limit, adopter=adopter, strangers=strangers),
    }
    refused: list[Capability] = []
    for each in KINDS if kind == "auto" else (kind,):
        if each == "polling" and cgroup is not None and kind == "auto":
            break  # a group was asked for by name: falling back in silence would not be what was asked
        try:
            return makers[each](), refused
        except CeilingUnavailable as error:
            refused.append(Capability(kind=each, granted=False, reason=str(error)))
    raise CeilingUnavailable("; ".join(f"{grant.kind}: {grant.reason}" for grant in refused))


def survey(cgroup: str | None = None) -> list[Capability]:
    """Every way, each really made and taken away again."""
    found = []
    for kind in KINDS:
        try:
            ceiling, _ = obtain(64 * MIB, kind, cgroup=cgroup)
        except CeilingUnavailable as error:
            found.append(Capability(kind=kind, granted=False, reason=str(error).removeprefix(f"{kind}: ")))
            continue
        found.append(Capability(kind=kind, granted=True, afterwards=ceiling.afterwards))
        ceiling.close()
    return found
