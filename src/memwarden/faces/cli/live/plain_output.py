"""A watch as plain text: one line per reading, in fixed columns, for grep and awk."""

from __future__ import annotations

from memwarden.faces import render
from memwarden.faces.cli.live.watch_state import WatchState, event_text, processes
from memwarden.model.events import Event
from memwarden.model.verdicts import Reading

#: Title and width of each column; only the last may contain blanks. Text is left-aligned, figures right-aligned.
COLUMNS = {
    "time": "<8",
    "level": "<8",
    "share": ">6",
    "used": ">10",
    "limit": ">10",
    "available": ">10",
    "swap": ">10",
    "stalls": ">6",
    "watched": ">10",
    "growth": ">11",
    "processes": ">9",
    "largest": "",
}


def header() -> str:
    """Return the titles of the columns."""
    return _row(list(COLUMNS))


def line(state: WatchState, reading: Reading) -> str:
    """Return a reading as one line; ``-`` stands for an unknown value."""
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
            None if state.growth is None else render.growth(state.growth).replace(" ", ""),
            None if count is None else str(count),
            f"{render.printable(rows[0].name)}[{rows[0].key.pid}] {_size(rows[0].rss)}" if rows else None,
        ]
    )


def event_line(event: Event) -> str | None:
    """Return an event as one line, with ``event`` in its second column; None for one that repeats the readings."""
    text = event_text(event)
    return None if text is None else f"{render.clock(event.wall)} event {text[0]}: {text[1]}"


def _size(count: int | None) -> str | None:
    return None if count is None else render.size(count).replace(" ", "")


def _row(values: list[str | None]) -> str:
    cells = [
        f"{'-' if value is None else value:{width}}" for width, value in zip(COLUMNS.values(), values, strict=True)
    ]
    return " ".join(cells).rstrip()
