"""Only registered processes are touched, and none of them is left: random runs on real processes and reused pids."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import memwarden

PROGRAM = Path(__file__).with_name("victims.py")
#: A pid namespace, with a counter of pids that may be set: as root, or in a new user namespace.
NAMESPACES = (("unshare",), ("unshare", "--user", "--map-root-user"))


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """The command that runs another one as the first process of a pid namespace."""
    for start in NAMESPACES if shutil.which("unshare") else ():
        command = [*start, "--pid", "--fork", "--mount-proc", "--kill-child"]
        probe = [*command, "sh", "-c", "echo 300 >/proc/sys/kernel/ns_last_pid"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("no pid namespace can be made here (needs root or user namespaces)")


def runs(namespace: list[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Results of the runs."""
    done = subprocess.run(
        [*namespace, sys.executable, "-W", "ignore", str(PROGRAM), str(count), str(seed)],
        env={"PYTHONPATH": str(Path(memwarden.__file__).parents[1]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(results: list[dict[str, Any]], count: int) -> None:
    """No bystander was touched, every target is gone, no process is stopped, and escapes could not be found."""
    assert len(results) == count
    assert [run for run in results if run["wrong"]] == []
    assert [run for run in results if run["survivors"] or run["stopped"]] == []
    swaps, ended = sum(run["swaps"] for run in results), Counter[str]()
    for run in results:
        ended.update("ended" for message in run["messages"] if message.startswith("terminated"))
    assert swaps > count / 2  # the runs are what they say: pids were given anew, and targets ended
    assert ended["ended"] > count
    escapes = Counter(why for run in results for why in run["escapes"])
    print(f"{count} runs, {swaps} pids given anew, {ended['ended']} targets ended; out of reach: {dict(escapes)}")
    assert not [why for why in escapes if "could have been found" in why]


@pytest.mark.contract("V-12", "S1-35", "W1-5")
def test_no_bystander_in_a_hundred_runs(namespace: list[str]) -> None:
    """Targets die, fork, ignore SIGTERM and turn into daemons, and their pids are given to bystanders in between."""
    check(runs(namespace, 100, 1), 100)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_bystander_in_a_thousand_runs(namespace: list[str]) -> None:
    """The same, with other chances."""
    check(runs(namespace, 1000, 2), 1000)
