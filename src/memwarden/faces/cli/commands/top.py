"""``memwarden top``: the largest processes of the machine."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from memwarden.engine.warden import Warden
from memwarden.faces import render
from memwarden.faces.cli.live.table import BOLD, DIM, Line, cut, gap_lines, own_group, table
from memwarden.faces.cli.live.target import machine
from memwarden.faces.cli.live.tui import Inbox, Output, Screen
from memwarden.faces.cli.live.watch_state import shares
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import ProcessKey, ProcessMemory, ShareMemory, TopProcesses
from memwarden.model.sample import Sample
from memwarden.model.serialize import to_json
from memwarden.model.verdicts import Reading
from memwarden.readers.command_lines import CommandLines
from memwarden.settings import resolve

INTERVAL = 1.0
#: CPU budget of PSS in the live list, as a share of one core.
_BUDGET = 0.002
#: Factor of processes to read for a ranking by PSS, which is at most the resident size, and much less in forks.
_CANDIDATES = 4
#: Maximum seconds to wait for PSS of a list that is printed once, and seconds without a new figure.
_ONCE_SECONDS, _STILL_SECONDS = 5.0, 0.3
#: Width where the terminal does not give one.
_WIDTH = 120


def top(flags: Mapping[str, Any], count: int, *, sort: str, once: bool, as_json: bool) -> int:
    """Print or draw the list; return the exit code. Raises :class:`MemwardenError`."""
    settings = resolve(flags, os.environ)
    most = count * _CANDIDATES if sort == "pss" else count
    if not once and not as_json and render.wants_colour(sys.stdout):
        interval = INTERVAL if settings.sources["interval"].kind == "default" else settings.interval
        return _live(most, count, sort, interval, settings.duration)
    with Output("top") as output:
        reading = _once(most)
        rows = ranked(reading.sample, sort)[:count]
        if as_json:
            output.print(to_json(reading._replace(sample=_only(reading.sample, rows))))
        else:
            width = shutil.get_terminal_size((_WIDTH, 24)).columns
            for line in listing(reading, rows, width, CommandLines()):
                output.print("".join(text for text, _ in line).rstrip())
    return output.code


def ranked(sample: Sample, sort: str) -> list[ProcessMemory]:
    """Return the processes of a sample, largest first; sorted by PSS, those without a figure come last."""
    rows = [] if sample.top is None else sample.top.rows()
    if sort == "pss":
        known = shares(sample)
        rows.sort(key=lambda row: -known[row.key][0] if row.key in known else 0)
    return rows


def listing(reading: Reading, rows: list[ProcessMemory], width: int, commands: CommandLines) -> list[Line]:
    """Return the list: the machine, the container, the processes, and what is missing."""
    sample = reading.sample
    head: Line = []
    if sample.system is not None:
        used, total = sample.system.used, sample.system.total
        head += [("machine ", DIM), (f"{render.size(used)} of {render.limit(total)}, {used / total:.1%}", BOLD)]
    group = own_group(sample)
    if group is not None:
        limit = f" of {render.limit(group.limit)}" if group.limit else ", no limit"
        head += [("   container ", DIM), (f"{render.size(group.working_set)}{limit}", BOLD)]
    if sample.top is not None:
        head.append((f"   {sample.top.processes} processes", DIM))
    return [cut(head, width), *table(sample, rows, width, command=commands.of), *gap_lines(sample, width)]


def _only(sample: Sample, rows: list[ProcessMemory]) -> Sample:
    """Return the sample with these processes only, in this order."""
    keys = [row.key for row in rows]
    top = None if sample.top is None else sample.top._replace(**_columns(sample.top, keys))
    facts = None if sample.shares is None else sample.shares._replace(**_columns(sample.shares, keys))
    return sample._replace(top=top, shares=facts)


def _columns(facts: TopProcesses | ShareMemory, keys: list[ProcessKey]) -> dict[str, Any]:
    """Return the columns of the facts with the rows of these keys."""
    at = {key: number for number, key in enumerate(facts.keys)}
    order = [at[key] for key in keys if key in at]
    columns = ((name, column) for name, column in facts._asdict().items() if isinstance(column, tuple) and column)
    return {name: tuple([column[number] for number in order]) for name, column in columns}


def _once(most: int) -> Reading:
    """Return the first reading with every PSS that can be measured."""
    warden = Warden(machine(most, budget=1.0, longest=_ONCE_SECONDS).readers)
    started = since = time.monotonic()
    known = -1
    try:
        while True:
            reading = warden.sample()
            now, count = time.monotonic(), len(shares(reading.sample))
            if count > known:
                known, since = count, now
            listed = 0 if reading.sample.top is None else len(reading.sample.top.keys)
            if count >= listed or now - since >= _STILL_SECONDS or now - started >= _ONCE_SECONDS:
                return reading
            time.sleep(0.005)
    finally:
        warden.close()


def _live(most: int, count: int, sort: str, interval: float, duration: float | None) -> int:
    inbox, commands = Inbox(), CommandLines()
    newest: list[Reading] = []

    def draw(width: int, height: int) -> list[Line]:
        if not newest:
            return []
        lines = listing(newest[-1], ranked(newest[-1].sample, sort)[:count], width, commands)
        clock: Line = [("memwarden top", BOLD), (f"  by {sort}, every {interval:g} s", DIM)]
        return [cut([*clock, (f"  {render.clock(newest[-1].sample.wall)}", DIM)], width), *lines][:height]

    screen = Screen(draw)
    warden = Warden(machine(most, budget=_BUDGET).readers, interval=interval, shortest=interval)
    warden.subscribe(inbox.put)
    end = None if duration is None else time.monotonic() + duration
    with Output("top") as output:
        with inbox.signals(drawn=True), screen, warden:
            while end is None or time.monotonic() < end:
                item = inbox.get(3600.0 if end is None else end - time.monotonic())
                if isinstance(item, Event):
                    if item.kind is EventKind.SAMPLE:
                        newest[:] = [item.value]
                        screen.refresh()
                elif item is not None and not screen.handle(item):
                    break
        screen.print(draw(screen.width, 24))
    return output.code
