"""Pressure level of the nearest limit: LOW, MODERATE, HIGH, CRITICAL.

Thresholds: from 70 % MODERATE, from 80 % HIGH, above 90 % CRITICAL, of the constraint with the highest used share,
with the hysteresis of :mod:`memwarden.assess.hysteresis`. The time in which all tasks wait for memory (PSI) has levels
of its own.
"""

from __future__ import annotations

from functools import lru_cache

from memwarden.assess.hysteresis import STALLED, USED, Hysteresis
from memwarden.model.facts import PsiStats
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, PressureLevel

MODERATE_AT, HIGH_AT, CRITICAL_ABOVE, AT_ONCE_ABOVE, *_ = USED
_LEVELS = tuple(PressureLevel)
#: Least time over which stalls are judged (seconds); the kernel's own mean of ten seconds is that much later.
_STALL_SECONDS = 2.0


def bare_level(ratio: float) -> PressureLevel:
    """Return the level of a share of the limit, without hysteresis."""
    return _LEVELS[USED.level_of(ratio)]


def levels() -> Hysteresis:
    """Return the levels of the used share of a limit."""
    return Hysteresis(USED)


def constraints(sample: Sample) -> list[Constraint]:
    """Return every limit in the sample, with the bytes that count against it."""
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
        self._levels = Hysteresis(USED)
        self._stalls = _Stalls()
        self._level = PressureLevel.LOW
        self._since = 0.0
        self._first = True

    def assess(self, sample: Sample) -> Assessment:
        """Return the verdict on the next sample. Where nothing could be read the last level stays."""
        found = _judge(sample, self._level, self._since)
        if sample.psi is not None:
            found = found._replace(stalls=self._stalls.add(sample.psi, sample.monotonic))
        if found.binding is None:
            return found._replace(since=sample.monotonic) if self._first else found
        level = _LEVELS[self._levels.add(sample.monotonic, found.binding.ratio)]
        if self._first or level is not self._level:
            self._level, self._since, self._first = level, sample.monotonic, False
            return found._replace(level=level, since=self._since)
        return found


class _Stalls:
    """Level of the time in which all tasks wait for memory, or some where the kernel does not count all."""

    def __init__(self) -> None:
        self._levels = Hysteresis(STALLED)
        self._source = ""
        self._then = self._waited = 0.0

    def add(self, psi: PsiStats, now: float) -> PressureLevel:
        """Add the stalls read at this moment of the monotonic clock."""
        line = psi.some if psi.full is None else psi.full
        passed, waited = now - self._then, line.waited - self._waited
        if psi.source != self._source or waited < 0 or passed < 0:  # another group, or none yet
            share = line.avg10
        elif passed < _STALL_SECONDS:
            return _LEVELS[self._levels.level]
        else:
            share = min(1.0, waited / passed)
        self._source, self._then, self._waited = psi.source, now, line.waited
        return _LEVELS[self._levels.add(now, share)]


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
