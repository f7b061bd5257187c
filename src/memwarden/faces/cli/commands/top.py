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
from memwarden.faces.cli.live.screen import Inbox, Output, Screen
from memwarden.faces.cli.live.table import BOLD, DIM, Line, cut, own_group, table
from memwarden.faces.cli.live.target import machine
from memwarden.faces.cli.live.watch_state import shares
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import ProcessMemory
from memwarden.model.fast_json import to_json
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Reading
from memwarden.readers.command_lines import CommandLines
from memwarden.settings import resolve

INTERVAL = 1.0
#: The part of a core that fair shares may cost while the list is drawn again and again.
_BUDGET = 0.002
#: The fair share of a process is at most its resident size, and those of forks are much less: to find the largest
#: by fair share, so many times more are read.
_CANDIDATES = 4
#: Where the list is made once there is no budget to keep, only an end to waiting, as soon as nothing more comes.
_ONCE_SECONDS, _STILL_SECONDS = 5.0, 0.3
#: Columns where nobody says how many there are.
_WIDTH = 120


def top(flags: Mapping[str, Any], count: int, *, sort: str, once: bool, as_json: bool) -> int:
    """Print or draw the list; returns the exit code. Raises :class:`MemwardenError`."""
    settings = resolve(flags, os.environ)
    most = count * _CANDIDATES if sort == "pss" else count
    if not once and not as_json and render.wants_colour(sys.stdout):
        interval = INTERVAL if settings.sources["interval"].kind == "default" else settings.interval
        return _live(most, count, sort, interval, settings.duration)
    with Output("top") as output:
        reading = _once(most)
        rows = ranked(reading.sample, sort)[:count]
        if as_json:
            output.print(to_json(reading._replace(sample=_of(reading.sample, rows))))
        else:
            width = shutil.get_terminal_size((_WIDTH, 24)).columns
            for line in listing(reading, rows, width, CommandLines()):
                output.print("".join(text for text, _ in line).rstrip())
    return output.code


def ranked(sample: Sample, sort: str) -> list[ProcessMemory]:
    """The processes of a sample, largest first; by fair share those come last whose share is not known."""
    rows = [] if sample.top is None else sample.top.rows()
    if sort == "pss":
        known = shares(sample)
        rows.sort(key=lambda row: -known[row.key][0] if row.key in known else 0)
    return rows


def listing(reading: Reading, rows: list[ProcessMemory], width: int, commands: CommandLines) -> list[Line]:
    """What is printed and drawn: the machine, the container, and the processes."""
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
    lines = [cut(head, width), *table(sample, rows, width, command=commands.of)]
    for gap in sample.gaps:
        detail = f": {gap.detail}" if gap.detail else ""
        words = render.printable(f"{gap.what}, {gap.why} at {gap.where}{detail}")
        lines.append(cut([("missing ", "yellow"), (words, "")], width))
    return lines


def _of(sample: Sample, rows: list[ProcessMemory]) -> Sample:
    """The sample with these processes only, in this order."""
    top, told = sample.top, sample.shares
    if top is not None:
        at = {key: number for number, key in enumerate(top.keys)}
        order = [at[row.key] for row in rows]
        shared = tuple([top.shared[number] for number in order]) if top.shared else ()
        keys, names, rss = zip(*[(top.keys[n], top.names[n], top.rss[n]) for n in order], strict=True)
        top = top._replace(keys=keys, names=names, rss=rss, shared=shared)
    if told is not None:
        wanted = {row.key for row in rows}
        order = [number for number, key in enumerate(told.keys) if key in wanted]
        told = told._replace(
            keys=tuple([told.keys[number] for number in order]),
            pss=tuple([told.pss[number] for number in order]) if told.pss else (),
            uss=tuple([told.uss[number] for number in order]),
            ages=tuple([told.ages[number] for number in order]),
        )
    return sample._replace(top=top, shares=told)


def _once(most: int) -> Reading:
    """One look, after as many as it takes until each fair share is known that can be."""
    warden = Warden(machine(most, budget=1.0, longest=_ONCE_SECONDS).readers)
    began = since = time.monotonic()
    known = -1
    try:
        while True:
            reading = warden.look()
            now, count = time.monotonic(), len(shares(reading.sample))
            if count > known:
                known, since = count, now
            listed = 0 if reading.sample.top is None else len(reading.sample.top.keys)
            if count >= listed or now - since >= _STILL_SECONDS or now - began >= _ONCE_SECONDS:
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
    warden.subscribe(inbox.receive)
    ends = None if duration is None else time.monotonic() + duration
    with Output("top") as output:
        with inbox.signals(drawn=True), screen, warden:
            while ends is None or time.monotonic() < ends:
                item = inbox.take(3600.0 if ends is None else ends - time.monotonic())
                if isinstance(item, Event):
                    if item.kind is EventKind.SAMPLE:
                        newest[:] = [item.value]
                        screen.show()
                elif item is not None and not screen.heed(item):
                    break
        screen.leave(draw(screen.width, 24))
    return output.code
