"""A batch's report as text."""

from __future__ import annotations

from memwarden.admission.batch import BatchReport


def text(report: BatchReport, width: int, *, blocks: bool) -> str:
    return ""
