"""A watch as plain lines: one a reading, in columns that stand still, for grep and awk."""

from __future__ import annotations

from memwarden.faces import render
from memwarden.faces.cli.live.watch_state import WatchState, processes, told
from memwarden.model.events import Event
from memwarden.model.verdicts import Reading

#: Title and width of each column; no value holds a blank but the last.
COLUMNS = (
    ("time", 8),
    ("level", 8),
    ("share", 6),
    ("used", 10),
    ("limit", 10),
    ("available", 10),
    ("swap", 10),
    ("stalls", 6),
    ("watched", 10),
    ("growth", 11),
    ("processes", 9),
    ("largest", 0),
)


def header() -> str:
    """The columns' titles."""
    return _row([title for title, _ in COLUMNS])


def line(course: WatchState, reading: Reading) -> str:
    """A reading in one line; ``-`` stands for what is not known."""
    sample, assessment = reading
    binding, system = assessment.binding, sample.system
    rows = processes(sample)
    count: int | None = None
    if sample.tree is not None:
        count = len(sample.tree.keys)
    elif sample.top is not None:
        count = sample.top.processes
    return _row(
        [
            render.clock(sample.wall),
            assessment.level.name,
            None if binding is None else f"{binding.ratio:.1%}",
            None if binding is None else _size(binding.used),
            None if binding is None else _size(binding.limit.bytes),
            _size(assessment.available),
            _size(None if system is None else system.swap_used),
            None if sample.psi is None else f"{sample.psi.some.avg10:.1%}",
            _size(sample.used),
            None if course.growth is None else render.growth(course.growth).replace(" ", ""),
            None if count is None else str(count),
            _largest(rows[0].name, rows[0].key.pid, rows[0].rss) if rows else None,
        ]
    )


def event_line(event: Event) -> str | None:
    """An event in one line, told apart by its second column; None for one that says nothing new."""
    words = told(event)
    return None if words is None else f"{render.clock(event.wall)} event {words[0]}: {words[1]}"


def _largest(name: str, pid: int, rss: int) -> str:
    return f"{render.printable(name)}[{pid}] {_size(rss)}"


def _size(count: int | None) -> str | None:
    return None if count is None else render.size(count).replace(" ", "")


def _row(values: list[str | None]) -> str:
    cells = []
    for (title, width), value in zip(COLUMNS, values, strict=True):
        text = "-" if value is None else value
        left = title in ("time", "level", "largest")
        cells.append(f"{text:<{width}}" if left else f"{text:>{width}}")
    return " ".join(cells).rstrip()
