"""Write a batch's report to a file."""

from __future__ import annotations

import contextlib
import json
import os

from memwarden.admission.batch.figure import render_figure
from memwarden.admission.batch.report_plot import report_plot
from memwarden.admission.batch.report_text import report_text
from memwarden.admission.executor.batch_report import BatchReport
from memwarden.errors import RecordError, SettingsError

_FORMATS = ("txt", "json", "svg", "png")


def save_report(report: BatchReport, path: str | os.PathLike[str]) -> None:
    """Write a report as text, JSON or a plot, depending on the suffix: ``.txt``, ``.json``, ``.svg`` or ``.png``.

    Raises :class:`SettingsError` for another suffix, :class:`RecordError` when the file cannot be written, and
    :class:`ExtraMissing` for a plot without the extra ``plot``.
    """
    name = os.fspath(path)
    file_format = report_format(name)
    if file_format == "txt":
        content = report_text(report, 100).encode() + b"\n"
    elif file_format == "json":
        content = json.dumps(report.as_dict()).encode() + b"\n"
    else:
        content = render_figure(report_plot(report), file_format)
    partial = f"{name}.{os.getpid()}.part"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, name)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise RecordError(f"{name}: {error.strerror or error}; the report was not written", path=name) from None


def report_format(path: str) -> str:
    """Return the format that a report's file name asks for. Raises :class:`SettingsError` for an unknown suffix."""
    suffix = os.path.splitext(path)[1].lower().removeprefix(".")
    if suffix not in _FORMATS:
        raise SettingsError(f"{path}: unknown report format {suffix!r}; use .txt, .json, .svg or .png")
    return suffix
