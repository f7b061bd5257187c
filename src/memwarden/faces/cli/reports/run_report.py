"""The report of a run, as text and as JSON."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from memwarden.contain.capabilities import Capability
from memwarden.contain.own_cgroup import PARENT
from memwarden.faces import render
from memwarden.faces.cli.exit_codes import KILLED_AT_LIMIT
from memwarden.faces.cli.reports.run_history import RunHistory
from memwarden.model.exits import ExitReason, ExitReport
from memwarden.model.facts import ProcessMemory
from memwarden.model.limits import Limit
from memwarden.model.serialize import to_dict
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment

#: A command that was killed at its limit this early may never have started its work.
_STARTING_SECONDS = 0.3
#: Many programs need this much to start; private memory below it is no sign of work.
_SMALL = 32 * MIB
#: A chart needs this many samples.
_CHART_POINTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """Everything known about a run after its exit."""

    command: Sequence[str]
    exit: ExitReport
    history: RunHistory
    effective: Limit | None
    refused: Sequence[Capability]
    record: str

    @property
    def exit_code(self) -> int:
        """Exit code of memwarden."""
        if self.exit.reason is ExitReason.LIMIT:
            return KILLED_AT_LIMIT
        return self.exit.exit_code if self.exit.exit_code is not None else 128 + (self.exit.signal or 0)

    @property
    def peak(self) -> tuple[int, str]:
        """The tree's highest use in bytes, and its source."""
        if self.exit.peak:
            return self.exit.peak, self.exit.peak_counted_by
        return self.history.peak, "rss"

    @property
    def largest(self) -> list[ProcessMemory]:
        """The largest processes: at the limit if evidence was read, else at the highest sample."""
        evidence = self.exit.evidence
        if evidence is not None and evidence.processes:
            return list(evidence.processes[:3])
        return self.history.largest()

    @property
    def _filled(self) -> bool:
        """True if the program's own data filled the limit, and not its start."""
        evidence, limit = self.exit.evidence, self.exit.limit
        own = sum(process.anon or 0 for process in evidence.processes) if evidence is not None else 0
        return limit is not None and limit.bytes > _SMALL and own > limit.bytes * 3 // 4

    def verdict(self) -> str:
        """The reason of the exit, as one sentence."""
        ended, took = self.exit, render.seconds(self.exit.seconds)
        if ended.reason is ExitReason.LIMIT:
            assert ended.limit is not None
            if ended.unreclaimable:
                how = f"exited with code {ended.exit_code}" if ended.signal is None else _signal_name(ended.signal)
                return f"failed at its limit of {render.limit(ended.limit.bytes)} after {took}: {how}"
            by = " by the kernel" if ended.oom_location else ""
            return f"killed{by} at its limit of {render.limit(ended.limit.bytes)} after {took}"
        if ended.reason is ExitReason.KERNEL_OOM:
            if ended.oom_location == "machine":
                where = "the machine was out of memory"
            else:
                size = f" ({render.limit(self.effective.bytes)})" if self.effective is not None else ""
                where = f"its group {ended.oom_location} was at its limit{size}"
            return f"killed by the kernel after {took}: {where}"
        if ended.reason is ExitReason.SIGNALED:
            return f"killed by {_signal_name(ended.signal)} after {took}"
        return f"exited with code {ended.exit_code} after {took}"

    def hint(self) -> str:
        """The way out, if there is one."""
        ended = self.exit
        if ended.reason is ExitReason.LIMIT and ended.seconds < _STARTING_SECONDS and not self._filled:
            return (
                f"it ran for {render.seconds(ended.seconds)} only: the limit may be below what it needs to start; "
                "run it once without --limit to see its peak"
            )
        if ended.reason is ExitReason.KERNEL_OOM:
            return "with --limit below that, memwarden stops it first and shows what used the memory"
        return ""


def as_dict(report: RunReport) -> dict[str, Any]:
    """Return the report as a JSON-safe dict; units are in the keys."""
    peak, counted_by = report.peak
    return {
        "schema": 1,
        "type": "report",
        "command": list(report.command),
        "exit_code": report.exit_code,
        "verdict": report.verdict(),
        "exit": to_dict(report.exit),
        "peak_bytes": peak,
        "peak_counted_by": counted_by,
        "largest": [to_dict(process) for process in report.largest],
        "processes_seen": len(report.history.processes),
        "effective_limit_bytes": None if report.effective is None else report.effective.bytes,
        "effective_limit_source": None if report.effective is None else report.effective.source,
        "levels": [
            {
                "after_seconds": round(after, 3),
                "level": assessment.level.value,
                "ratio": None if assessment.ratio is None else round(assessment.ratio, 4),
                "of": None if assessment.binding is None else assessment.binding.limit.source,
            }
            for after, assessment in report.history.levels
        ],
        "better_ceilings_refused": [{"kind": each.kind, "reason": each.reason} for each in report.refused],
        "troubles": list(report.history.troubles),
        "record": report.record,
    }


def as_text(report: RunReport, *, colour: bool, blocks: bool) -> str:
    """Return the report as text."""
    ended = report.exit
    rows: list[tuple[str, str]] = [("command", _cut(shlex.join(report.command).replace("\n", "\\n"), 100))]
    verdict = render.printable(report.verdict())
    if colour:
        verdict = click.style(
            verdict, fg="green" if ended.reason is ExitReason.EXITED and not ended.exit_code else "red", bold=True
        )
    code = "" if ended.reason is ExitReason.EXITED else f"  [exit code {report.exit_code}]"
    rows.append(("result", verdict + code))
    if ended.unreclaimable:
        meant = "" if ended.reason is ExitReason.LIMIT else "; system calls may have failed or returned less"
        rows.append(("", f"it stood at its limit: {render.size(ended.unreclaimable)} could not be reclaimed{meant}"))
    if hint := report.hint():
        rows.append(("hint", hint))
    rows += _limit_rows(report)
    peak, counted_by = report.peak
    counted = {"cgroup": "counted by the kernel", "pss": "shared pages counted once"}.get(
        counted_by, "sum of resident sizes"
    )
    seen = len(report.history.processes)
    if peak:
        members = f", {seen} process{'' if seen == 1 else 'es'}" if seen else ""
        rows.append(("peak", f"{render.size(peak)} ({counted}){members}"))
    else:
        rows.append(("peak", "not measured: it exited before the first sample"))
    for process in report.largest:
        rows.append(("", f"{render.size(process.rss):>10} resident  {process.name}[{process.key.pid}]"))
    rows.append(("levels", _levels(report, colour, blocks)))
    rows += [("steps" if not at else "", step) for at, step in enumerate(ended.steps)]
    for process in ended.survivors:
        rows.append(("survivor", f"{process.name}[{process.key.pid}], {render.size(process.rss)}"))
    rows += [("trouble", trouble) for trouble in report.history.troubles]
    rows.append(("record", report.record or "none"))
    rule = "─" if blocks else "-"
    lines = [f"{rule * 2} memwarden {rule * 66}"]
    styled = ("result", "levels")  # their own escape codes; all else may hold names of processes, groups and files
    lines += [f"{name:<9} {text if name in styled else render.printable(text)}" for name, text in rows]
    ceiling = ended.limit.bytes if ended.limit is not None else None
    if len(report.history.points) >= _CHART_POINTS:
        lines += render.chart(report.history.points, ceiling, blocks=blocks)
    text = "\n".join(lines)
    return text if blocks else text.encode("ascii", "replace").decode()


def _limit_rows(report: RunReport) -> list[tuple[str, str]]:
    ended = report.exit
    rows = []
    if ended.limit is not None:
        above = report.effective is not None and report.effective.bytes < ended.limit.bytes
        rows.append(("limit", f"{render.limit(ended.limit.bytes)}, enforced by {ended.ceiling}"))
        if report.refused and ended.ceiling == "polling":
            rows.append(("", "not by the kernel; `memwarden doctor` shows the reason"))
        if above and report.effective is not None:
            rows.append(
                ("", f"above the effective limit: {render.limit(report.effective.bytes)} ({report.effective.source})")
            )
    elif report.effective is not None:
        rows.append(("limit", f"none requested; {render.limit(report.effective.bytes)} ({report.effective.source})"))
    return rows


def _levels(report: RunReport, colour: bool, blocks: bool) -> str:
    parts = []
    for after, assessment in report.history.levels:
        name = assessment.level.name
        if colour:
            name = click.style(name, fg=render.COLOURS[assessment.level])
        parts.append(f"{name} ({share_of(assessment)}) at {render.seconds(after)}")
    return (" → " if blocks else " > ").join(parts) or "none seen: it exited before the first sample"


def share_of(assessment: Assessment) -> str:
    """Return the share of the binding limit: ``92% of its limit``, ``2% of the machine``."""
    if assessment.binding is None or assessment.ratio is None:
        return "not known"
    source = assessment.binding.limit.source
    if source == "--limit" or f"/{PARENT}/run-" in source:
        source = "its limit"
    elif source == "machine":
        source = "the machine"
    return f"{assessment.ratio:.0%} of {source}"


def _signal_name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
