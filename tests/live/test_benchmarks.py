"""Every benchmark runs to its end and prints its tables; whether its promises are kept is its own affair."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8")
NAMES = re.findall(r'^    "(\w+)": ', SOURCE, re.MULTILINE)

#: What the tables say of a program with memwarden and without, by benchmark.
TABLES = {
    "sampling": ("idle host", "% of one core", "private MiB"),
    "executor": ("worst case", "plain pool"),
    "overshoot": ("psutil",),
}


def reported(*names: str, seconds: float) -> tuple[int, str]:
    """The exit code of these benchmarks, and all that they print."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *names],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_an_unknown_one_is_named_with_those_that_there_are() -> None:
    """And there are some."""
    code, out = reported("nosuch", seconds=60)
    assert code == 2
    assert all(name in out for name in NAMES)
    assert len(NAMES) > 5


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.contract("V-14") if name in TABLES else ()) for name in NAMES]
)
def test_a_benchmark_runs_to_its_end(name: str) -> None:
    """0: its promises are kept, 1: they are not, on this machine and now. Nothing else, and the table is there."""
    code, out = reported(name, seconds=1700)
    assert code in (0, 1), out[-4000:]
    assert "Traceback" not in out, out[-4000:]
    for words in TABLES.get(name, ()):
        assert words in out
