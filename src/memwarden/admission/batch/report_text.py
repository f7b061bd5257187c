"""A batch's report as text, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memwarden.admission.executor.batch_report import BatchPoint, BatchReport, TaskIncident
from memwarden.model.text import printable
from memwarden.model.units import seconds_text, size_text

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", "  ..::##@"
#: Setbacks that are told one by one; more are in the JSON.
_TOLD = 20
_ROWS = 4


def report_text(report: BatchReport, width: int = 80, *, blocks: bool = True) -> str:
    """The figures, the course over time, and each setback."""
    lines = [f"{title:<11} {words}".rstrip() for title, words in _figures(report)]
    if len(report.points) > 1:
        lines.append("")
        lines += _charts(report, max(20, width - 13), blocks)
    if report.incidents:
        lines.append("")
        lines += [_setback(each) for each in report.incidents[:_TOLD]]
        if len(report.incidents) > _TOLD:
            lines.append(f"… and {len(report.incidents) - _TOLD} more" if blocks else "and more")
    return "\n".join(lines)


def _figures(report: BatchReport) -> Iterator[tuple[str, str]]:
    counts = [f"{report.finished} of {report.submitted} done"]
    others = ((report.failed, "failed"), (report.cancelled, "cancelled"))
    counts += [f"{count} {word}" for count, word in others if count]
    yield "batch", f"{', '.join(counts)}, in {seconds_text(report.makespan)}"
    yield "budget", f"{size_text(report.budget)}, held by {report.enforcement}"
    share = f", {report.used_share:.0%} of it used in the mean" if report.used_share else ""
    yield "memory", f"{size_text(report.peak_used)} used at most, {size_text(report.peak_reserved)} reserved{share}"
    yield "at once", f"{report.concurrency:.1f} in the mean, {report.most_running} at most, of {report.workers} workers"
    paused = f"{report.pauses} paused ({seconds_text(report.paused_seconds)} together)"
    ended = f"{report.kills} ended to make room, {report.kernel_kills} by the kernel"
    yield "setbacks", f"{paused}, {ended}; {report.requeues} put back"


def _charts(report: BatchReport, width: int, blocks: bool) -> Iterator[str]:
    moments = columns(report.points, width)
    most = max(report.most_running, 1)
    yield from _area("at once", str(most), [each.running - each.paused for each in moments], most, blocks)
    ceiling = max(report.budget, report.peak_used, 1)
    yield from _area("used", size_text(ceiling), [each.used for each in moments], ceiling, blocks)
    corner, line = ("└", "─") if blocks else ("+", "-")
    told = seconds_text(report.makespan)
    yield f"{'0':>10} {corner}{line * (width - len(told) - 1)} {told}"


def _area(title: str, label: str, values: Sequence[int], most: int, blocks: bool) -> Iterator[str]:
    signs, axis = (_BLOCKS, "│") if blocks else (_ASCII, "|")
    for row in range(_ROWS, 0, -1):
        heights = (round(value / most * _ROWS * 8) - (row - 1) * 8 for value in values)
        drawn = "".join(signs[max(0, min(8, height))] for height in heights).rstrip()
        said = label if row == _ROWS else title if row == _ROWS - 1 else ""
        yield f"{said:>10} {axis}{drawn}"


def columns(moments: Sequence[BatchPoint], count: int) -> list[BatchPoint]:
    """So many moments at equal distances, each with the most of its share of time: a short peak is never lost."""
    end = moments[-1].seconds
    found: list[BatchPoint | None] = [None] * count
    for each in moments:
        at = min(count - 1, int(each.seconds / end * count)) if end > 0 else 0
        before = found[at]
        found[at] = each if before is None else BatchPoint(each.seconds, *map(max, before[1:], each[1:]))
    last = BatchPoint(0.0, 0, 0, 0, 0, 0, moments[0].budget)
    filled: list[BatchPoint] = []
    for at, known in enumerate(found):
        last = (known or last)._replace(seconds=end * at / count)
        filled.append(last)
    return filled


def _setback(each: TaskIncident) -> str:
    what = "put back" if each.retried else "given up"
    had = f"had {size_text(each.peak)}" + (f" of {size_text(each.reserved)}" if each.reserved else "")
    return f"{'at ' + seconds_text(each.seconds):<11} {printable(each.name)}: {printable(each.reason)}; {had}; {what}"
