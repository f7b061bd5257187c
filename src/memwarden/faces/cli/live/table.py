"""Processes as a table with as many columns as fit the width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from memwarden.faces import render
from memwarden.faces.cli.live.watch_state import gap_text, shares
from memwarden.model.facts import CgroupMemory, ProcessKey, ProcessMemory
from memwarden.model.sample import Sample

#: A line on a terminal: texts, each with its style.
Line = list[tuple[str, str]]

DIM, BOLD = "dim", "bold"
#: Maximum columns of a process's name, and minimum columns of a command line.
_NAME, _COMMAND = 20, 20
#: Growth that is coloured: from this many bytes and this share of the process.
_GREW, _GREW_SHARE = 1 << 20, 0.1


class _Column(NamedTuple):
    title: str
    width: int
    of: Callable[[ProcessMemory], tuple[str, str]]


def table(
    sample: Sample,
    rows: Sequence[ProcessMemory],
    width: int,
    *,
    growth: Callable[[ProcessMemory], int] | None = None,
    command: Callable[[ProcessKey], str] | None = None,
) -> list[Line]:
    """Return the titles and a line per process; no line without processes.

    On a narrow terminal the right columns are left out first. ``growth`` and ``command`` add columns that the sample
    does not contain.
    """
    if not rows:
        return []
    pids = max(5, max(len(str(row.key.pid)) for row in rows))
    names = min(_NAME, max(9, max(render.cells(row.name) for row in rows)))
    names = min(names, max(6, width - pids - 12))
    left = width - pids - 1 - names
    shown = []
    for column in _columns(sample, growth):
        left -= column.width + 1
        if left < 0:
            break
        shown.append(column)
    command_width = max(0, left - 2)
    if command_width < _COMMAND:
        command = None
    titles = "".join(f" {column.title:>{column.width}}" for column in shown) + ("  command" if command else "")
    lines: list[Line] = [[(f"{'pid':>{pids}} {'process':<{names}}{titles}", DIM)]]
    for row in rows:
        line: Line = [(f"{row.key.pid:>{pids}} ", DIM), (render.fit(render.printable(row.name), names), "")]
        for column in shown:
            text, style = column.of(row)
            line.append((f" {text:>{column.width}}", style))
        if command is not None:
            line.append((f"  {render.fit(render.printable(command(row.key)), command_width).rstrip()}", DIM))
        lines.append(line)
    return [cut(line, width) for line in lines]


def _columns(sample: Sample, growth: Callable[[ProcessMemory], int] | None) -> list[_Column]:
    """Return the columns, the most important first."""
    measured = shares(sample)
    total = sample.system.total if sample.system is not None else 0
    group = own_group(sample)

    def size(count: int | None) -> tuple[str, str]:
        return ("-", DIM) if count is None else (render.size(count), "")

    def pss(row: ProcessMemory) -> tuple[str, str]:
        known = measured.get(row.key)
        return (f"-{'':7}", DIM) if known is None else (f"{render.size(known[0])} {age(known[1]):>6}", "")

    def grown(row: ProcessMemory) -> tuple[str, str]:
        count = growth(row) if growth is not None else 0
        return render.growth(count), "yellow" if count >= max(_GREW, row.rss * _GREW_SHARE) else "" if count else DIM

    def of_limit(row: ProcessMemory) -> tuple[str, str]:
        return f"{row.rss / (group.limit if group and group.limit else 1):.0%}", ""

    columns = [
        (True, _Column("resident", 10, lambda row: (render.size(row.rss), BOLD))),
        (growth is not None, _Column("growth", 11, grown)),
        (total > 0, _Column("machine", 7, lambda row: (f"{row.rss / total:.1%}", ""))),
        (group is not None and bool(group.limit), _Column("limit", 6, of_limit)),
        (True, _Column("pss    age", 17, pss)),
        (True, _Column("anonymous", 10, lambda row: size(row.anon))),
        (True, _Column("shared", 10, lambda row: size(row.shared))),
    ]
    return [column for known, column in columns if known]


def gap_lines(sample: Sample, width: int) -> list[Line]:
    """Return a line per gap of the sample."""
    return [cut([("missing ", "yellow"), (gap_text(gap), "")], width) for gap in sample.gaps]


def own_group(sample: Sample) -> CgroupMemory | None:
    """Return the target's own control group; None where that is the machine's root group."""
    if not sample.cgroups:
        return None
    group = sample.cgroups[0]
    return None if group.path == "/" and group.limit is None else group


def age(seconds: float) -> str:
    """Return the age of a figure: ``now``, ``3 s``, ``2 min``."""
    if seconds < 1:
        return "now"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def cut(line: Line, width: int) -> Line:
    """Return the line cut to a width."""
    made: Line = []
    for text, style in line:
        used = render.cells(text)
        if used > width:
            made.append((render.fit(text, width), style))
            break
        made.append((text, style))
        width -= used
    return made
