"""The report of a run: its verdict, exit code and lines."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest

from memwarden.faces.cli import main
from memwarden.faces.cli.reports.run_history import RunHistory
from memwarden.faces.cli.reports.run_report import RunReport, as_dict, as_text
from memwarden.model.exits import Evidence, ExitReason, ExitReport
from memwarden.model.facts import ProcessKey, ProcessMemory
from memwarden.model.limits import Limit
from memwarden.model.units import MIB
from memwarden.readers.linux.tree import TreeReader


def report(reason: ExitReason, code: int | None, signal: int | None = None) -> RunReport:
    """The report of a command to which the kernel refused memory at 100 MiB."""
    exited = ExitReport(
        reason, code, signal, 1.5, "cgroup1", Limit(100 * MIB, "--limit"), 100 * MIB, "cgroup", unreclaimable=99 * MIB
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
    assert "it stood at its limit: 99.0 MiB could not be reclaimed\n" in text
    assert json.loads(json.dumps(as_dict(made)))["exit"]["unreclaimable_bytes"] == 99 * MIB


def test_a_success_after_refused_memory_stays_one_with_a_line() -> None:
    """Its output may lack what a short read left out."""
    made = report(ExitReason.EXITED, 0)
    text = as_text(made, colour=False, blocks=False)
    assert made.exit_code == 0
    assert "exited with code 0 after 1.5 s\n" in text
    assert "could not be reclaimed; system calls may have failed or returned less\n" in text


def test_names_are_data() -> None:
    """Escape codes and line breaks in a command, a process name, a path or a message stay out of the terminal."""
    hostile = "x\x1b[2J\n\rinjected\x07\u202e"
    process = ProcessMemory(ProcessKey(7, 1), hostile, 5 * MIB)
    made = report(ExitReason.EXITED, 0)
    made = dataclasses.replace(
        made,
        command=[hostile],
        record=hostile,
        exit=made.exit._replace(
            survivors=(process,), steps=(hostile,), evidence=Evidence(1.0, 5 * MIB, "cgroup", (process,))
        ),
    )
    made.history.troubles.append(hostile)
    plain = report(ExitReason.EXITED, 0)
    text = as_text(made, colour=False, blocks=True)
    assert text.count("injected") >= 5
    assert not set(text) & set("\x1b\r\x07\u202e")
    assert len(text.splitlines()) == len(as_text(plain, colour=False, blocks=True).splitlines()) + 4
    assert json.loads(json.dumps(as_dict(made)))["command"] == [hostile]


def test_names_in_errors_are_data(capfd: pytest.CaptureFixture[str]) -> None:
    """One line, without escape codes, from every command."""
    hostile = "x\x1b[2J\ny"
    for words in (["run", "--", hostile], ["map", "--inputs", hostile, "--", "cat"], ["watch", "--name", hostile]):
        assert main(words) != 0
        error = capfd.readouterr().err
        assert "\x1b" not in error
        assert error.count("\n") == 1, error
