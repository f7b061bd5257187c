"""A batch's report as an SVG picture that stands by itself: no script, no font, nothing fetched.

Above the memory: what was reserved, what was used, and the budget; below the tasks that ran and those that stood still.
A triangle marks each task that was ended. Its colours follow the reader's: light or dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

from memwarden.admission.batch.report_text import columns
from memwarden.admission.executor.batch_report import BatchPoint, BatchReport
from memwarden.model.scale import round_steps
from memwarden.model.text import printable
from memwarden.model.units import seconds_text, size_text

WIDTH, HEIGHT = 840, 470
_LEFT, _RIGHT = 86, 24
#: Top and bottom of both panels.
_MEMORY, _TASKS = (96, 296), (332, 420)
#: Finer than that nobody sees.
_COLUMNS = 360
#: Of the axis of time, with its seconds.
_UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
#: Colours that people tell apart who do not see all of them (Okabe and Ito).
_STYLE = """
.paper{fill:#ffffff}.ink{fill:#1f2328}.soft{fill:#59636e}.grid{stroke:#d9dee3}
.reserved{fill:#b9d7ee}.used{fill:#0072b2}.budget{stroke:#1f2328}.work{fill:#009e73}.paused{fill:#e69f00}
.mark{fill:#d55e00}.line{stroke:#d55e00}
@media(prefers-color-scheme:dark){
.paper{fill:#15191f}.ink{fill:#e6e9ed}.soft{fill:#9aa4af}.grid{stroke:#2d343c}
.reserved{fill:#274a66}.used{fill:#56b4e9}.budget{stroke:#e6e9ed}.work{fill:#2fbf94}}
"""


def report_plot(report: BatchReport) -> str:
    """The picture."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
            f"<title>{_words(_title(report))}</title>",
            f"<style>{_STYLE}</style>",
            '<rect class="paper" width="100%" height="100%"/>',
            _text(_LEFT, 26, _title(report), size=16),
            _text(_LEFT, 46, _subtitle(report), kind="soft"),
            *_drawing(report),
            "</svg>",
        ]
    )


def _title(report: BatchReport) -> str:
    done = f"{report.finished} of {report.submitted} tasks" if report.finished < report.submitted else None
    return f"{done or f'{report.submitted} tasks'} in {seconds_text(report.makespan)}"


def _subtitle(report: BatchReport) -> str:
    parts = [f"{report.concurrency:.1f} at once in the mean, {report.most_running} at most"]
    parts.append(f"{size_text(report.peak_used)} used at most, held by {report.backstop}")
    parts += [
        f"{count} {word}"
        for count, word in ((report.pauses, "pauses"), (report.requeues, "put back"), (report.failed, "failed"))
        if count
    ]
    return "  ·  ".join(parts)


def _drawing(report: BatchReport) -> Iterator[str]:
    end = report.moments[-1].seconds if report.moments else 0.0
    if end <= 0:
        yield _text(_LEFT, 140, "It was over before anybody looked.", kind="soft")
        return
    moments = columns(report.moments, _COLUMNS)
    moments.append(moments[-1]._replace(seconds=end))

    def across(seconds: float) -> float:
        return _LEFT + seconds / end * (WIDTH - _LEFT - _RIGHT)

    most = max(max(max(each.used, each.reserved, each.budget) for each in moments), 1) * 1.04
    up = _scale(*_MEMORY, most)
    yield from _rules(up, ((size, _short(size) if size else "0") for size in round_steps(0, most, 1024)))
    yield _area(moments, across, up, lambda each: each.reserved, "reserved")
    yield _area(moments, across, up, lambda each: each.used, "used")
    line = "H".join(f"{across(each.seconds):.1f}V{up(each.budget):.1f}" for each in moments)
    first = f"{across(0):.1f} {up(moments[0].budget):.1f}"
    yield f'<path class="budget" d="M{first}H{line}" fill="none" stroke-width="1.5" stroke-dasharray="7 4"/>'

    tasks = max(max(each.running for each in moments), 1)
    over = _scale(*_TASKS, tasks * 1.08)
    yield from _rules(over, ((count, str(count)) for count in (0, tasks)))
    yield _area(moments, across, over, lambda each: each.running, "paused")
    yield _area(moments, across, over, lambda each: each.running - each.paused, "work")
    for each in report.setbacks:
        x = across(min(each.seconds, end))
        yield (
            f"<g><title>{_words(f'{each.name}: {each.why}')}</title>"
            f'<path class="line" d="M{x:.1f} {_MEMORY[0]}V{_MEMORY[1]}M{x:.1f} {_TASKS[0]}V{_TASKS[1]}" '
            'stroke-opacity="0.5" stroke-dasharray="2 3"/>'
            f'<path class="mark" d="M{x - 5:.1f} {_MEMORY[0] - 10}h10l-5 9z"/></g>'
        )
    length, unit = next(each for each in _UNITS if end >= 3 * each[0] or each[0] == 1)
    for step in round_steps(0, end / length):
        yield _text(across(step * length), _TASKS[1] + 18, f"{step:g}", kind="soft", anchor="middle")
    yield _text(WIDTH - _RIGHT, _TASKS[1] + 36, unit, kind="soft", anchor="end")
    ended = report.setbacks and ("ended, and put back" if all(each.again for each in report.setbacks) else "ended")
    budget = f"budget ({_short(report.budget)})"
    yield from _legend(62, [("used", "used"), ("reserved", "reserved"), ("", budget)], ended or "")
    yield from _legend(_TASKS[0] - 18, [("work", "at work"), ("paused", "paused")], "")


def _scale(top: float, bottom: float, most: float) -> Callable[[float], float]:
    return lambda value: bottom - value / most * (bottom - top)


def _rules(up: Callable[[float], float], steps: Iterable[tuple[float, str]]) -> Iterator[str]:
    for value, label in steps:
        yield f'<path class="grid" d="M{_LEFT} {up(value):.1f}H{WIDTH - _RIGHT}"/>'
        yield _text(_LEFT - 8, up(value) + 4, label, kind="soft", anchor="end")


def _area(
    moments: Sequence[BatchPoint],
    across: Callable[[float], float],
    up: Callable[[float], float],
    of: Callable[[BatchPoint], int],
    kind: str,
) -> str:
    """A value over time, filled down to nothing; it stands until the next moment."""
    steps = "".join(f"H{across(each.seconds):.1f}V{up(of(each)):.1f}" for each in moments)
    return f'<path class="{kind}" d="M{across(0):.1f} {up(0):.1f}{steps}V{up(0):.1f}z"/>'


def _legend(y: float, entries: Sequence[tuple[str, str]], ended: str) -> Iterator[str]:
    x = float(_LEFT)
    for kind, name in entries:
        if kind:
            yield f'<rect class="{kind}" x="{x}" y="{y}" width="14" height="11" rx="2"/>'
        else:
            yield f'<path class="budget" d="M{x} {y + 6}h20" stroke-width="1.5" stroke-dasharray="7 4"/>'
        yield _text(x + (20 if kind else 26), y + 10, name)
        x += (36 if kind else 42) + 7 * len(name)
    if ended:
        yield f'<path class="mark" d="M{x} {y + 1}h10l-5 9z"/>'
        yield _text(x + 16, y + 10, ended)


def _short(size: float) -> str:
    """Whole numbers without a fraction."""
    number, unit = size_text(size).split(" ")
    return f"{float(number):g} {unit}"


def _text(x: float, y: float, words: str, *, kind: str = "ink", anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{_words(words)}</text>'
    )


def _words(text: str) -> str:
    """As XML takes it: control characters are not allowed there, and a name may hold anything."""
    return escape(printable(text))
