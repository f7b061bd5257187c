"""Write a batch's report to a file."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Literal

from memwarden.admission.batch.report_plot import report_plot
from memwarden.admission.batch.report_text import report_text
from memwarden.admission.executor.batch_report import BatchReport
from memwarden.errors import RecordError, SettingsError


def save_report(report: BatchReport, path: str | os.PathLike[str]) -> None:
    """Write a report as text, JSON or a plot, depending on the suffix: ``.txt``, ``.json`` or ``.svg``.

    Raises :class:`SettingsError` for another suffix, :class:`RecordError` when the file cannot be written.
    """
    name = os.fspath(path)
    kind = report_format(name)
    content = (
        json.dumps(report.as_dict())
        if kind == "json"
        else report_plot(report)
        if kind == "svg"
        else report_text(report, 100)
    )
    partial = f"{name}.{os.getpid()}.part"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(f"{content}\n")
        os.replace(partial, name)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise RecordError(f"{name}: {error.strerror or error}; the report was not written", path=name) from None


def report_format(path: str) -> Literal["txt", "json", "svg"]:
    """Return the format that a report's file name asks for. Raises :class:`SettingsError` for an unknown suffix."""
    suffix = os.path.splitext(path)[1].lower()
    for known in ("txt", "json", "svg"):
        if suffix == f".{known}":
            return known
    raise SettingsError(f"{path}: unknown report format {suffix!r}; use .txt, .json or .svg")
