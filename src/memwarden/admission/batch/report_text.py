"""Report of a batch as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memwarden.admission.executor.batch_report import BatchPoint, BatchReport, TaskIncident
from memwarden.model.text import printable
from memwarden.model.units import seconds_text, size_text

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", "  ..::##@"
#: Incidents that are listed; all are in the JSON.
_MAX_INCIDENTS = 20
_ROWS = 4


def report_text(report: BatchReport, width: int = 80, *, blocks: bool = True) -> str:
    """Return figures, charts over time, and incidents, for people. ``blocks``: with characters beyond ASCII."""
    lines = [f"{title:<11} {value}".rstrip() for title, value in _figures(report)]
    if len(report.points) > 1:
        lines.append("")
        lines += _charts(report, max(20, width - 13), blocks)
    if report.incidents:
        lines.append("")
        lines += [_incident(each) for each in report.incidents[:_MAX_INCIDENTS]]
        if len(report.incidents) > _MAX_INCIDENTS:
            lines.append(f"… and {len(report.incidents) - _MAX_INCIDENTS} more" if blocks else "and more")
    return "\n".join(lines)


def _figures(report: BatchReport) -> Iterator[tuple[str, str]]:
    counts = [f"{report.finished} of {report.submitted} done"]
    others = ((report.failed, "failed"), (report.cancelled, "cancelled"))
    counts += [f"{count} {word}" for count, word in others if count]
    yield "batch", f"{', '.join(counts)}, in {seconds_text(report.makespan)}"
    yield "budget", f"{size_text(report.budget)}, enforced by {report.enforcement}"
    share = f", {report.used_share:.0%} of it used on average" if report.used_share else ""
    yield "memory", f"{size_text(report.peak_used)} used at most, {size_text(report.peak_reserved)} reserved{share}"
    yield "running", f"{report.concurrency:.1f} on average, {report.most_running} at most, of {report.workers} workers"
    paused = f"{report.pauses} paused ({seconds_text(report.paused_seconds)} in all)"
    killed = f"{report.kills} killed to free memory, {report.kernel_kills} by the kernel"
    yield "incidents", f"{paused}, {killed}; {report.requeues} requeued"


def _charts(report: BatchReport, width: int, blocks: bool) -> Iterator[str]:
    points = columns(report.points, width)
    most = max(report.most_running, 1)
    yield from _area("running", str(most), [each.running - each.paused for each in points], most, blocks)
    ceiling = max(report.budget, report.peak_used, 1)
    yield from _area("used", size_text(ceiling), [each.used for each in points], ceiling, blocks)
    corner, line = ("└", "─") if blocks else ("+", "-")
    end = seconds_text(report.makespan)
    yield f"{'0':>10} {corner}{line * (width - len(end) - 1)} {end}"


def _area(title: str, label: str, values: Sequence[int], most: int, blocks: bool) -> Iterator[str]:
    signs, axis = (_BLOCKS, "│") if blocks else (_ASCII, "|")
    for row in range(_ROWS, 0, -1):
        heights = (round(value / most * _ROWS * 8) - (row - 1) * 8 for value in values)
        drawn = "".join(signs[max(0, min(8, height))] for height in heights).rstrip()
        caption = label if row == _ROWS else title if row == _ROWS - 1 else ""
        yield f"{caption:>10} {axis}{drawn}"


def columns(points: Sequence[BatchPoint], count: int) -> list[BatchPoint]:
    """Return so many points at equal distances, each with the maximum of its share of time: no short peak is lost."""
    end = points[-1].seconds
    found: list[BatchPoint | None] = [None] * count
    for each in points:
        at = min(count - 1, int(each.seconds / end * count)) if end > 0 else 0
        before = found[at]
        found[at] = each if before is None else BatchPoint(each.seconds, *map(max, before[1:], each[1:]))
    last = BatchPoint(0.0, 0, 0, 0, 0, 0, points[0].budget)
    filled: list[BatchPoint] = []
    for at, known in enumerate(found):
        last = (known or last)._replace(seconds=end * at / count)
        filled.append(last)
    return filled


def _incident(each: TaskIncident) -> str:
    outcome = "requeued" if each.retried else "failed"
    used = f"used {size_text(each.peak)}" + (f" of {size_text(each.reserved)}" if each.reserved else "")
    return (
        f"{'at ' + seconds_text(each.seconds):<11} {printable(each.name)}: {printable(each.reason)}; {used}; {outcome}"
    )
