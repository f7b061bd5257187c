"""The old ``customer_snapshot.utils.memory_optimizer``: tracker and decorators; its service is re-exported.

Native are :class:`memwarden.MemoryTracker` and :func:`memwarden.memory_profile`; here are their old names and shapes.
Differences from the original: peaks between two snapshots are the kernel's; ``percent`` is a share of the nearest
limit, a container's where there is one; objects are counted on a thousandth of the time; the profile is logged and not
printed, and supports generators and coroutines.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TextIO, TypeVar

from memwarden.compat.optimizer_service import MemoryMonitoringService as MemoryMonitoringService
from memwarden.compat.optimizer_service import MemoryOptimizer as MemoryOptimizer
from memwarden.compat.optimizer_service import get_memory_status as get_memory_status
from memwarden.compat.optimizer_service import start_memory_monitoring as start_memory_monitoring
from memwarden.compat.optimizer_service import stop_memory_monitoring as stop_memory_monitoring
from memwarden.compat.support.readings import iso, moment
from memwarden.errors import SettingsError
from memwarden.guards.limit.memory_limit import memory_limit as _memory_limit
from memwarden.guards.measure import tracker as native
from memwarden.guards.measure.profile import memory_profile as _profile
from memwarden.guards.measure.tracker import Snapshot
from memwarden.model.units import MIB
from memwarden.settings.options import Switch

_P = ParamSpec("_P")
_R = TypeVar("_R")
_F = TypeVar("_F", bound=Callable[..., Any])

#: Thresholds of the report's verdicts, in MiB.
HIGH_MB, MODERATE_MB = 1000, 500
_VARIABLE = "ENABLE_MEMORY_PROFILING"


class MemoryMetrics(NamedTuple):
    """Memory at one moment, in MiB. None: could not be read."""

    #: Local time with its offset, ISO 8601.
    timestamp: str
    rss_mb: float
    vms_mb: float | None
    #: Resident size in percent of the nearest limit.
    percent: float | None
    available_mb: float | None
    swap_used_mb: float | None
    gc_objects: int
    #: Age of that count in seconds.
    gc_objects_age: float
    #: Peak since the snapshot before.
    peak_mb: float
    #: Source of the limit of ``percent``.
    limit_source: str


class MemoryTracker:
    """Baseline, snapshots and their analysis; ``native`` is the tracker underneath."""

    def __init__(self, tracker: native.MemoryTracker | None = None) -> None:
        self.native = native.MemoryTracker() if tracker is None else tracker

    def set_baseline(self) -> None:
        """Count growth and peak from now on; may be called again."""
        self.native.set_baseline()

    def take_snapshot(self, label: str = "") -> dict[str, Any]:
        """Return memory now and keep it: ``label``, ``metrics``, ``delta_from_baseline`` (MiB, or None)."""
        return _entry(self.native.take_snapshot(label))

    @property
    def snapshots(self) -> list[dict[str, Any]]:
        """The newest thousand, oldest first."""
        return [_entry(each) for each in self.native.snapshots]

    def get_current_metrics(self) -> MemoryMetrics:
        """Return memory now, without keeping it."""
        return _metrics(self.native.now())

    def get_memory_growth(self) -> float | None:
        """Return MiB above the baseline; None before there is one."""
        return _mb(self.native.growth)

    def get_peak_memory(self) -> float:
        """Return the peak since the baseline, in MiB."""
        return self.native.peak / MIB

    def analyze_memory_usage(self) -> dict[str, Any]:
        """Return a summary of the snapshots, in MiB; with fewer than two only ``error``."""
        analysis = self.native.analyze()
        if analysis is None:
            return {"error": "at least two snapshots are needed: take_snapshot(label)"}
        return {
            "snapshots_count": analysis.snapshots,
            "baseline_memory_mb": _mb(analysis.baseline),
            "current_memory_mb": analysis.current / MIB,
            "peak_memory_mb": analysis.peak / MIB,
            "average_memory_mb": analysis.average / MIB,
            "memory_growth_rate_mb": analysis.growth_per_snapshot / MIB,
            "memory_spikes": len(analysis.spikes),
            "gc_objects_current": analysis.objects,
            "memory_trend": analysis.trend.word,
            "recommendations": list(analysis.advice),
            "analysis_timestamp": _time(time.time()),
        }

    def print_memory_report(self, file: TextIO | None = None) -> None:
        """Print the analysis, with a verdict on the resident size: high above 1000 MB, moderate above 500."""
        out = sys.stdout if file is None else file
        analysis = self.analyze_memory_usage()
        print("Memory report", file=out)
        suggestions = analysis.pop("recommendations", [])
        for name, value in analysis.items():
            shown = f"{value:.1f} MB" if isinstance(value, float) else "-" if value is None else value
            print(f"  {name.removesuffix('_mb').replace('_', ' ')}: {shown}", file=out)
        current = analysis.get("current_memory_mb", 0.0)
        verdict = "high" if current > HIGH_MB else "moderate" if current > MODERATE_MB else "normal"
        for sentence in suggestions:
            print(f"  advice: {sentence}", file=out)
        print(f"  verdict: {verdict}", file=out)


def memory_profile(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Profile a function of any kind: log each call, with a warning when it grows by more than 10 MiB.

    Where the variable ``ENABLE_MEMORY_PROFILING`` is false at decoration, the function is returned unchanged. Raises
    :class:`SettingsError` for a value that is neither true nor false.
    """
    value = os.environ.get(_VARIABLE, "").strip()
    try:
        wanted = not value or Switch().parse(value)
    except SettingsError as error:
        raise SettingsError(f"{_VARIABLE}: {error}") from None
    return _profile(function) if wanted else function


def _entry(snapshot: Snapshot) -> dict[str, Any]:
    return {"label": snapshot.label, "metrics": _metrics(snapshot), "delta_from_baseline": _mb(snapshot.delta)}


def _metrics(snapshot: Snapshot) -> MemoryMetrics:
    return MemoryMetrics(
        timestamp=_time(snapshot.wall),
        rss_mb=snapshot.rss / MIB,
        vms_mb=_mb(snapshot.vms),
        percent=100 * snapshot.rss / snapshot.limit if snapshot.limit else None,
        available_mb=_mb(snapshot.available),
        swap_used_mb=_mb(snapshot.swap_used),
        gc_objects=snapshot.objects,
        gc_objects_age=snapshot.objects_age,
        peak_mb=snapshot.peak / MIB,
        limit_source=snapshot.source,
    )


def _mb(size: int | None) -> float | None:
    return None if size is None else size / MIB


def _time(wall: float) -> str:
    return iso(moment(wall, utc_offset=True))


def memory_limit(max_memory_mb: float) -> Callable[[_F], _F]:
    """Decorate a function: a call that takes more than so many MiB beyond the use at its entry raises
    :class:`~memwarden.errors.LimitExceeded`, a MemoryError.

    Raises :class:`~memwarden.errors.SettingsError` for a size that is no positive number.
    """
    megabytes: Any = max_memory_mb
    number = isinstance(megabytes, int | float) and not isinstance(megabytes, bool)
    if not number or not 0 < megabytes < float("inf"):
        raise SettingsError(f"memory_limit({max_memory_mb!r}): must be a number of MB above zero, such as 500")
    return _memory_limit(round(max_memory_mb * (1 << 20)))
