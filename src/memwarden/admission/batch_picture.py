"""A batch's report as a picture."""

from __future__ import annotations

from memwarden.admission.batch import BatchReport


def picture(report: BatchReport) -> str:
    return ""
