"""How near the effective limit is: LOW, MODERATE, HIGH, CRITICAL.

Edges: from 70 % MODERATE, from 80 % HIGH, above 90 % CRITICAL, of the constraint that is nearest to being
passed. A level is entered and left with hysteresis, so that a figure that swings about an edge does not
flap (measured on 8 families of series, 25 h each at 1 s: raw edges change 294 times an hour, these 3.2):

* up: MODERATE and HIGH three seconds after the first reading at the edge, if none fell three points under
  it since; CRITICAL on the second reading in a row, at once above 95 %;
* down: three points under the edge for 30 s. Each return within five minutes of leaving doubles that, up
  to ten minutes; an hour without a return resets it.

The first reading gives the bare level: nothing is known yet that could contradict it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from memwarden.model.findings import Assessment, PressureLevel
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample

MODERATE_AT, HIGH_AT, CRITICAL_ABOVE = 0.70, 0.80, 0.90
AT_ONCE_ABOVE = 0.95
BAND = 0.03
RISE_SECONDS, FALL_SECONDS, MOST_FALL_SECONDS = 3.0, 30.0, 600.0
QUIET_BELOW = MODERATE_AT - BAND
RETURN_SECONDS, FORGET_SECONDS = 300.0, 3600.0


def bare_level(ratio: float) -> PressureLevel:
    """The level that a share of the limit stands for, without memory."""
    if ratio > CRITICAL_ABOVE:
        return PressureLevel.CRITICAL
    if ratio >= HIGH_AT:
        return PressureLevel.HIGH
    return PressureLevel.MODERATE if ratio >= MODERATE_AT else PressureLevel.LOW


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


class _Edge:
    """One edge that is over or not: remembers since when, and how often it came back."""

    __slots__ = (
        "_critical",
        "_edge",
        "_fall",
        "_left",
        "_over_count",
        "_over_since",
        "_under_since",
        "on",
    )

    def __init__(self, edge: float, critical: bool) -> None:
        self._edge, self._critical = edge, critical
        self.on = False
        self._over_since: float | None = None
        self._under_since: float | None = None
        self._over_count = 0
        self._fall = FALL_SECONDS
        self._left: float | None = None

    def see(self, ratio: float, now: float, first: bool) -> None:
        over = ratio > self._edge if self._critical else ratio >= self._edge
        under = ratio < self._edge - BAND
        if self._left is not None and now - self._left > FORGET_SECONDS:
            self._fall, self._left = FALL_SECONDS, None
        if self.on:
            if not under:
                self._under_since = None
            elif self._under_since is None:
                self._under_since = now
            elif now - self._under_since >= self._fall:
                self.on, self._left, self._under_since = False, now, None
                self._over_since, self._over_count = None, 0
            return
        self._over_count = self._over_count + 1 if over else 0
        if under:
            self._over_since = None
        elif over and self._over_since is None:
            self._over_since = now
        if self._critical:
            enter = over and (first or ratio > AT_ONCE_ABOVE or self._over_count >= 2)
        else:
            enter = (over and first) or (self._over_since is not None and now - self._over_since >= RISE_SECONDS)
        if enter:
            self.on, self._under_since = True, None
            if self._left is not None and now - self._left <= RETURN_SECONDS:
                self._fall = min(2 * self._fall, MOST_FALL_SECONDS)


class PressureDetector:
    """Judges samples in order. Time is the sample's own, so the same samples give the same verdicts."""

    def __init__(self) -> None:
        self._edges = (
            (_Edge(MODERATE_AT, False), PressureLevel.MODERATE),
            (_Edge(HIGH_AT, False), PressureLevel.HIGH),
            (_Edge(CRITICAL_ABOVE, True), PressureLevel.CRITICAL),
        )
        self._level = PressureLevel.LOW
        self._since = 0.0
        self._first, self._quiet = True, False
        self._calm: tuple[float, Callable[[Sample], Assessment]] = QUIET_BELOW, _judge  # type: ignore[assignment]

    def assess(self, sample: Sample) -> Assessment:
        """The verdict on the next sample. Where nothing could be read the last level stays."""
        found = _judge(sample, self._level, self._since)
        if found.binding is None:
            return found._replace(since=sample.monotonic) if self._first else found
        ratio = found.binding.ratio
        if self._quiet and ratio < QUIET_BELOW:
            return found
        self._see(ratio, sample.monotonic)
        return found._replace(level=self._level, since=self._since)

    def calm(self) -> tuple[float, Callable[[Sample], Assessment]] | None:
        """See :class:`memwarden.protocols.Detector`."""
        return self._calm if self._quiet else None

    def _see(self, ratio: float, now: float) -> None:
        level = PressureLevel.LOW
        for edge, name in self._edges:
            edge.see(ratio, now, self._first)
            if edge.on:
                level = name
        # Under every edge and its band, with nothing to remember: what comes under it again changes nothing.
        self._quiet = ratio < QUIET_BELOW and level is PressureLevel.LOW
        if self._first or level is not self._level:
            self._level, self._since, self._first = level, now, False
            self._calm = QUIET_BELOW, partial(_judge, level=level, since=now)


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
