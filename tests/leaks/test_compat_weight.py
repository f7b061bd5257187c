"""What the old monitors promised to weigh at most, held by ours: CPU time and private memory of a process.

Each program runs in a process of its own, with the real readers. CPU is what this process used, not what the
clock on the wall says, so that other load does not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="figures are read from /proc/self")

MB = 1 << 20
#: The shortest of the intervals that the monitors have by default, in seconds.
QUICKEST = 2.0

PRELUDE = """
import gc, json, os, sys, threading, time

def private():
    gc.collect()
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024
"""


def outcome(program: str, tmp_path: Path) -> Any:
    """What a program prints at its end."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(program), str(tmp_path / "memory.log")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.contract("S1-60", "S2-49", "X-16")
def test_all_monitors_together_take_little_memory(tmp_path: Path) -> None:
    """Imports, threads, log and records of both: under 10 MB all in, and under 2 MB beyond the imports."""
    seen = outcome(
        """
        before = private()
        from memwarden.compat.memory_manager import MemoryMonitor
        from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
        imported = private()
        simple = SimpleMemoryMonitor(0.01, log_file=sys.argv[1]).start()
        pressure = MemoryMonitor(0.01)
        pressure.start_monitoring()
        while len(simple.metrics.memory_readings) < 100:  # its window is full
            time.sleep(0.05)
        pressure.get_current_stats()
        simple.get_detailed_status()
        running = private()
        simple.stop()
        pressure.stop_monitoring()
        print(json.dumps({"all": running - before, "beyond": running - imported}))
        """,
        tmp_path,
    )
    assert seen["all"] < 10 * MB, seen
    assert seen["beyond"] < 2 * MB, seen


@pytest.mark.contract("S1-59", "S2-48", "S2-50", "X-16")
def test_all_monitors_together_take_little_of_a_processor(tmp_path: Path) -> None:
    """A sample with everything that follows it costs less than 1 % of the quickest default interval, 2 s.

    The monitor that checks every 300 s stays under that all the more; and both at work are one sample.
    """
    seen = outcome(
        """
        from memwarden.compat.memory_manager import MemoryMonitor
        from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
        from memwarden.readers.factory import default_readers

        class Counting:
            name, checks = "counting", 0
            def read(self):
                Counting.checks += 1
                return {}
            def close(self):
                pass

        def sources():
            return [*default_readers(), Counting()]

        def cost(checks):
            first, started = Counting.checks, time.process_time()
            while Counting.checks - first < checks:
                time.sleep(0.1)
            return (time.process_time() - started) / (Counting.checks - first)

        simple = SimpleMemoryMonitor(0.01, 0.0, sys.argv[1], sources=sources).start()
        simple.alert.alert_cooldown_seconds = 0.0  # every check alerts: the dearest case, with its flush to the disk
        alone = cost(200)
        pressure = MemoryMonitor(0.01, sources=sources)
        pressure.start_monitoring()
        both = cost(200)
        pressure.stop_monitoring()
        simple.stop()
        idle = time.process_time()
        time.sleep(0.3)
        idle = time.process_time() - idle
        print(json.dumps({"alone": alone, "both": both, "idle": idle, "alerts": simple.metrics.alert_count}))
        """,
        tmp_path,
    )
    assert seen["alerts"] > 100
    for case in ("alone", "both"):
        assert seen[case] < 0.01 * QUICKEST, seen
    assert seen["idle"] < 0.05, seen
