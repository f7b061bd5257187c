"""Processes that learn into one file, and are killed while they do."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.footprints.store import FootprintStore, stored
from memwarden.model.units import GIB, MIB

PROGRAM = """
import sys
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.footprints.store import FootprintStore

footprints = Footprints(budget=1 << 30, slots=8, store=FootprintStore(sys.argv[1], host="here", behind=0.0))
for at in range(int(sys.argv[2])):
    footprints.observe(f"kind-{at % 3}", at % 50, (100 << 20) + int(sys.argv[3]), 1.0)
    if footprints.trouble:
        sys.exit(footprints.trouble)
    print(at, flush=True)
footprints.close()
"""


def writer(path: Path, tasks: int, number: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(path), str(tasks), str(number)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_three_processes_lose_nothing(tmp_path: Path) -> None:
    """Each writes after every task; in the end every task of all is there, and each is known to a newcomer."""
    path = tmp_path / "footprints.db"
    writers = [writer(path, 90, number) for number in range(3)]
    for each in writers:
        each.communicate(timeout=60)
        assert each.returncode == 0
    kinds = stored(path)
    assert sorted(each.kind.name for each in kinds) == ["kind-0", "kind-1", "kind-2"]
    for each in kinds:
        for number in range(3):
            assert sum(task.peak == 100 * MIB + number for task in each.tasks) == 30
    newcomer = Footprints(budget=GIB, slots=8, store=FootprintStore(path, host="here"))
    assert newcomer.predict("kind-1", 10).n == 90


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_writers_damage_nothing(tmp_path: Path) -> None:
    """What they had reported as written is there, and the file is sound and takes more."""
    path = tmp_path / "footprints.db"
    rng = random.Random(1)
    said = 0
    for number in range(4):
        each = writer(path, 10_000, number)
        assert each.stdout is not None
        for _ in range(rng.randrange(5, 60)):
            each.stdout.readline()
            said += 1
        each.send_signal(signal.SIGKILL)
        each.communicate(timeout=60)
    assert sum(len(kind.tasks) for kind in stored(path)) >= said
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    after = Footprints(budget=GIB, slots=8, store=FootprintStore(path, host="here"))
    after.observe("kind-0", 1.0, MIB, 1.0)
    after.close()
