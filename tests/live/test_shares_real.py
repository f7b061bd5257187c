"""PSS and USS of real processes, and what reading them costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from memwarden.errors import ReadError
from memwarden.readers.linux.pss import PssReader
from memwarden.readers.linux.tree import TreeReader
from memwarden.testing import HOG

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def hog() -> Iterator[subprocess.Popen[str]]:
    """A process that holds 500 MB, in pages of 4 KiB."""
    argv = [sys.executable, "-c", HOG, "500", "0", "500"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while process.stdout.readline().strip() != "at cap":
            assert process.poll() is None
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def test_the_figures_are_those_of_another_tool(hog: subprocess.Popen[str]) -> None:
    """PSS and USS of a quiet process, to the page."""
    info = psutil.Process(hog.pid).memory_full_info()
    shares = PssReader(hog.pid).read()["shares"]
    assert shares.keys[0].pid == hog.pid
    assert shares.pss[0] == pytest.approx(info.pss, abs=1 << 20)
    assert shares.uss[0] == pytest.approx(info.uss, abs=1 << 20)
    assert shares.pss[0] > 500 << 20


def test_reading_a_large_process_stays_within_one_per_cent(hog: subprocess.Popen[str]) -> None:
    """Twenty samples a second over three walks, each of them counted: at most 1 % of a core.

    A walk takes 15 to 45 ms here, and the next one comes when that is 1 % of the time since.
    """
    reader, ages, cost = PssReader(hog.pid), [0.0], 0.0
    walks = [(time.monotonic(), 0.0)]
    until = time.monotonic() + 30
    while len(walks) < 4 and time.monotonic() < until:
        spent = time.thread_time()
        [age] = reader.read()["shares"].ages
        if age < ages[-1] or len(ages) == 1:
            walks.append((time.monotonic(), cost))  # what was spent before this walk
        cost += time.thread_time() - spent
        ages.append(age)
        time.sleep(0.05)
    assert len(walks) >= 4, walks
    share = walks[-1][1] / (walks[-1][0] - walks[0][0])
    print(f"share of a core {share:.4f} with {len(walks) - 1} walks, oldest figure {max(ages):.2f} s")
    assert 0.003 < share <= 0.01, walks
    spent_between = max(later[1] - earlier[1] for earlier, later in pairwise(walks))
    assert max(ages) < 1.5 * spent_between / 0.01


def test_an_ended_process_is_not_reported(hog: subprocess.Popen[str]) -> None:
    """Killed while its figures stand: at the next reading none is left."""
    reader = PssReader([hog.pid])
    reader.read()
    hog.kill()
    os.waitid(os.P_PID, hog.pid, os.WEXITED | os.WNOWAIT)

    def read_on() -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            reader.read()
            time.sleep(0.02)

    with pytest.raises(ReadError) as caught:
        read_on()
    assert caught.value.why == "gone"


def test_a_tree_of_real_processes(hog: subprocess.Popen[str]) -> None:
    """This process and its child: shared pages count once, so PSS is below the resident sizes."""
    tree = TreeReader(os.getpid())
    shares = PssReader(tree.members).read()["shares"]
    memory = tree.sample()[0]
    tree.close()
    assert {key.pid for key in shares.keys} >= {hog.pid}
    largest = shares.keys.index(next(key for key in memory.keys if key.pid == hog.pid))
    assert 500 << 20 < shares.uss[largest] <= shares.pss[largest] < memory.total


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become another user")
def test_another_users_processes_are_one_gap() -> None:
    """As a user without rights, of all processes: its own are read, everything else is one gap that shows denied."""
    code = (
        "import os; from memwarden.readers.linux.pss import PssReader\n"
        "pids = [int(each) for each in os.listdir('/proc') if each.isdigit()]\n"
        "PssReader().read()\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "reader = PssReader(pids, budget=1.0)\n"
        "try:\n"
        "    for _ in range(200): read = reader.read()\n"
        "    print(len(read['gaps']), read['gaps'][0].why)\n"
        "except Exception as error: print(1, error.why)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "denied"], done
