"""How near the effective limit is: LOW, MODERATE, HIGH, CRITICAL.

Edges: from 70 % MODERATE, from 80 % HIGH, above 90 % CRITICAL, of the constraint that is nearest to being
passed. :mod:`memwarden.assess.hysteresis` says when one is entered and left. How long all tasks wait for memory (PSI) has
levels of the same kind beside it.
"""

from __future__ import annotations

from functools import lru_cache

from memwarden.assess.hysteresis import USED, levels, stall_levels
from memwarden.model.facts import PsiStats
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel

__all__ = [
    "AT_ONCE_ABOVE",
    "CRITICAL_ABOVE",
    "HIGH_AT",
    "MODERATE_AT",
    "PressureDetector",
    "bare_level",
    "constraints",
    "levels",
]

MODERATE_AT, HIGH_AT, CRITICAL_ABOVE, AT_ONCE_ABOVE, *_ = USED
_LEVELS = tuple(PressureLevel)
#: Stalls are judged over so many seconds at least: the kernel's own mean of ten seconds tells them that much later.
_STALL_SECONDS = 2.0


def bare_level(ratio: float) -> PressureLevel:
    """The level that a share of the limit stands for, without memory."""
    return _LEVELS[USED.bare(ratio)]


def constraints(sample: Sample) -> list[Constraint]:
    """Every limit that the sample knows, with what counts against it."""
    found = []
    _, _, _, system, process, tree, cgroups, asked, _, gpus, *_ = sample
    if asked is not None and asked.bytes and (tree is not None or process is not None):
        found.append(Constraint(asked, sample.used or 0))
    for group in cgroups:
        limit = group.limit
        if limit:
            found.append(Constraint(_limit(limit, f"cgroup {group.path}"), group.working_set))
    if process is not None and process.vms_limit and process.vms is not None:
        found.append(Constraint(Limit(process.vms_limit, "rlimit address space"), process.vms))
    for gpu in gpus:
        if gpu.total:
            found.append(Constraint(Limit(gpu.total, f"gpu {gpu.number}"), gpu.used))
    if system is not None and system.total:
        total, available, *_ = system
        found.append(Constraint(_limit(total, "machine"), total - available))
    return found


#: The same limits come again at every look.
_limit = lru_cache(maxsize=64)(Limit)


class PressureDetector:
    """Judges samples in order. Time is the sample's own, so the same samples give the same verdicts."""

    def __init__(self) -> None:
        self._levels = levels()
        self._stalls = _Stalls()
        self._level = PressureLevel.LOW
        self._since = 0.0
        self._first = True

    def assess(self, sample: Sample) -> Assessment:
        """The verdict on the next sample. Where nothing could be read the last level stays."""
        found = _judge(sample, self._level, self._since)
        if sample.psi is not None:
            found = found._replace(stalls=self._stalls.see(sample.psi, sample.monotonic))
        if found.binding is None:
            return found._replace(since=sample.monotonic) if self._first else found
        level = _LEVELS[self._levels.see(sample.monotonic, found.binding.ratio)]
        if self._first or level is not self._level:
            self._level, self._since, self._first = level, sample.monotonic, False
            return found._replace(level=level, since=self._since)
        return found


class _Stalls:
    """The level of the time in which tasks wait for memory: all of them, or some where nobody counts all."""

    def __init__(self) -> None:
        self._levels = stall_levels()
        self._source = ""
        self._then = self._waited = 0.0

    def see(self, psi: PsiStats, now: float) -> PressureLevel:
        """Take in what was read at this moment of the monotonic clock."""
        line = psi.some if psi.full is None else psi.full
        passed, waited = now - self._then, line.waited - self._waited
        if psi.source != self._source or waited < 0 or passed < 0:  # another group, or none yet
            share = line.avg10
        elif passed < _STALL_SECONDS:
            return _LEVELS[self._levels.level]
        else:
            share = min(1.0, waited / passed)
        self._source, self._then, self._waited = psi.source, now, line.waited
        return _LEVELS[self._levels.see(now, share)]


def _judge(sample: Sample, level: PressureLevel, since: float) -> Assessment:
    """The verdict where the level is this one."""
    binding = effective = available = None
    ratio = 0.0
    for constraint in constraints(sample):
        limit, used = constraint
        size = limit.bytes
        share = used / size
        if binding is None or share > ratio:
            binding, ratio = constraint, share
        if effective is None or size < effective.bytes:
            effective = limit
        if available is None or size - used < available:
            available = size - used
    if available is None:
        return Assessment(level, level, None, None, None, since)
    return Assessment(level, bare_level(ratio), binding, effective, available if available > 0 else 0, since)
