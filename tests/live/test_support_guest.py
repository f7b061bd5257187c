"""The guest: a real cgroup v2 for the tests' own interpreter, and nothing of it remains."""

import contextlib
import glob
import os

import pytest

from support.guest import Guest, run_in_guest

ONE_BOOT = """
import os, pathlib, subprocess, sys
import memwarden, psutil

group = pathlib.Path("/sys/fs/cgroup/limited")
group.mkdir()
(group / "memory.max").write_text("32M")
(group / "memory.swap.max").write_text("0")
join = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); b'x' * 100_000_000"
child = subprocess.run([sys.executable, "-W", "ignore", "-c", join, str(group / "cgroup.procs")])
print("child", child.returncode)
print((group / "memory.events").read_text())
print("swap", psutil.swap_memory().total >> 20)
try:
    open(sys.argv[0] + "written", "w")
except OSError as error:
    print("root", error.errno)
sys.exit(3)
"""


def test_a_group_of_the_guest_is_enforced(guest: Guest) -> None:
    """A child above memory.max is killed and counted; code, output and swap are as asked."""
    before = sorted(glob.glob("/tmp/mw-guest-*"))
    result = guest.python(ONE_BOOT, swap_mib=64)
    lines = result.output.splitlines()
    assert result.returncode == 3, result.output
    assert "child -9" in lines
    assert "oom_kill 1" in lines
    assert "swap 63" in lines  # one page of the device is its header
    assert "root 30" in lines  # EROFS: this machine's files cannot be written
    assert set(glob.glob("/tmp/mw-guest-*")) <= set(before)


def test_the_projects_pytest_runs_in_the_guest(guest: Guest) -> None:
    """Tests in guest_*.py are collected inside, and only there."""
    result = guest.pytest("tests/live/guest_cgroup2.py")
    assert result.returncode == 0, result.output
    assert "1 passed" in result.output


def test_a_guest_that_does_not_power_off_is_ended(guest: Guest) -> None:
    """It is an error in time, and no process of the guest goes on."""
    before = processes(guest)
    with pytest.raises(TimeoutError, match="after 4 s"):
        guest.run(["sleep", "60"], timeout_s=4)
    assert processes(guest) <= before


def test_a_guest_needs_no_fixture(guest: Guest) -> None:
    """`run_in_guest` finds the parts by itself."""
    assert run_in_guest(["echo", "ready"], 60, memory_mib=128).output == "ready\n"


def processes(guest: Guest) -> set[str]:
    """The processes of this machine in which guests run; a zombie's program is not known."""
    found = set()
    for path in glob.glob("/proc/[0-9]*/exe"):
        with contextlib.suppress(OSError):
            if os.readlink(path) == guest.kernel:
                found.add(path)
    return found
