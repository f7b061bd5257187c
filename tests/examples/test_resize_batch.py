"""examples/resize_batch.py: a batch that does not fit is done all the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "examples" / "resize_batch.py"


@pytest.fixture
def run(tmp_path):
    """Runs the program with ledgers and footprints of its own."""
    places = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_RUNTIME_DIR": str(tmp_path)}
    environment = os.environ | places | {"PYTHONPATH": str(ROOT / "src")}

    def program(*arguments):
        command = [sys.executable, str(PROGRAM), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)

    return program


def test_every_image_is_done_within_the_budget(run, tmp_path):
    """In a budget that holds two or three of them; the report shows it."""
    done = run("--images", "24", "--budget", "48MiB", "--report", "batch.json")
    assert done.returncode == 0, done.stderr
    assert "in 24 images" in done.stdout
    report = json.loads((tmp_path / "batch.json").read_text())
    assert (report["finished"], report["failed"]) == (24, 0)
    assert report["peak_used_bytes"] <= (48 + 16) << 20
    assert report["kernel_kills"] == 0


def test_what_cannot_be_is_one_line(run):
    """A budget that is no size."""
    done = run("--budget", "lots")
    assert done.returncode == 1
    assert done.stderr.startswith("resize_batch: ")
    assert done.stderr.count("\n") == 1
