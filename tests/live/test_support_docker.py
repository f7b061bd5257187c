"""The private Docker engine: what it limits is limited, and nothing of it remains."""

import contextlib
import glob
import os
import sys

import pytest

from support.docker import Docker

OWN_LIMIT = """
import os
for path in ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"):
    if os.path.exists(path):
        print(open(path).read().strip())
"""

V1 = "/sys/fs/cgroup/memory"
DEEPER = f"{V1 if os.path.isdir(V1) else '/sys/fs/cgroup'}/deeper"


def test_a_container_reads_its_own_limit(docker: Docker) -> None:
    """The tests' interpreter runs inside, with packages and checkout, under the asked limit."""
    result = docker.run([sys.executable, "-c", f"import psutil, memwarden\n{OWN_LIMIT}"])
    assert (result.returncode, result.stdout, result.stderr) == (0, "67108864\n", "")
    assert not result.oom_killed


def test_a_container_that_outgrows_its_limit_is_reported(docker: Docker) -> None:
    """The kernel kills it, and the result separates that from any other kill."""
    result = docker.run([sys.executable, "-c", "b'x' * 200_000_000; print('survived')"])
    assert (result.returncode, result.stdout, result.oom_killed) == (137, "", True)


def test_a_started_container_can_be_watched_from_outside(docker: Docker) -> None:
    """Its pid and its group are the host's; the group goes with it."""
    code = "import signal, sys; print('up', file=sys.stderr, flush=True); signal.pause()"
    with docker.start([sys.executable, "-c", code]) as container:
        with open(f"/proc/{container.pid}/cgroup") as lines:
            assert container.cgroup in lines.read()
        container.wait_for_output("up")
        container.kill()
        result = container.wait(30)
    assert (result.returncode, result.stderr, result.oom_killed) == (137, "up\n", False)
    assert not glob.glob(f"/sys/fs/cgroup/**/{container.id}", recursive=True)


@pytest.mark.parametrize("own_groups", [False, True])
def test_a_container_makes_groups_where_asked(docker: Docker, own_groups: bool) -> None:
    """Cgroups are read-only inside, as users have it, and writable for a test that asks."""
    code = f"import os; os.makedirs({DEEPER!r}); print(os.path.isdir({DEEPER!r}))"
    result = docker.run([sys.executable, "-c", code], own_groups=own_groups)
    assert result.stdout == ("True\n" if own_groups else ""), result.stderr
    assert ("Read-only file system" in result.stderr) != own_groups


def test_a_container_that_does_not_end_is_a_timeout(docker: Docker) -> None:
    """The error carries what was written until then."""
    argv = [sys.executable, "-c", "import time; print('busy', flush=True); time.sleep(60)"]
    with pytest.raises(TimeoutError, match="busy"):
        docker.run(argv, timeout_s=2)


def test_an_engine_leaves_nothing() -> None:
    """Even with a container still running, all that an engine made is gone after its block."""
    before = machine()
    with Docker() as engine, contextlib.ExitStack() as left_running:
        container = left_running.enter_context(engine.start(["sleep", "60"]))
        pid, folder = container.pid, engine.socket.parent
        assert os.path.isdir(f"/proc/{pid}")
        assert machine() == before
        left_running.pop_all()
    assert not folder.exists()
    assert not glob.glob(f"/sys/fs/cgroup/**/{engine.cgroup_parent}", recursive=True)
    assert not [name for name in commands() if str(folder) in name]
    assert machine() == before


def machine() -> list[object]:
    """What an engine that was not kept apart would have changed."""
    shared = [os.path.exists(path) for path in ("/run/docker", "/run/containerd")]
    with open("/proc/self/mounts") as mounts, open("/proc/sys/net/ipv4/ip_forward") as forward:
        return [shared, mounts.read(), forward.read(), sorted(os.listdir("/sys/class/net"))]


def commands() -> list[str]:
    """The command lines of all processes; a zombie's is empty."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            with open(path, errors="replace") as line:
                found.append(line.read())
    return found
