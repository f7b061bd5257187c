"""What a run came to, for a person and for a machine."""

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
from memwarden.faces.cli import KILLED_AT_LIMIT
from memwarden.faces.cli.reports.run_history import RunHistory
from memwarden.model.exits import ExitReason, ExitReport
from memwarden.model.facts import ProcessMemory
from memwarden.model.limits import Limit
from memwarden.model.serialize import to_dict
from memwarden.model.units import MIB
from memwarden.model.verdicts import Assessment

#: A command that the limit ended this early may never have got going.
_STARTING_SECONDS = 0.3
#: Many programs need this much to start, so data of one's own says nothing below it.
_SMALL = 32 * MIB
#: Fewer looks make no picture.
_CHART_POINTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """Everything that is known of a run when it has ended."""

    command: Sequence[str]
    ending: ExitReport
    history: RunHistory
    effective: Limit | None
    refused: Sequence[Capability]
    record: str

    @property
    def exit_code(self) -> int:
        """What memwarden exits with."""
        ending = self.ending
        if ending.kind is ExitReason.LIMIT:
            return KILLED_AT_LIMIT
        return ending.code if ending.code is not None else 128 + (ending.signal or 0)

    @property
    def peak(self) -> tuple[int, str]:
        """The tree's highest use, and who counted it."""
        if self.ending.peak:
            return self.ending.peak, self.ending.peak_counted_by
        return self.history.peak, "rss"

    @property
    def largest(self) -> list[ProcessMemory]:
        """Who held most: at the limit where evidence was read, else at the highest look."""
        evidence = self.ending.evidence
        if evidence is not None and evidence.processes:
            return list(evidence.processes[:3])
        return self.history.largest()

    @property
    def _filled(self) -> bool:
        """Whether it was the program's own data that filled the limit, and not the start of it."""
        evidence, limit = self.ending.evidence, self.ending.limit
        own = sum(process.anon or 0 for process in evidence.processes) if evidence is not None else 0
        return limit is not None and limit.bytes > _SMALL and own > limit.bytes * 3 // 4

    def verdict(self) -> str:
        """How it ended, in one sentence."""
        ending, took = self.ending, render.seconds(self.ending.seconds)
        if ending.kind is ExitReason.LIMIT:
            assert ending.limit is not None
            by = "killed by the kernel at" if ending.oom_where else "ended by"
            return f"{by} its limit of {render.limit(ending.limit.bytes)}, {took} after its start"
        if ending.kind is ExitReason.KERNEL_OOM:
            if ending.oom_where == "machine":
                where = "the machine was out of memory"
            else:
                size = f" ({render.limit(self.effective.bytes)})" if self.effective is not None else ""
                where = f"its group {ending.oom_where} was at its limit{size}"
            return f"killed by the kernel after {took}: {where}"
        if ending.kind is ExitReason.SIGNAL:
            return f"ended by {_signal_name(ending.signal)} after {took}"
        if ending.code == 0:
            return f"ended by itself after {took}"
        return f"ended by itself after {took}, with exit code {ending.code}"

    def hint(self) -> str:
        """The way out, where there is one."""
        ending = self.ending
        if ending.kind is ExitReason.LIMIT and ending.seconds < _STARTING_SECONDS and not self._filled:
            return (
                f"it got no further than {render.seconds(ending.seconds)}: the limit may be below what it needs to "
                "start; a run without --limit shows its peak"
            )
        if ending.kind is ExitReason.KERNEL_OOM:
            return "with --limit below that, it would be ended with evidence instead"
        return ""


def as_dict(report: RunReport) -> dict[str, Any]:
    """The report as a dict that JSON can hold; units are in the keys."""
    peak, counted_by = report.peak
    return {
        "schema": 1,
        "type": "report",
        "command": list(report.command),
        "exit_code": report.exit_code,
        "verdict": report.verdict(),
        "ending": to_dict(report.ending),
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
        "better_ceilings_refused": [{"kind": grant.kind, "reason": grant.reason} for grant in report.refused],
        "troubles": list(report.history.troubles),
        "record": report.record,
    }


def as_text(report: RunReport, *, colour: bool, blocks: bool) -> str:
    """The report for a person."""
    ending = report.ending
    rows: list[tuple[str, str]] = [("command", _cut(shlex.join(report.command).replace("\n", "\\n"), 100))]
    verdict = report.verdict()
    if colour:
        verdict = click.style(
            verdict, fg="green" if ending.kind is ExitReason.EXIT and not ending.code else "red", bold=True
        )
    told = "" if ending.kind is ExitReason.EXIT else f"  [exit code {report.exit_code}]"
    rows.append(("ended", verdict + told))
    if hint := report.hint():
        rows.append(("hint", hint))
    rows += _limit_rows(report)
    peak, counted_by = report.peak
    counted = {"cgroup": "counted by the kernel", "pss": "shared pages counted once"}.get(
        counted_by, "sum of resident sizes"
    )
    seen = len(report.history.processes)
    if peak:
        rows.append(("peak", f"{render.size(peak)} ({counted})" + (f", {_plural(seen, 'process')}" if seen else "")))
    else:
        rows.append(("peak", "not measured: it ended before the first look"))
    for process in report.largest:
        rows.append(("", f"{render.size(process.rss):>10} resident  {process.name}[{process.key.pid}]"))
    rows.append(("levels", _levels(report, colour, blocks)))
    rows += [("done" if not at else "", step) for at, step in enumerate(ending.steps)]
    for process in ending.left:
        rows.append(("lives on", f"{process.name}[{process.key.pid}], {render.size(process.rss)}"))
    rows += [("trouble", trouble) for trouble in report.history.troubles]
    rows.append(("record", report.record or "none"))
    rule = "─" if blocks else "-"
    lines = [f"{rule * 2} memwarden {rule * 66}"]
    lines += [f"{name:<9} {text}" for name, text in rows]
    ceiling = ending.limit.bytes if ending.limit is not None else None
    if len(report.history.points) >= _CHART_POINTS:
        lines += render.chart(report.history.points, ceiling, blocks=blocks)
    text = "\n".join(lines)
    return text if blocks else text.encode("ascii", "replace").decode()


def _limit_rows(report: RunReport) -> list[tuple[str, str]]:
    ending = report.ending
    rows = []
    if ending.limit is not None:
        above = report.effective is not None and report.effective.bytes < ending.limit.bytes
        rows.append(("limit", f"{render.limit(ending.limit.bytes)}, held by {ending.ceiling}"))
        if report.refused and ending.ceiling == "polling":
            rows.append(("", "not by the kernel; `memwarden doctor` says why"))
        if above and report.effective is not None:
            rows.append(
                ("", f"above what there is: {render.limit(report.effective.bytes)} ({report.effective.source})")
            )
    elif report.effective is not None:
        rows.append(("limit", f"none asked; {render.limit(report.effective.bytes)} ({report.effective.source})"))
    return rows


def _levels(report: RunReport, colour: bool, blocks: bool) -> str:
    parts = []
    for after, assessment in report.history.levels:
        name = assessment.level.name
        if colour:
            name = click.style(name, fg=render.COLOURS[assessment.level])
        parts.append(f"{name} ({share_of(assessment)}) at {render.seconds(after)}")
    return (" → " if blocks else " > ").join(parts) or "none seen: it ended before the first look"


def share_of(assessment: Assessment) -> str:
    """How full the nearest limit is, and which one that is: ``92% of its limit``, ``2% of the machine``."""
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


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}es"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
