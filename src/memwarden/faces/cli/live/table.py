"""Processes as a table, with as many columns as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from memwarden.faces import render
from memwarden.faces.cli.live.watch_state import shares
from memwarden.model.facts import CgroupMemory, ProcessKey, ProcessMemory
from memwarden.model.sample import Sample

#: A line of a screen: texts, each with its style.
Line = list[tuple[str, str]]

DIM, BOLD = "dim", "bold"
#: Columns of a process's name, at most, and of a command line, at least.
_NAME, _COMMAND = 20, 20
#: A growth that is worth a colour: so many bytes, and such a part of the process.
_GREW, _GREW_PART = 1 << 20, 0.1


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
    """The titles, and a line for each process; nothing where there is none.

    Where room is short the columns at the right go first. ``growth`` and ``command`` tell what the sample does not.
    """
    if not rows:
        return []
    pids = max(5, max(len(str(row.key.pid)) for row in rows))
    names = min(_NAME, max(9, max(render.cells(row.name) for row in rows)))
    names = min(names, max(6, width - pids - 12))
    room = width - pids - 1 - names
    shown = []
    for column in _columns(sample, growth):
        room -= column.width + 1
        if room < 0:
            break
        shown.append(column)
    wide = max(0, room - 2)
    told = command is not None and wide >= _COMMAND
    titles = "".join(f" {column.title:>{column.width}}" for column in shown) + ("  command" if told else "")
    lines: list[Line] = [[(f"{'pid':>{pids}} {'process':<{names}}{titles}", DIM)]]
    for row in rows:
        line: Line = [(f"{row.key.pid:>{pids}} ", DIM), (render.fit(render.printable(row.name), names), "")]
        for column in shown:
            text, style = column.of(row)
            line.append((f" {text:>{column.width}}", style))
        if told and command is not None:
            line.append((f"  {render.fit(render.printable(command(row.key)), wide).rstrip()}", DIM))
        lines.append(line)
    return [cut(line, width) for line in lines]


def _columns(sample: Sample, growth: Callable[[ProcessMemory], int] | None) -> list[_Column]:
    """Most wanted first."""
    measured = shares(sample)
    total = sample.system.total if sample.system is not None else 0
    group = own_group(sample)

    def size(count: int | None) -> tuple[str, str]:
        return ("-", DIM) if count is None else (render.size(count), "")

    def pss(row: ProcessMemory) -> tuple[str, str]:
        known = measured.get(row.key)
        return (f"-{'':7}", DIM) if known is None else (f"{render.size(known[0])} {age(known[1]):>6}", "")

    columns = [_Column("resident", 10, lambda row: (render.size(row.rss), BOLD))]
    if growth is not None:
        grew = growth

        def grown(row: ProcessMemory) -> tuple[str, str]:
            count = grew(row)
            much = count >= max(_GREW, row.rss * _GREW_PART)
            return render.growth(count), "yellow" if much else "" if count else DIM

        columns.append(_Column("growth", 11, grown))
    if total:
        columns.append(_Column("machine", 7, lambda row: (f"{row.rss / total:.1%}", "")))
    if group is not None and group.limit:
        limit = group.limit
        columns.append(_Column("limit", 6, lambda row: (f"{row.rss / limit:.0%}", "")))
    columns.append(_Column("pss    age", 17, pss))
    columns.append(_Column("anonymous", 10, lambda row: size(row.anon)))
    columns.append(_Column("shared", 10, lambda row: size(row.shared)))
    return columns


def own_group(sample: Sample) -> CgroupMemory | None:
    """The watched's own group; None where that is the whole machine's."""
    if not sample.cgroups:
        return None
    group = sample.cgroups[0]
    return None if group.path == "/" and group.limit is None else group


def age(seconds: float) -> str:
    """How old a figure is: ``now``, ``3 s``, ``2 min``."""
    if seconds < 1:
        return "now"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def cut(line: Line, width: int) -> Line:
    """The line, no wider than that."""
    made: Line = []
    for text, style in line:
        wide = render.cells(text)
        if wide > width:
            made.append((render.fit(text, width), style))
            break
        made.append((text, style))
        width -= wide
    return made
