"""The live view of a watch: its state as lines, cut to the width and height of the terminal.

On a small terminal columns are left out from the right, then blank lines, the chart, events and processes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from memwarden.assess.reasons import time_left_text
from memwarden.assess.trend import STABLE
from memwarden.faces import render
from memwarden.faces.cli.live.table import BOLD, DIM, Line, age, cut, gap_lines, own_group, table
from memwarden.faces.cli.live.watch_state import WATCHED, WatchState, event_text, processes, shares
from memwarden.model.decisions import Decision
from memwarden.model.events import EventKind
from memwarden.model.sample import Sample
from memwarden.model.verdicts import Assessment, LeakStage, LeakVerdict

#: Minimum width of the wide layout.
_WIDE = 72
#: Rows of a chart with its axis, and their minimum.
_CHART, _LEAST_CHART = 6, 4
#: Width of a chart's label and axis.
_LABEL = 12

_EVENT_STYLES = {
    EventKind.DECISION: "yellow",
    EventKind.CLEARED: "green",
    EventKind.TROUBLE: "red",
    EventKind.OVERFLOW: "red",
    EventKind.EXIT: BOLD,
}


def view(
    state: WatchState, title: str, width: int, height: int, *, blocks: bool = True, final: bool = False
) -> list[Line]:
    """Return the view in at most ``height`` lines. ``final`` leaves out space that only a live view needs."""
    reading = state.reading
    if reading is None:
        return [_sides([(title, BOLD)], [("reading …" if blocks else "reading ...", DIM)], width)]
    sample, assessment = reading
    head = [_header(state, sample, title, width), *_level(assessment, width, blocks)]
    head += _wrapped(_figures(state, sample, assessment), width)[: max(1, height // 5)]
    head += _leak(assessment, width)[: max(1, height // 10)]
    gaps = gap_lines(sample, width)
    listed = table(sample, processes(sample), width, growth=state.growth_of, command=state.command_of)
    events = _events(state, width)
    chart = _chart(state, assessment, sample, width, blocks)

    left = height - len(head)

    def take(count: int) -> int:
        nonlocal left
        taken = max(0, min(count, left))
        left -= taken
        return taken

    rows = take(min(len(listed), 4)) if len(listed) > 1 else 0
    shown = take(min(len(events), 1 + (left > 3)))
    gaps = gaps[: take(min(len(gaps), 2))]
    spaced = left >= 3  # a blank line before the chart, the processes and the events
    take(3 if spaced else 0)
    charted = take(_CHART) if chart and left >= _LEAST_CHART else 0
    rows += take(len(listed) - rows) if rows else 0
    shown += take(min(len(events) - shown, 6))
    charted += take(4) if charted and not final else 0

    blank: list[Line] = [[]] if spaced else []
    if 1 < rows < len(listed):
        listed[rows - 1] = [(f"{len(listed) - rows + 1} more"[:width], DIM)]
    lines = head
    if charted and chart:
        lines += [*blank, *chart(charted)]
    if rows:
        lines += [*blank, *listed[:rows]]
    below = [*gaps, *events[len(events) - shown :]]
    if below and len(lines) + len(below) < height:
        lines += blank
    return [*lines, *below][:height]


def _header(state: WatchState, sample: Sample, title: str, width: int) -> Line:
    left: Line = [("memwarden ", DIM), (title, BOLD)]
    if width >= _WIDE:
        left.append((f"  every {state.interval:g} s, for {_duration(state.seconds)}", DIM))
    return _sides(left, [(render.clock(sample.wall), DIM)], width)


def _duration(seconds: float) -> str:
    """Return a duration as ``0:07`` or ``1:02:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _level(assessment: Assessment, width: int, blocks: bool) -> list[Line]:
    """Return the pressure level and the use of the binding limit."""
    colour = render.COLOURS[assessment.level]
    word: Line = [(f"{render.glyph(assessment.level, blocks=blocks)} {assessment.level.name}", f"bold {colour}")]
    binding = assessment.binding
    if binding is None:
        return [[*word, ("  no limit could be read", "")]]
    share = f"{binding.ratio:.1%}"
    of = f"{render.size(binding.used)} of {render.limit(binding.limit.bytes)}"
    source = render.printable(binding.limit.source)
    wide = width >= _WIDE
    label = f"{'':2}{share:>6}  {of}" if wide else f" {share}  {of}"
    line: Line = [*word, (" " * (10 - render.cells(word[0][0])), "") if wide else ("", ""), (label, BOLD)]
    line.append((f"  {source}", DIM))
    filled, empty = render.bar(binding.ratio, width, blocks=blocks)
    return [cut(line, width), [(filled, colour), (empty, DIM)]]


def _figures(state: WatchState, sample: Sample, assessment: Assessment) -> list[Line]:
    """Return the figures, each with its label; lines may break between two of them."""
    figures: list[Line] = []

    def add(word: str, text: str, style: str = "") -> None:
        figures.append([(f"{word} ", DIM), (text, style)])

    tree, measured = sample.tree, shares(sample)
    if tree is not None:
        count = len(tree.keys)
        add("resident", f"{render.size(tree.total)} in {count} process{'es' if count != 1 else ''}", BOLD)
        if state.growth is not None:
            add("growth", render.growth(state.growth))
        add("peak", render.size(max(state.peak, _root_peak(sample))))
    if assessment.available is not None:
        add("available", render.size(assessment.available))
    if assessment.trend is not None and assessment.trend.word != STABLE:
        add("trend", assessment.trend.word)
    if assessment.forecast is not None:
        forecast = assessment.forecast
        of = f" ({render.printable(forecast.what)})" if forecast.what else ""
        add("full in", f"{time_left_text(forecast).removeprefix('full in ')}{of}")
    if tree is not None:
        if tree.keys and all(key in measured for key in tree.keys):
            oldest = max(measured[key][1] for key in tree.keys)
            add("pss", f"{render.size(sum(measured[key][0] for key in tree.keys))} ({age(oldest)})")
        if tree.anon is not None:
            add("anonymous", render.size(tree.anon))
            add("shared", render.size(tree.total - tree.anon))
        if sample.process is not None and sample.process.swap:
            add("swapped", render.size(sample.process.swap))
    effective, binding = assessment.effective, assessment.binding
    if effective is not None and binding is not None and effective != binding.limit:
        add("limit", f"{render.limit(effective.bytes)} ({render.printable(effective.source)})")
    system = sample.system
    if system is not None and system.swap_used is not None:
        of = f"{render.size(system.swap_used)} of {render.limit(system.swap_total or 0)}"
        add("swap", of if system.swap_total else "none")
    if sample.psi is not None:
        full = f", {sample.psi.full.avg10:.1%} full" if sample.psi.full is not None else ""
        stalled = sample.psi.some.avg10 > 0.1
        add("stalls", f"{sample.psi.some.avg10:.1%} some{full}", "yellow" if stalled else "")
    if sample.system is not None and (binding is None or binding.limit.source != "machine"):
        add("machine", f"{render.size(sample.system.used)} of {render.limit(sample.system.total)}")
    group = own_group(sample)
    if group is not None and (binding is None or binding.limit.source != f"cgroup {group.path}"):
        limit = f" of {render.limit(group.limit)}" if group.limit is not None else ", no limit"
        add("container", f"{render.printable(group.path)} {render.size(group.working_set)}{limit}")
    for gpu in sample.gpus or ():
        add(f"gpu {gpu.number}", f"{render.size(gpu.used)} of {render.limit(gpu.total)}")
    return figures


def _leak(assessment: Assessment, width: int) -> list[Line]:
    """Return the leak verdict with its reason; no line without a leak."""
    leak = assessment.leak
    if leak is None or leak.stage is LeakStage.NONE:
        return []
    text = render.printable(f"{leak.what}: {leak.reason}" if leak.what else leak.reason)
    style = render.LEAK_COLOURS[leak.stage]
    begin: Line = [("leak ", DIM), (f"{leak.stage.name} ", style)]
    first, *others = textwrap.wrap(text, width, initial_indent=" " * len(f"leak {leak.stage.name} ")) or [""]
    return [cut([*begin, (first.lstrip(), "")], width), *([(other, "")] for other in others)]


def _root_peak(sample: Sample) -> int:
    """Return the kernel's peak of the process where it is the only one, else 0."""
    tree, process = sample.tree, sample.process
    alone = tree is not None and len(tree.keys) == 1 and process is not None and process.key == tree.keys[0]
    return (process.peak or 0) if alone and process is not None else 0


def _chart(
    state: WatchState, assessment: Assessment, sample: Sample, width: int, blocks: bool
) -> Callable[[int], list[Line]] | None:
    """Return a function that draws the chart in a number of rows with its axis; None without points."""
    binding = assessment.binding
    if sample.used is not None:
        points, limit, what = state.points(WATCHED), None, "resident"
    elif binding is not None:
        points, limit, what = state.points(binding.limit.source), binding.limit.bytes, "used"
    else:
        return None
    wide = width - _LABEL - 1
    if len(points) < 2 or wide < 20:
        return None
    most = max(used for _, used in points)
    # A limit far above would flatten the chart; then the scale ends at the next round figure.
    ceiling = limit if limit is not None and most * 3 >= limit else _round_above(most)
    colour = render.COLOURS[assessment.level]

    def draw(rows: int) -> list[Line]:
        lines = render.chart(points, ceiling, width=wide, rows=rows - 1, blocks=blocks, span=state.chart_seconds)
        drawn: list[Line] = [[(line[:_LABEL], DIM), (line[_LABEL:], colour)] for line in lines[:-1]]
        return [*drawn, [(f"{what:<8}{lines[-1][8:]}"[:width], DIM)]]

    return draw


def _round_above(count: int) -> int:
    """Return the next of 1, 1.5, 2, 3, 4, 6 times a power of two, so that the scale seldom changes."""
    step = 1
    while step * 8 < count:
        step *= 2
    return next(step * each // 2 for each in (2, 3, 4, 6, 8, 12, 16) if step * each // 2 >= count)


def _events(state: WatchState, width: int) -> list[Line]:
    lines = []
    for event in state.events:
        text = event_text(event)
        if text is None or event.kind is EventKind.GAP:  # a gap that lasts is shown as missing
            continue
        kind, message = text
        style = _EVENT_STYLES.get(event.kind, "")
        if event.kind is EventKind.LEVEL and isinstance(event.value, Assessment):
            style = render.COLOURS[event.value.level]
        elif isinstance(event.value, LeakVerdict):
            style = render.LEAK_COLOURS[event.value.stage]
        elif isinstance(event.value, Decision) and event.value.severity == "critical" and not event.value.undo:
            style = "red"
        lines.append(cut([(f"{render.clock(event.wall)} ", DIM), (f"{kind} ", style or BOLD), (message, "")], width))
    return lines


def _wrapped(figures: Sequence[Line], width: int) -> list[Line]:
    """Return the figures on as many lines as they need."""
    lines: list[Line] = []
    used = width
    for figure in figures:
        wide = sum(render.cells(text) for text, _ in figure)
        if lines and used + 3 + wide <= width:
            lines[-1] += [("   ", ""), *figure]
            used += 3 + wide
        else:
            lines.append(cut(list(figure), width))
            used = wide
    return lines


def _sides(left: Line, right: Line, width: int) -> Line:
    """Return one part at the left and one at the right; a narrow line has the left part only."""
    ends = sum(render.cells(text) for text, _ in right)
    starts = sum(render.cells(text) for text, _ in left)
    if starts + 2 + ends > width:
        return [*cut(left, width - ends - 2), ("  ", ""), *right] if width > ends + 20 else cut(left, width)
    return [*left, (" " * (width - starts - ends), ""), *right]
