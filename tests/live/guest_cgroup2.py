"""Runs inside the guest only, started by test_support_guest.py."""

import os
import signal
import subprocess
import sys

from support.guest import IN_GUEST

GROUP = "/sys/fs/cgroup/memwarden-test"

GROW = """
import os, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
b"x" * 100_000_000
"""


def test_a_child_that_outgrows_its_group_is_killed() -> None:
    """The kernel enforces memory.max and counts the kill in memory.events."""
    assert os.environ[IN_GUEST] == "1"
    os.mkdir(GROUP)
    try:
        with open(f"{GROUP}/memory.max", "w") as limit:
            limit.write("32M")
        child = subprocess.run([sys.executable, "-c", GROW, GROUP], check=False)
        with open(f"{GROUP}/memory.events") as lines:
            events = dict(line.split() for line in lines)
    finally:
        os.rmdir(GROUP)
    assert child.returncode == -signal.SIGKILL
    assert events["oom_kill"] == "1"
