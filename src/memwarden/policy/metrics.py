"""Metrics that a rule may use: one table of named figures of a sample and its assessment.

Each figure comes with its whole, so that a threshold may be a share (``80%``) or a size. A figure that a sample does
not have is None, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, LeakStage, PressureLevel

#: A value, and the whole that a percentage refers to (None: there is none).
Figure = tuple[float, float | None]


class Metric(NamedTuple):
    """One row of the table."""

    name: str
    #: ``"bytes"``, ``"seconds"``, ``"count"``, ``"share"`` (0..1), or one of :data:`WORDS`.
    unit: str
    read: Callable[[Sample, Assessment], Figure | None]
    sentence: str


#: Words of metrics that have words as figures, from the best to the worst.
WORDS = {
    "level": tuple(level.name for level in PressureLevel),
    "stage": tuple(stage.name for stage in LeakStage),
    "trend": ("DECREASING", "STABLE", "INCREASING"),
}


def _level(_: Sample, assessment: Assessment) -> Figure | None:
    return (assessment.level.rank, None) if assessment.binding is not None else None


def _stalls(_: Sample, assessment: Assessment) -> Figure | None:
    return None if assessment.stalls is None else (assessment.stalls.rank, None)


def _used(_: Sample, assessment: Assessment) -> Figure | None:
    binding = assessment.binding
    return None if binding is None else (binding.used, binding.limit.bytes)


def _effective(assessment: Assessment) -> int | None:
    return None if assessment.effective is None else assessment.effective.bytes


def _available(_: Sample, assessment: Assessment) -> Figure | None:
    return None if assessment.available is None else (assessment.available, _effective(assessment))


def _outside_available(sample: Sample, assessment: Assessment) -> Figure | None:
    left = [group.limit - group.working_set for group in sample.cgroups if group.limit]
    if sample.system is not None:
        left.append(sample.system.available)
    return (max(0, min(left)), _effective(assessment)) if left else None


def _machine_available(sample: Sample, _: Assessment) -> Figure | None:
    return None if sample.system is None else (sample.system.available, sample.system.total)


def _machine_used(sample: Sample, _: Assessment) -> Figure | None:
    return None if sample.system is None else (sample.system.used, sample.system.total)


def _machine_swap(sample: Sample, _: Assessment) -> Figure | None:
    system = sample.system
    return None if system is None or system.swap_used is None else (system.swap_used, system.swap_total or None)


def _watched(sample: Sample, _: Assessment) -> Figure | None:
    return None if sample.used is None else (sample.used, None)


def _process_rss(sample: Sample, assessment: Assessment) -> Figure | None:
    return None if sample.process is None else (sample.process.rss, _effective(assessment))


def _process_swap(sample: Sample, _: Assessment) -> Figure | None:
    return None if sample.process is None or sample.process.swap is None else (sample.process.swap, None)


def _tree_rss(sample: Sample, assessment: Assessment) -> Figure | None:
    return None if sample.tree is None else (sample.tree.total, _effective(assessment))


def _container_used(sample: Sample, _: Assessment) -> Figure | None:
    return (sample.cgroups[0].working_set, sample.cgroups[0].limit) if sample.cgroups else None


def _psi_some(sample: Sample, _: Assessment) -> Figure | None:
    return None if sample.psi is None else (sample.psi.some.avg10, 1.0)


def _psi_full(sample: Sample, _: Assessment) -> Figure | None:
    return None if sample.psi is None or sample.psi.full is None else (sample.psi.full.avg10, 1.0)


def _gpu_used(sample: Sample, _: Assessment) -> Figure | None:
    fullest = max(sample.gpus, key=lambda gpu: gpu.used / (gpu.total or 1), default=None)
    return None if fullest is None else (fullest.used, fullest.total)


def _directory_used(sample: Sample, _: Assessment) -> Figure | None:
    fullest = max(sample.directories, key=lambda each: each.used, default=None)
    return None if fullest is None else (fullest.used, fullest.total)


def _directory_files(sample: Sample, _: Assessment) -> Figure | None:
    return (max(each.files for each in sample.directories), None) if sample.directories else None


def _directory_oldest(sample: Sample, _: Assessment) -> Figure | None:
    ages = [each.oldest for each in sample.directories if each.oldest is not None]
    return (max(ages), None) if ages else None


def _directory_free(sample: Sample, _: Assessment) -> Figure | None:
    least = min(sample.directories, key=lambda each: each.free, default=None)
    return None if least is None else (least.free, least.total)


def _leak(_: Sample, assessment: Assessment) -> Figure | None:
    return None if assessment.leak is None else (assessment.leak.stage.rank, None)


def _trend(_: Sample, assessment: Assessment) -> Figure | None:
    return None if assessment.trend is None else (WORDS["trend"].index(assessment.trend.word.upper()), None)


def _time_left(_: Sample, assessment: Assessment) -> Figure | None:
    if assessment.forecast is not None:
        return assessment.forecast.low, None
    return None if assessment.leak is None else (inf, None)  # no growth clears the rule


#: The only metric with state: the policy keeps the size that it grew from.
GROWTH = "growth"

METRICS = {
    metric.name: metric
    for metric in (
        Metric("level", "level", _level, "the pressure level"),
        Metric("stalls", "level", _stalls, "the level of the time in which all tasks wait for memory"),
        Metric("leak", "stage", _leak, "the worst leak verdict of the watched processes, the container and the GPUs"),
        Metric("trend", "trend", _trend, "the trend of the watched processes"),
        Metric(
            "time_left", "seconds", _time_left, "the lower end of the forecast time until the first of these is full"
        ),
        Metric("used", "bytes", _used, "use of the nearest limit; a percentage is of that limit"),
        Metric("available", "bytes", _available, "available memory; a percentage is of the effective limit"),
        Metric(
            "outside.available",
            "bytes",
            _outside_available,
            "memory that container and machine leave, without the limit that was asked for",
        ),
        Metric(GROWTH, "bytes", _watched, "growth of the watched process or tree since the start, or over a time"),
        Metric("machine.available", "bytes", _machine_available, "available memory of the machine"),
        Metric("machine.used", "bytes", _machine_used, "used memory of the machine"),
        Metric("machine.swap", "bytes", _machine_swap, "swap in use; a percentage is of all swap"),
        Metric(
            "process.rss", "bytes", _process_rss, "the process's resident size; a percentage is of the effective limit"
        ),
        Metric("process.swap", "bytes", _process_swap, "the process's swapped part"),
        Metric("tree.rss", "bytes", _tree_rss, "resident sizes of the tree; a percentage is of the effective limit"),
        Metric(
            "container.used",
            "bytes",
            _container_used,
            "working set of this control group; a percentage is of its limit",
        ),
        Metric("psi.some", "share", _psi_some, "share of the last 10 s in which some task waited for memory"),
        Metric("psi.full", "share", _psi_full, "share of the last 10 s in which all tasks waited for memory"),
        Metric("gpu.used", "bytes", _gpu_used, "memory in use of the fullest GPU; a percentage is of its total"),
        Metric(
            "directory.used",
            "bytes",
            _directory_used,
            "size of the largest watched directory; a percentage is of its disk",
        ),
        Metric("directory.files", "count", _directory_files, "number of files in the watched directory with most"),
        Metric("directory.oldest", "seconds", _directory_oldest, "age of the oldest file in a watched directory"),
        Metric("directory.free", "bytes", _directory_free, "free space of the fullest disk of a watched directory"),
    )
}
