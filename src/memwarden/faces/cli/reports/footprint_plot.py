"""Plot of the tasks that a footprint was learned from, and of its estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memwarden.admission.batch import figure as plot
from memwarden.errors import SettingsError
from memwarden.model.text import printable

if TYPE_CHECKING:
    from memwarden.admission.batch.figure import Figure


def footprint_plot(described: dict[str, Any]) -> Figure:
    """Return a figure of peak against input size, or against the order of tasks where no size is known.

    ``described`` is :meth:`Footprint.describe`'s dict with the task's name as ``kind``. Raises
    :class:`SettingsError` where none of the tasks has finished, :class:`ExtraMissing` without the extra ``plot``.
    """
    curve, points, name = described["curve"], described["points"], printable(described["kind"])
    if curve is None:
        raise SettingsError(f"--plot {name}: no task of this kind has finished yet, so there is nothing to draw")
    sized = any(point["size"] is not None for point in points)
    finished = [(each["size"] if sized else float(at), each["peak_bytes"]) for at, each in enumerate(points, 1)]
    finished = [(x, y) for x, y in finished if x is not None]
    killed = [(each["size"] if sized else float(len(points)), each["at_least_bytes"]) for each in described["killed"]]
    killed = [(x, y) for x, y in killed if x is not None]
    median = [(each["size"], each["bytes"]) for each in curve["median"]]
    if len(median) < 2:  # one value for every size
        ends = (0.0 if sized else 1.0, max((x for x, _ in finished), default=1.0) or 1.0)
        median = [(x, median[0][1]) for x in ends]
    reserved = [(x, y * curve["reserve_ratio"]) for x, y in median]

    figure, (axes,) = plot.draw_axes()
    plot.title(axes, f"Peak memory of {name}", curve["why"])
    top = max(y for _, y in (*finished, *killed, *reserved))
    byte, byte_name = plot.byte_unit(top)

    def pairs(values: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
        return [x for x, _ in values], [y / byte for _, y in values]

    axes.plot(*pairs(finished), "o", color=plot.BLUE, alpha=0.5, markersize=5, label=f"finished ({len(points)})")
    if killed:
        axes.plot(*pairs(killed), "^", color=plot.RED, markersize=7, label=f"killed at ({len(killed)}; need more)")
    axes.plot(*pairs(median), color=plot.INK, linewidth=1.4, label="median")
    axes.plot(*pairs(reserved), color=plot.INK, linewidth=1.4, linestyle="--", label="reserved")
    axes.set_ylim(0, top / byte * 1.08)
    axes.set_xlabel("Input size" if sized else "Tasks in order")
    axes.set_ylabel(f"Memory ({byte_name})")
    plot.legend(axes, 4)
    return figure
