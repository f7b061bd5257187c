"""What must work where this is not Linux, or where nothing else is installed; each in a fresh interpreter."""

import json
import os
import subprocess
import sys

import pytest

#: Makes a POSIX system look as poor as Windows, once the standard library is there: modules and names that only
#: POSIX has are gone, and psutil, which chose its platform when it was imported, goes on reading this machine.
POOR = """
import asyncio, inspect, json, logging, os, queue, select, shutil, signal, socket, sqlite3, subprocess, sys, tempfile
import threading, importlib.resources, psutil
try:
    import click
except ImportError:
    pass
for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty"):
    sys.modules[name] = None
sys.platform = PLATFORM
if PLATFORM == "win32":
    for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NOCTTY", "O_DIRECTORY", "pread", "getuid", "getpgrp", "sysconf", "fork",
                 "register_at_fork", "pidfd_open", "waitid", "P_PIDFD", "WEXITED", "WNOHANG", "tcgetpgrp"):
        if hasattr(os, name):
            delattr(os, name)
    for name in [name for name in vars(signal) if name.startswith(("SIG", "pthread_", "sig"))]:
        if name not in ("SIGINT", "SIGTERM", "SIG_DFL", "SIG_IGN", "SIG_BLOCK", "SIG_SETMASK", "signal"):
            delattr(signal, name)
    del select.poll
"""

IMPORT_ALL = """
import importlib, pkgutil, memwarden
names = [module.name for module in pkgutil.walk_packages(memwarden.__path__, "memwarden.")]
names.remove("memwarden.__main__")  # importing that is running the command
for name in names:
    if name != "memwarden.contain._exec":  # a program of its own, started by path and never imported
        importlib.import_module(name)
"""


def run(program, **environment):
    """What a fresh interpreter printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.contract("S1-74", "S2-62")
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_every_module_can_be_imported(platform):
    """No module needs at import what only POSIX systems have."""
    names = run(f"PLATFORM = {platform!r}\n{POOR}\n{IMPORT_ALL}\nprint(json.dumps(names))")
    assert "memwarden.contain.groups" in names
    assert "memwarden.compat.simple_memory_monitor" in names


@pytest.mark.contract("S1-74")
@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_watched_through_psutil(platform):
    """The default readers of a warden there give a judged reading of machine and process."""
    read = run(f"""PLATFORM = {platform!r}
{POOR}
from memwarden import Warden
with Warden() as warden:
    level = warden.last.assessment.level
    sample = warden.last.sample
print(json.dumps([level.value, warden.last.assessment.binding.limit.source, sample.process.rss, len(sample.gaps)]))
""")
    level, source, resident, gaps = read
    assert level in ("low", "moderate", "high", "critical")
    assert (source, gaps) == ("machine", 0)
    assert resident > 1 << 20


@pytest.mark.contract("S1-74", "S2-62")
@pytest.mark.parametrize(
    ("platform", "variable", "below"),
    [
        pytest.param("win32", "LOCALAPPDATA", (), id="win32"),
        pytest.param("darwin", "HOME", ("Library", "Application Support"), id="darwin"),
    ],
)
def test_the_old_monitors_work_on_other_systems(platform, variable, below, tmp_path):
    """Figures, the log in that system's own place, and a second run that continues it, line ends included."""
    used = run(
        f"""PLATFORM = {platform!r}
{POOR}
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.compat.simple_memory_monitor import get_monitor
monitor = get_monitor()
for _ in range(2):
    monitor.start()
    status = monitor.get_status()
    monitor.stop()
print(json.dumps([str(monitor.log_file), status["status"], get_memory_monitor().get_current_stats().total_mb]))
""",
        **{"XDG_STATE_HOME": "", variable: str(tmp_path)},
    )
    path, health, total = used
    assert path.replace("\\", "/") == os.path.join(tmp_path, *below, "memwarden", "memory_monitor.log")
    assert health in ("normal", "high")
    assert total > 0
    with open(path, "rb") as log:
        lines = log.read().split(b"\n")
    assert [json.loads(line).get("event_type", "check") for line in lines[:-1]] == ["START", "check", "STOP"] * 2
    assert lines[-1] == b""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil is needed")
@pytest.mark.contract("S2-47")
def test_on_linux_the_standard_library_is_enough(tmp_path):
    """Watching, judging, recording and the old monitors load nothing that is installed, psutil least of all."""
    loaded = run(
        """
import json, sys
before = set(sys.modules)
sys.modules["psutil"] = None
from memwarden import Warden
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.compat.simple_memory_monitor import get_monitor
with Warden() as warden:
    assert warden.last.assessment.binding is not None
get_memory_monitor().get_current_stats()
get_monitor().start().get_detailed_status()
get_monitor().stop()
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps(sorted(new)))
""",
        XDG_STATE_HOME=str(tmp_path),
    )
    assert loaded == ["memwarden", "psutil"]  # the latter is the stand-in that cannot be imported
    assert (tmp_path / "memwarden" / "memory_monitor.log").read_bytes().count(b"\n") == 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open descriptors cannot be counted here")
def test_one_look_leaves_no_descriptor_behind():
    """Whoever only asks for the status, again and again, has no more open files than before."""
    counts = run("""
import json, os, memwarden
from memwarden.compat.memory_manager import get_memory_monitor
from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
monitor = SimpleMemoryMonitor()
counts = []
for _ in range(5):
    memwarden.status()
    get_memory_monitor().get_current_stats()
    monitor.get_detailed_status()
    counts.append(len(os.listdir("/proc/self/fd")))
print(json.dumps(counts))
""")
    assert len(set(counts)) == 1
