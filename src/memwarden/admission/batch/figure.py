"""Figures drawn with matplotlib (extra ``plot``), without its global state and without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memwarden.errors import ExtraMissing
from memwarden.model.units import GIB, KIB, MIB, TIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure

#: The palette of Okabe and Ito: its colours differ for colour-blind readers, too.
BLUE, ORANGE, GREEN, RED, LIGHT_BLUE, INK = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#b9d7ee", "#1f2328"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9dee3",
    "grid.linewidth": 0.7,
    "text.parse_math": False,  # a task's name may hold dollar signs
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "svg.hashsalt": "memwarden",  # the same figure gives the same file
}


def require_matplotlib() -> None:
    """Raise :class:`ExtraMissing` where no figure can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ExtraMissing("a plot", "plot") from None


def draw_axes(ratios: Sequence[int] = (1,), *, height: float = 4.4) -> tuple[Figure, list[Axes]]:
    """Return a figure, 8.4 inches wide, and its axes, one above the other with a common x axis.

    Raises :class:`ExtraMissing` without matplotlib.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(8.4, height), layout="constrained")
        axes = figure.subplots(len(ratios), sharex=True, squeeze=False, height_ratios=ratios)
    return figure, [row[0] for row in axes]


def render_figure(figure: Figure, file_format: str) -> bytes:
    """Return the figure as a file's content; ``file_format`` is ``"svg"``, ``"png"`` or another one of matplotlib's."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format=file_format, dpi=144, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()


def title(axes: Axes, text: str, detail: str) -> None:
    """Write a title, and a smaller line below it."""
    axes.set_title(text, loc="left", fontsize=13, pad=40, parse_math=False)
    line = axes.annotate(
        detail,
        (0, 1),
        (0, 27),
        xycoords="axes fraction",
        textcoords="offset points",
        color="#59636e",
        fontsize=9,
        parse_math=False,
    )
    line.set_in_layout(False)  # a long line must not narrow the axes


def legend(axes: Axes, columns: int) -> None:
    """Put the legend between title and axes, on one line."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderaxespad=0.2, borderpad=0.2)


def byte_unit(top: float) -> tuple[int, str]:
    """Return the unit for an axis that ends at ``top`` bytes."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if top >= 2 * unit:
            return unit, name
    return 1, "bytes"


def time_unit(end: float) -> tuple[int, str]:
    """Return the unit for an axis that ends at ``end`` seconds."""
    for unit, name in ((3600, "h"), (60, "min")):
        if end >= 3 * unit:
            return unit, name
    return 1, "s"
