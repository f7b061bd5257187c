"""The old task monitor where its tasks run: in a container with a limit, on a machine that is much larger."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from memwarden.compat.memory_monitor import MemoryMonitor
from memwarden.guards.measure.peak_rss import peak_scopes
from memwarden.model.units import MIB
from memwarden.testing import HOG
from support.docker import Docker

LIMIT = 100 * MIB
CODE = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
from memwarden.compat.memory_monitor import MemoryMonitor
monitor = MemoryMonitor(task_name="my_task")
monitor.start_monitoring()
kept = b"x" * (int(sys.argv[1]) << 20)
monitor.checkpoint("held")
print(json.dumps(monitor.get_memory_info()))
del kept
monitor.finish_monitoring()
"""


@pytest.mark.contract("X-31", "W4-9", "S4-43", "S4-15", "S4-16")
def test_percentages_are_of_the_container(docker: Docker) -> None:
    """70 MiB in a container of 100 MiB is HIGH MEMORY USAGE, though it is nothing to the machine; 20 MiB are not."""
    high = docker.run([sys.executable, "-c", CODE, "70"], memory=LIMIT)
    assert high.returncode == 0, high.stderr
    info = json.loads(high.stdout)
    assert info["gaps"] == []
    assert info["system"]["total_mb"] == 100.0
    assert info["system"]["limit_source"].startswith("cgroup ")
    assert info["process"]["percent"] == pytest.approx(info["process"]["rss_mb"], abs=0.1), "of 100 MB"
    assert info["process"]["percent"] > 80
    assert 60 < info["system"]["used_percent"] <= 100
    start, held, end = high.stderr.splitlines()
    assert start.startswith("INFO Memory [my_task] START: RSS=")
    assert held.startswith("WARNING HIGH MEMORY USAGE: Memory [my_task] checkpoint:held: RSS=")
    assert end.startswith("INFO Memory [my_task] FINISH (delta=+")
    low = docker.run([sys.executable, "-c", CODE, "20"], memory=LIMIT)
    assert low.returncode == 0, low.stderr
    assert "HIGH" not in low.stderr


@pytest.mark.contract("S4-12")
def test_rss_is_this_process_and_its_children_stand_beside_it() -> None:
    """A child of 40 MiB is no part of the resident size; the fair share is not above that."""
    try:
        before = MemoryMonitor("t").get_memory_info()["process"]
        with subprocess.Popen([sys.executable, "-c", HOG, "40", "0", "40"], stdin=-1, stdout=-1, text=True) as child:
            assert child.stdout is not None
            while "at cap" not in child.stdout.readline():
                assert child.poll() is None
            after = MemoryMonitor("t").get_memory_info()["process"]
            child.communicate("")
    finally:
        peak_scopes.release()
    assert after["rss_mb"] == pytest.approx(before["rss_mb"], abs=4)
    assert 40 < after["children_mb"] - before["children_mb"] < 80
    assert 0 < after["pss_mb"] <= after["rss_mb"] + 4
