"""Capabilities of this machine: ceilings and kernel features, each tried and not guessed from versions."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from memwarden.contain.ceiling import Ceiling
from memwarden.contain.cgroup1 import Cgroup1Ceiling
from memwarden.contain.cgroup2 import Cgroup2Ceiling
from memwarden.contain.polling import PollingCeiling
from memwarden.errors import CeilingUnavailable, ReadError, SettingsError
from memwarden.model.units import MIB
from memwarden.readers.linux.process import read_pss

#: Kinds of ceilings, best first.
KINDS = ("cgroup2", "cgroup1", "polling")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One kind of ceiling: whether it can be had, and the ``reason`` if not."""

    kind: str
    granted: bool
    reason: str = ""
    #: Protection of the tree after the monitor is killed, as a sentence.
    if_killed: str = ""


def obtain(
    limit: int,
    kind: str = "auto",
    *,
    cgroup: str | None = None,
    adopter: int | None = None,
) -> tuple[Ceiling, list[Capability]]:
    """Return the best ceiling that can be had (or the named one), and the better ones that cannot.

    Raises :class:`CeilingUnavailable` when the named one, or a group given by ``cgroup``, cannot be had.
    """
    if kind not in ("auto", *KINDS):
        raise SettingsError(f"ceiling {kind!r}: not known; choose auto, {', '.join(KINDS)}")
    makers: dict[str, Callable[[], Ceiling]] = {
        "cgroup2": lambda: Cgroup2Ceiling(limit, cgroup),
        "cgroup1": lambda: Cgroup1Ceiling(limit, cgroup),
        "polling": lambda: PollingCeiling(limit, adopter=adopter),
    }
    refused: list[Capability] = []
    for each in KINDS if kind == "auto" else (kind,):
        if each == "polling" and cgroup is not None and kind == "auto":
            break  # a group was asked for by name: no silent fallback
        try:
            return makers[each](), refused
        except CeilingUnavailable as error:
            refused.append(Capability(kind=each, granted=False, reason=str(error)))
    raise CeilingUnavailable("; ".join(f"{capability.kind}: {capability.reason}" for capability in refused))


def survey(cgroup: str | None = None) -> list[Capability]:
    """Create and remove a ceiling of each kind; return what could be had."""
    found = []
    for kind in KINDS:
        try:
            ceiling, _ = obtain(64 * MIB, kind, cgroup=cgroup)
        except CeilingUnavailable as error:
            found.append(Capability(kind=kind, granted=False, reason=str(error).removeprefix(f"{kind}: ")))
            continue
        found.append(Capability(kind=kind, granted=True, if_killed=ceiling.if_killed))
        ceiling.close()
    return found


class KernelFeature(NamedTuple):
    """One feature of the kernel or of Python; ``missing`` says why it is absent (empty: present)."""

    name: str
    missing: str
    #: Consequence of its absence.
    otherwise: str


def survey_kernel_features(proc: str = "/proc") -> list[KernelFeature]:
    """Try each feature."""
    rows: tuple[tuple[str, Callable[[], object], str], ...] = (
        (
            "process descriptors",
            lambda: os.close(os.pidfd_open(os.getpid())),
            "signals are checked by start time only (Linux 5.3 has them)",
        ),
        (
            "children lists",
            lambda: os.stat(f"{proc}/self/task/{os.getpid()}/children"),
            "trees are found by a slower scan",
        ),
        ("proportional sizes", lambda: read_pss(os.getpid(), proc), "shared pages count once for each process"),
        (
            "pressure stall information",
            lambda: os.stat(f"{proc}/pressure/memory"),
            "no stall times (Linux 4.20, psi=1)",
        ),
        ("death signal", lambda: importlib.import_module("ctypes"), "a command outlives a monitor that is killed"),
    )
    return [KernelFeature(name, _failure(probe), otherwise) for name, probe, otherwise in rows]


def _failure(probe: Callable[[], object]) -> str:
    try:
        probe()
    except (AttributeError, ImportError, OSError, ReadError) as error:
        return str(error)
    return ""
