"""Pages that promise something themselves: what guards say of each other, and the verbs for contributors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memwarden

LIMITERS = ("memory_guard", "memory_constrained_operation", "memory_limit")
ROOT = Path(__file__).resolve().parents[2]


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading, by their first cell."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0].strip("` "): row[1:] for row in rows[2:]}


@pytest.mark.contract("X-29")
@pytest.mark.parametrize("guard", [each for each in LIMITERS if each in memwarden.__all__])
def test_each_limiter_documents_figure_limit_moment_and_consequence(guard: str) -> None:
    """All that there are stand in one table with the same columns, and none is left empty."""
    rows = table("docs/guard-a-block.md", "Which guard does what")
    assert len(rows[guard]) == 3
    assert all(len(cell) > 20 for cell in rows[guard]), "against what, when, what happens"


@pytest.mark.contract("S3-68")
def test_contributors_have_a_verb_for_each_of_the_five(tmp_path: Path) -> None:
    """Tests, benchmark, documentation, leaks, profile: the make verbs exist, and the commands run."""
    rows = {what: re.findall(r"`([^`]+)`", cells[0])[0] for what, cells in table("CONTRIBUTING.md", _HEADING).items()}
    assert list(rows) == ["add tests", "benchmark", "document", "check for leaks", "profile"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for what in ("add tests", "benchmark", "document"):
        make, verb = rows[what].split()
        assert make == "make"
        assert re.search(rf"^{verb}:.*## ", makefile, re.MULTILINE), f"make {verb}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_ADDOPTS": ""}

    def run(command: str, *further: str) -> str:
        words = command.split()
        assert words[:2] == [".venv/bin/python", "-m"]
        done = subprocess.run(
            [sys.executable, *words[1:], *further, "-p", "no:cacheprovider"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    assert "test_compat_weight.py" in run(rows["check for leaks"], "--collect-only", "-q")
    profiled = run(rows["profile"].replace("tests/unit", "tests/unit/model/test_units.py"))
    assert "memory: the tests with the largest peaks" in profiled


_HEADING = "A change that touches memory"
