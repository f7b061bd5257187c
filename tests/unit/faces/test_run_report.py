"""The report of a run: its verdict, exit code and lines."""

from __future__ import annotations

import json
import time

import pytest

from memwarden.faces.cli.reports.run_history import RunHistory
from memwarden.faces.cli.reports.run_report import RunReport, as_dict, as_text
from memwarden.model.exits import ExitReason, ExitReport
from memwarden.model.limits import Limit
from memwarden.model.units import MIB
from memwarden.readers.linux.tree import TreeReader


def report(reason: ExitReason, code: int | None, signal: int | None = None) -> RunReport:
    """The report of a command to which the kernel refused memory at 100 MiB."""
    exited = ExitReport(
        reason, code, signal, 1.5, "cgroup1", Limit(100 * MIB, "--limit"), 100 * MIB, "cgroup", refused=99 * MIB
    )
    history = RunHistory(TreeReader(1), time.monotonic)
    return RunReport(command=["prog"], exit=exited, history=history, effective=None, refused=(), record="run.jsonl")


@pytest.mark.parametrize(("code", "signal", "how"), [(1, None, "exited with code 1"), (None, 6, "SIGABRT")])
def test_a_failure_after_refused_memory_names_the_evidence(code: int | None, signal: int | None, how: str) -> None:
    """With the command's own exit code; memwarden's is that of a limit."""
    made = report(ExitReason.LIMIT, code, signal)
    text = as_text(made, colour=False, blocks=False)
    assert made.exit_code == 123
    assert f"failed at its limit of 100 MiB after 1.5 s: {how}  [exit code 123]" in text
    assert "the kernel refused it memory: 99.0 MiB could not be reclaimed\n" in text
    assert json.loads(json.dumps(as_dict(made)))["exit"]["refused"] == 99 * MIB


def test_a_success_after_refused_memory_stays_one_with_a_line() -> None:
    """Its output may lack what a short read left out."""
    made = report(ExitReason.EXITED, 0)
    text = as_text(made, colour=False, blocks=False)
    assert made.exit_code == 0
    assert "exited with code 0 after 1.5 s\n" in text
    assert "could not be reclaimed; its output may be incomplete\n" in text
