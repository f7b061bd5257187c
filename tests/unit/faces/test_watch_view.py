"""Exact views and lines of a watch, for readings that a test makes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from memwarden.assess.pressure import PressureDetector
from memwarden.faces import render
from memwarden.faces.cli.live import plain_output
from memwarden.faces.cli.live.dashboard import view
from memwarden.faces.cli.live.table import Line, table
from memwarden.faces.cli.live.watch_state import WatchState, event_text
from memwarden.model.decisions import Clearing, Decision, Outcome
from memwarden.model.events import Event, EventKind
from memwarden.model.facts import (
    CgroupMemory,
    Gap,
    GpuMemory,
    ProcessKey,
    ProcessMemory,
    PsiLine,
    PsiStats,
    ShareMemory,
    SystemMemory,
    TopProcesses,
    TreeMemory,
)
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.units import GIB, MIB
from memwarden.model.verdicts import Assessment, Forecast, LeakStage, LeakVerdict, PressureLevel, Reading, Trend
from memwarden.readers.command_lines import CommandLines

WALL = 1_700_000_000.0
ROOT, CHILD = ProcessKey(4242, 1), ProcessKey(4250, 2)
SYSTEM = SystemMemory(8 * GIB, 6 * GIB, 5 * GIB, 0, 2 * GIB, 2 * GIB - 100 * MIB)
PSI = PsiStats("/app", PsiLine(0.125, 0, 0, 0), PsiLine(0.03, 0, 0, 0))
GROUP = CgroupMemory("/app", 2, 500 * MIB, 512 * MIB, 20 * MIB)


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of day are those of UTC."""
    monkeypatch.setenv("TZ", "UTC")
    if hasattr(time, "tzset"):
        time.tzset()
    yield
    monkeypatch.undo()
    if hasattr(time, "tzset"):
        time.tzset()


class NoCommands(CommandLines):
    """Command lines that are not read."""

    def of(self, key: ProcessKey) -> str:
        return f"python3 serve.py --number {key.pid}"


def assessment(ratio: float, level: PressureLevel, limit: Limit) -> Assessment:
    used = int(limit.bytes * ratio)
    return Assessment(level, level, Constraint(limit, used), limit, limit.bytes - used, 0.0)


def tree_reading(at: float, rss: int, **more: object) -> Reading:
    """A process of so much and its child of 40 MiB, in a container at 94 % of its limit."""
    tree = TreeMemory(ROOT, (CHILD, ROOT), ("worker", "serve"), (40 * MIB, rss), (8 * MIB, 8 * MIB))
    shares = ShareMemory((ROOT, CHILD), (rss - 4 * MIB, 36 * MIB), (0, 0), (0.2, 12.0))
    sample = Sample(
        WALL + at, 1000.0 + at, 0.0, SYSTEM, ProcessMemory(ROOT, "serve", rss), tree, (GROUP,), psi=PSI, shares=shares
    )
    return Reading(sample._replace(**more), assessment(0.94, PressureLevel.CRITICAL, Limit(512 * MIB, "cgroup /app")))


def machine_reading(at: float = 0.0) -> Reading:
    top = TopProcesses(171, (ROOT, CHILD), ("serve", "名前の長い名前の長い"), (900 * MIB, 40 * MIB), (8 * MIB, 8 * MIB))
    sample = Sample(WALL + at, 1000.0 + at, 0.0, SYSTEM, top=top)
    return Reading(sample, assessment(0.25, PressureLevel.LOW, Limit(8 * GIB, "machine")))


def state(*readings: Reading, interval: float = 1.0) -> WatchState:
    made = WatchState(interval, NoCommands())
    for reading in readings:
        made.add(reading)
    return made


def text(drawn: list[Line]) -> str:
    return "\n".join("".join(part for part, _ in line).rstrip() for line in drawn)


TREE = state(*[tree_reading(float(at), (400 + at) * MIB) for at in range(31)])
DECIDED = Decision(rule="early", action="notify", reason="used is 94 %", wall=WALL + 30, monotonic=1030.0)
TREE.events.append(Event(EventKind.DECISION, WALL + 30, 1030.0, DECIDED.reason, DECIDED))


WIDE = """\
memwarden serve[4242]  every 1 s, for 0:30                                                  22:13:50
█ CRITICAL   94.0%  481.3 MiB of 512 MiB  cgroup /app
██████████████████████████████████████████████████████████████████████████████████████████████░░░░░░
resident 470.0 MiB in 2 processes   growth +30.0 MiB   peak 470.0 MiB   available 30.7 MiB
pss 462.0 MiB (12 s)   anonymous 454.0 MiB   shared 16.0 MiB   swap 100.0 MiB of 2 GiB
stalls 12.5% some, 3.0% full   machine 2.00 GiB of 8 GiB

 512.0 MiB │                                           ▁▁▁▁▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▃▃▃▃▃▃▃▃▃▃▃▃▃▃▄▄▄▄▄▄▄▄▄▄
           │                                           ████████████████████████████████████████████
           │                                           ████████████████████████████████████████████
           │                                           ████████████████████████████████████████████
           │                                           ████████████████████████████████████████████
           │                                           ████████████████████████████████████████████
resident 0 └──────────────────────────────────────────────────────────────────────────── last 1 min

  pid process     resident      growth machine  limit        pss    age  anonymous     shared
 4242 serve      430.0 MiB   +30.0 MiB    5.2%    84%  426.0 MiB    now  422.0 MiB    8.0 MiB
 4250 worker      40.0 MiB         0 B    0.5%     8%   36.0 MiB   12 s   32.0 MiB    8.0 MiB

22:13:50 decision early: used is 94 % -> notify"""


def test_a_tree_on_a_usual_terminal() -> None:
    """Level, bar, figures with their labels, the chart, the processes and the events: all on 24 lines."""
    assert text(view(TREE, "serve[4242]", 100, 20)) == WIDE


SMALL = """\
memwarden serve[4242]           22:13:50
█ CRITICAL 94.0%  481.3 MiB of 512 MiB
█████████████████████████████████████▋░░
resident 470.0 MiB in 2 processes
growth +30.0 MiB   peak 470.0 MiB
  pid process     resident      growth
 4242 serve      430.0 MiB   +30.0 MiB
 4250 worker      40.0 MiB         0 B
22:13:50 decision early: used is 94 % ->"""


def test_a_tree_on_a_small_terminal() -> None:
    """On 40 x 10 what matters most is left: level, size, growth, processes, the newest event."""
    assert text(view(TREE, "serve[4242]", 40, 10)) == SMALL


@pytest.mark.parametrize("width", [1, 10, 20, 40, 71, 72, 80, 133, 240])
@pytest.mark.parametrize("height", [1, 2, 5, 10, 24, 60])
@pytest.mark.parametrize("blocks", [True, False], ids=["blocks", "ASCII"])
def test_no_line_is_wider_than_the_terminal(width: int, height: int, blocks: bool) -> None:
    """Nor are there more lines than it has rows, in any script; without block characters all of ours is ASCII."""
    gap = Gap("psi", "/proc/pressure/memory", "absent", "日本語 " * 40)
    for made in (TREE, state(machine_reading(), machine_reading(2.0)), state(tree_reading(0.0, MIB, gaps=(gap,)))):
        drawn = view(made, "serve[4242]", width, height, blocks=blocks)
        assert len(drawn) <= height
        for line in drawn:
            assert sum(render.cells(part) for part, _ in line) <= width
    if not blocks:
        assert text(view(TREE, "serve", width, height, blocks=False)).isascii()


def test_before_the_first_reading_there_is_a_title() -> None:
    """And nothing that could be taken for a figure."""
    assert text(view(WatchState(1.0, NoCommands()), "this machine", 40, 10)) == f"{'this machine':<31}reading …"


def test_names_of_processes_cannot_control_the_terminal() -> None:
    """Escape sequences and line ends in names, paths and reasons are shown as question marks."""
    evil = "\033[2J\n\x9bm"
    tree = TreeMemory(ROOT, (ROOT,), (evil,), (MIB,), ())
    made = state(tree_reading(0.0, MIB, tree=tree, gaps=(Gap("psi", evil, "absent", evil),)))
    made.events.append(Event(EventKind.TROUBLE, WALL, 0.0, evil))
    drawn = view(made, "x", 120, 40)
    assert all(part.isprintable() for line in drawn for part, _ in line)
    assert "?[2J?" in text(drawn)
    assert made.reading is not None
    assert plain_output.line(made, made.reading).isprintable()
    assert str(plain_output.event_line(made.events[-1])).isprintable()


def test_wide_characters_keep_the_columns() -> None:
    """A name of East Asian characters takes two columns each and is cut between two of them."""
    reading = machine_reading()
    assert reading.sample.top is not None
    _, first, second = table(reading.sample, reading.sample.top.rows(), 60)
    places = []
    for line in (first, second):
        shown = "".join(part for part, _ in line)
        places.append(render.cells(shown[: shown.index("MiB")]))
    assert places[0] == places[1]


def test_columns_are_left_out_from_the_right_on_a_narrow_terminal() -> None:
    """The command is left out first, resident size last."""
    reading = machine_reading()
    assert reading.sample.top is not None
    seen = []
    for width in (30, 66, 90, 140):
        head = table(reading.sample, reading.sample.top.rows(), width, command=lambda key: "serve")[0][0][0]
        seen.append(head.split())
    assert seen == [
        ["pid", "process", "resident"],
        ["pid", "process", "resident", "machine", "pss", "age"],
        ["pid", "process", "resident", "machine", "pss", "age", "anonymous", "shared"],
        ["pid", "process", "resident", "machine", "pss", "age", "anonymous", "shared", "command"],
    ]


def test_a_gap_is_shown_as_text() -> None:
    """What is missing, where and why, with the way out."""
    gap = Gap("shares", "/proc/PID/smaps_rollup", "denied", "pid 1: root can read it")
    drawn = text(view(state(tree_reading(0.0, MIB, gaps=(gap,))), "x", 100, 24))
    assert "missing shares, denied at /proc/PID/smaps_rollup: pid 1: root can read it" in drawn


PLAIN = """\
time     level     share       used      limit  available       swap stalls    watched      growth processes largest
22:13:21 CRITICAL  94.0%   481.3MiB   512.0MiB    30.7MiB   100.0MiB  12.5%   450.0MiB    +10.0MiB         2 serve[4242] 410.0MiB
22:13:20 LOW       25.0%    2.00GiB    8.00GiB    6.00GiB   100.0MiB      -          -           -       171 serve[4242] 900.0MiB
22:13:20 LOW           -          -          -          -          -      -          -           -         - -"""  # noqa: E501


def test_plain_lines_have_columns() -> None:
    """The same columns for a tree, for the machine and for nothing at all; no value but the last holds a blank."""
    made = state(tree_reading(0.0, 400 * MIB), tree_reading(1.0, 410 * MIB))
    assert made.reading is not None
    bare = Reading(Sample(WALL, 1.0), Assessment(PressureLevel.LOW, PressureLevel.LOW, None, None, None, 0.0))
    machine = state(machine_reading())
    assert machine.reading is not None
    printed = [
        plain_output.header(),
        plain_output.line(made, made.reading),
        plain_output.line(machine, machine.reading),
        plain_output.line(state(bare), bare),
    ]
    assert "\n".join(printed) == PLAIN


def test_events_are_shown_once_and_as_a_sentence() -> None:
    """A decision with its rule and action, a rehearsal as one, a clearing with its length; nothing twice."""
    rehearsed = DECIDED._replace(dry_run=True, repeat=2)
    cases = {
        "decision early: used is 94 % -> notify": Event(EventKind.DECISION, WALL, 0.0, "", DECIDED),
        "decision early: used is 94 % -> notify (dry run), time 3": Event(EventKind.DECISION, WALL, 0.0, "", rehearsed),
        "decision early: used is 94 % -> undo notify": Event(
            EventKind.DECISION, WALL, 0.0, "", DECIDED._replace(undo=True)
        ),
        "cleared early after 12.0 s: back": Event(
            EventKind.CLEARED, WALL, 0.0, "", Clearing("early", "back", WALL, 1.0, 12.0)
        ),
        "outcome early: pause: not done": Event(
            EventKind.OUTCOME, WALL, 0.0, "", Outcome(DECIDED._replace(action="pause"), False, "not done")
        ),
        "level HIGH, was LOW: 25% of machine": Event(
            EventKind.LEVEL, WALL, 0.0, "HIGH, was LOW", machine_reading().assessment
        ),
    }
    for sentence, event in cases.items():
        words = event_text(event)
        assert words is not None
        assert " ".join(words) == sentence
    assert event_text(Event(EventKind.OUTCOME, WALL, 0.0, "", Outcome(DECIDED, True, "shown"))) is None
    assert event_text(Event(EventKind.SAMPLE, WALL, 0.0, "", machine_reading())) is None


def test_a_watch_of_days_does_not_grow() -> None:
    """Points, events and first sizes are bounded, however many processes come and go."""
    made = WatchState(0.01, NoCommands())
    for at in range(6000):
        key = ProcessKey(at + 1, at)
        tree = TreeMemory(key, (key,), ("x",), (MIB + at,), ())
        made.add(tree_reading(at * 0.1, MIB, tree=tree))
        made.events.append(Event(EventKind.TROUBLE, WALL, 0.0, "x"))
    assert len(made.points("watched")) <= 1200
    assert len(made.events) <= 64
    assert len(made._first) <= 4097
    assert made.growth == 5999
    assert made.peak == MIB + 5999


def test_the_chart_only_scrolls() -> None:
    """With a span, columns are the same seconds of the clock in every view: two seconds move all by one, no more."""
    points = [(float(at), (at * 5 % 7 + 1) * MIB) for at in range(100, 160)]
    before = render.chart(points, 8 * MIB, width=30, rows=3, span=60.0)
    after = render.chart([*points, (160.0, MIB), (161.0, MIB)], 8 * MIB, width=30, rows=3, span=60.0)
    for old, new in zip(before[:-1], after[:-1], strict=True):
        assert new[12:].ljust(30)[:29] == old[12:].ljust(30)[1:]
    assert before[-1].endswith("last 1 min")


def test_a_chart_with_a_span_is_empty_before_its_first_point() -> None:
    """Ten seconds of a minute take a sixth of the width, at the right."""
    line = render.chart([(100.0, MIB), (109.0, MIB)], None, width=60, rows=1, span=60.0)[0]
    assert line == f"{'1.0 MiB':>10} │{' ' * 50}{'█' * 10}"


@pytest.mark.parametrize(
    ("share", "filled"),
    [(0.0, ""), (0.001, "▏"), (0.5, "█████"), (0.51, "█████▏"), (1.0, "██████████"), (7.0, "██████████")],
)
def test_a_bar_shows_a_share(share: float, filled: str) -> None:
    """To an eighth of a column; something is never nothing, and more than all is all."""
    full, empty = render.bar(share, 10)
    assert full == filled
    assert len(full) + len(empty) == 10
    full, empty = render.bar(share, 10, blocks=False)
    assert (full + empty).isascii()
    assert len(full + empty) == 10


def test_each_level_has_a_sign_of_its_own() -> None:
    """With and without block characters, so that no colour is needed to distinguish them."""
    for blocks in (True, False):
        assert len({render.glyph(level, blocks=blocks) for level in PressureLevel}) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_command_lines_are_short_and_kept(tmp_path: object) -> None:
    """The program's name without its folder, read once in a while; nothing where it cannot be read."""
    folder = str(tmp_path)
    os.makedirs(f"{folder}/7")
    with open(f"{folder}/7/cmdline", "wb") as file:
        file.write(b"/usr/bin/python3\0-c\0import x\nx.serve()\0")
    commands = CommandLines(folder)
    assert commands.of(ProcessKey(7, 1)) == "python3 -c import x x.serve()"
    os.unlink(f"{folder}/7/cmdline")
    assert commands.of(ProcessKey(7, 1)) == "python3 -c import x x.serve()"
    assert commands.of(ProcessKey(7, 2)) == ""


@pytest.mark.contract("V-18")
def test_cards_are_shown_and_one_may_be_the_nearest_limit() -> None:
    """Each with its memory; in the bar the one that is nearest to being full."""
    cards = tuple(
        GpuMemory(number, "RTX 3090", f"GPU-{number}", 24 * GIB, used * GIB, (24 - used) * GIB)
        for number, used in enumerate((5, 23))
    )
    sample = Sample(WALL, 1000.0, system=SYSTEM, gpus=cards)
    made = WatchState(1.0, NoCommands())
    made.add(Reading(sample, PressureDetector().assess(sample)))
    shown = text(view(made, "this machine", 110, 20))
    assert "CRITICAL   95.8%  23.00 GiB of 24 GiB  gpu 1" in shown
    assert "gpu 0 5.00 GiB of 24 GiB   gpu 1 23.00 GiB of 24 GiB" in shown


def test_a_leak_is_shown_with_its_reason_and_the_time_left() -> None:
    """In words, on as many lines as fit; a card's name too, and nothing where there is nothing to say."""
    forecast = Forecast(6900.0, 8000.0, 10900.0, 0.8, "serve[4242]")
    reason = (
        "the rolling minimum rose 250 MiB in 2.1 h (from 200 MiB to 450 MiB) in about 125 steps, the largest 1% of it"
    )
    leak = LeakVerdict(LeakStage.CONFIRMED, reason, 200 * MIB, 450 * MIB, 7500.0, forecast, "serve[4242]")
    sample, found = tree_reading(0.0, 400 * MIB)
    judged = found._replace(trend=Trend("increasing", 90, 0.99, 3e4), leak=leak, forecast=forecast)
    shown = text(view(state(Reading(sample, judged)), "t", 100, 40))
    assert "leak CONFIRMED serve[4242]: the rolling minimum rose 250 MiB in 2.1 h" in shown
    assert "the largest 1% of it" in shown
    assert "trend increasing   full in 1.9 h to 3.0 h (serve[4242])" in shown.replace("\n", "   ")
    small = view(state(Reading(sample, judged)), "t", 60, 12)
    assert len(small) <= 12
    assert sum("leak CONFIRMED" in text([line]) for line in small) == 1
    calm = found._replace(trend=Trend("stable", 90, 0.9, 0.0), leak=leak._replace(stage=LeakStage.NONE), forecast=None)
    quiet = text(view(state(Reading(sample, calm)), "t", 100, 40))
    assert not any(word in quiet for word in ("leak", "trend", "full in"))
