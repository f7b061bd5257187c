"""A batch's report as a plot: memory over time above, tasks below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memwarden.admission.batch import figure as plot
from memwarden.admission.batch.report_text import columns
from memwarden.admission.executor.batch_report import BatchPoint, BatchReport
from memwarden.model.units import seconds_text, size_text

if TYPE_CHECKING:
    from memwarden.admission.batch.figure import Figure

#: Points of time: more than a screen shows apart only makes the file larger.
_COLUMNS = 240


def report_plot(report: BatchReport) -> Figure:
    """Return a matplotlib figure of reserved and used memory under the budget, and of running and paused tasks.

    Triangles mark incidents. Raises :class:`ExtraMissing` without the extra ``plot``.
    """
    figure, (memory, tasks) = plot.draw_axes((3, 1), height=5.4)
    done = f"{report.finished} of " if report.finished < report.submitted else ""
    plot.title(memory, f"{done}{report.submitted} tasks in {seconds_text(report.makespan)}", _detail(report))
    points: list[BatchPoint] = []
    if report.points and report.points[-1].seconds > 0:
        points = columns(report.points, _COLUMNS)
        points.append(points[-1]._replace(seconds=report.points[-1].seconds))
    end = points[-1].seconds if points else 1.0
    unit, name = plot.time_unit(end)
    times = [each.seconds / unit for each in points]
    memory.set_xlim(0, end / unit)
    tasks.set_xlabel(f"Time ({name})")
    top = max([report.budget, *(max(each.used, each.reserved, each.budget) for each in points)])
    byte, byte_name = plot.byte_unit(top)

    def sizes(values: Sequence[int]) -> list[float]:
        return [each / byte for each in values]

    reserved, used = sizes([each.reserved for each in points]), sizes([each.used for each in points])
    memory.fill_between(times, reserved, step="post", color=plot.LIGHT_BLUE, label="reserved", linewidth=0)
    memory.fill_between(times, used, step="post", color=plot.BLUE, label="used", linewidth=0)
    memory.plot(times, reserved, drawstyle="steps-post", color=plot.LIGHT_BLUE, linewidth=1.2)  # above what was used
    label = f"budget ({size_text(report.budget)})"
    budgets = sizes([each.budget for each in points])
    memory.plot(times, budgets, drawstyle="steps-post", color=plot.INK, linestyle="--", linewidth=1.4, label=label)
    memory.set_ylim(0, top / byte * 1.08)
    memory.set_ylabel(f"Memory ({byte_name})")
    if report.incidents:
        at = [min(each.seconds, end) / unit for each in report.incidents]
        label = "requeued" if all(each.retried for each in report.incidents) else "requeued or failed"
        memory.plot(at, [top / byte * 1.03] * len(at), "v", color=plot.RED, label=f"task stopped, {label}", zorder=4)
        for axes in (memory, tasks):
            for x in sorted(set(at)):
                axes.axvline(x, color=plot.RED, linewidth=0.8, linestyle=":", alpha=0.6)
    plot.legend(memory, 4)

    running = [each.running for each in points]
    active = [each.running - each.paused for each in points]
    tasks.fill_between(times, running, step="post", color=plot.ORANGE, label="paused", linewidth=0)
    tasks.fill_between(times, active, step="post", color=plot.GREEN, label="running", linewidth=0)
    tasks.set_ylim(0, max([1, *running]) * 1.08)
    tasks.set_ylabel("Tasks")
    tasks.locator_params(axis="y", integer=True, nbins=4)
    plot.legend(tasks, 2)
    return figure


def _detail(report: BatchReport) -> str:
    parts = [f"{report.concurrency:.1f} running on average, {report.most_running} at most"]
    parts.append(f"peak {size_text(report.peak_used)}, enforced by {report.enforcement}")
    counts = ((report.pauses, "paused"), (report.requeues, "requeued"), (report.failed, "failed"))
    parts += [f"{count} {word}" for count, word in counts if count]
    return "  ·  ".join(parts)
