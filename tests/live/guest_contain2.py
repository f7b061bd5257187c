"""Holding programs by cgroup version 2. Runs inside the guest only, started by test_contain_v2.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memwarden.contain.contained import hold
from memwarden.contain.grants import obtain, survey
from memwarden.contain.groups import sweep
from memwarden.contain.kernel import alive, key_of
from memwarden.engine.warden import Warden
from memwarden.errors import CeilingUnavailable
from memwarden.model.endings import EndKind
from memwarden.model.units import MIB
from memwarden.readers.cgroup import CgroupReader
from memwarden.testing import HOG

ROOT = Path("/sys/fs/cgroup")
OURS = ROOT / "memwarden"


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def _left() -> list[str]:
    return [entry for entry in os.listdir(OURS) if entry.startswith("run-")] if OURS.is_dir() else []


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test ends without a group of ours."""
    yield
    assert _left() == []


def test_the_best_ceiling_is_version_2() -> None:
    """Granted, chosen by itself, and told by doctor."""
    grants = {grant.kind: grant for grant in survey()}
    assert grants["cgroup2"].granted, grants["cgroup2"].reason
    assert not grants["cgroup1"].granted
    assert "version 2" in grants["cgroup1"].reason
    ceiling, refused = obtain(64 * MIB)
    assert (ceiling.kind, refused) == ("cgroup2", [])
    ceiling.close()


@pytest.mark.parametrize("code", [HOG, "b'x' * 300_000_000"], ids=["grows", "one call in C"])
def test_a_program_past_its_limit_is_ended_within_one_mib(code: str) -> None:
    """Typed, with evidence, gently first, and not a page more than the parting reserve."""
    with hold(python(code, 10, 0, 300), limit="64MiB", grace=1, stdout=subprocess.DEVNULL) as command:
        ending = command.wait(60)
    assert ending is not None
    assert (ending.kind, ending.ceiling) == (EndKind.LIMIT, "cgroup2")
    assert ending.peak is not None
    print(f"{(ending.peak - 64 * MIB) / MIB:+.2f} MiB", ending.steps)
    assert ending.peak <= 65 * MIB
    assert not alive(command.key)


def test_a_program_may_end_in_its_own_way() -> None:
    """The evidence is read while the group is frozen, SIGTERM comes before anything harder."""
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
kept = []
while True:
    kept.append(b"x" * 65536)
    time.sleep(0.0005)
"""
    with hold(python(code), limit="48MiB", grace=5) as command:
        ending = command.wait(60)
    assert ending is not None
    assert (ending.kind, ending.code) == (EndKind.LIMIT, 42), ending
    assert ending.evidence is not None
    assert ending.evidence.processes[0].rss > 30 * MIB


def test_the_whole_tree_goes_though_it_ignores_sigterm() -> None:
    """Parent, child and grandchild."""
    code = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(2):
    if os.fork():
        break
else:
    time.sleep(1000)
kept = []
if os.getppid() == int(sys.argv[1]):
    while True:
        kept.append(b"x" * 1048576)
time.sleep(1000)
"""
    with hold(python(code, os.getpid()), limit="64MiB", grace=0.5) as command:
        ending = command.wait(60)
    assert ending is not None
    assert ending.kind is EndKind.LIMIT


def test_file_cache_is_no_reason_to_end(tmp_path: Path) -> None:
    """A program that writes and reads back three times its limit through the page cache is left alone."""
    disk = Path("/mnt/out")  # on the host's disk: a tmpfs would be memory
    code = """
import os, sys
for number in range(3):
    with open(f"{sys.argv[1]}/cache-{number}", "wb") as file:
        for _ in range(48):
            file.write(b"y" * 1048576)
        file.flush(); os.fsync(file.fileno())
    with open(f"{sys.argv[1]}/cache-{number}", "rb") as file:
        while file.read(1 << 20):
            pass
    os.unlink(f"{sys.argv[1]}/cache-{number}")
"""
    with hold(python(code, disk), limit="48MiB") as command:
        ending = command.wait(90)
    assert ending is not None
    assert (ending.kind, ending.code) == (EndKind.EXIT, 0), ending


def test_a_program_near_its_limit_is_left_alone() -> None:
    """Five times 55 of 64 MiB."""
    for _ in range(5):
        with hold(python("kept = b'x' * (45 << 20)"), limit="64MiB") as command:
            ending = command.wait(60)
        assert ending is not None
        assert (ending.kind, ending.code) == (EndKind.EXIT, 0), ending


def test_swap_is_no_way_around() -> None:
    """The guest has swap; the group may not use it."""
    assert "SwapTotal:              0 kB" not in Path("/proc/meminfo").read_text()
    code = """
import time
kept = []
while True:
    kept.append(b"x" * 1048576)
    time.sleep(0.002)
"""
    with hold(python(code), limit="48MiB", grace=0.5) as command:
        ending = command.wait(60)
    assert ending is not None
    assert ending.kind is EndKind.LIMIT
    assert ending.peak is not None
    assert ending.peak <= 49 * MIB


MONITOR = """
import sys
from memwarden.contain.contained import hold
tree = "import subprocess, sys; subprocess.Popen(['sleep', '300']); print('up', flush=True); sys.stdin.read()"
command = hold([sys.executable, "-c", tree], limit="64MiB")
print(command.pid, flush=True)
command.wait()
"""


def test_a_killed_monitor_takes_the_tree_along() -> None:
    """The sentinel ends the group by cgroup.kill, and the next start removes it."""
    monitor = subprocess.Popen(python(MONITOR), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert monitor.stdout is not None
    pid = int(sorted([monitor.stdout.readline(), monitor.stdout.readline()])[0])
    [group] = _left()
    members = [int(line) for line in (OURS / group / "cgroup.procs").read_text().split()]
    assert len(members) == 2
    assert pid in members
    keys = [key_of(member) for member in members]
    monitor.kill()
    monitor.communicate()
    until = time.monotonic() + 15
    while any(alive(key) for key in keys):
        assert time.monotonic() < until
        time.sleep(0.02)
    while _left():
        sweep(str(OURS))
        assert time.monotonic() < until
    with contextlib.suppress(OSError):
        OURS.rmdir()


@pytest.fixture
def elsewhere():
    """A limited group with the monitor of the test in it, in a process of its own."""
    group = ROOT / "mw-elsewhere"
    group.mkdir()
    yield group
    until = time.monotonic() + 10
    for directory, _, _ in os.walk(group, topdown=False):
        while os.path.isdir(directory):
            try:
                os.rmdir(directory)
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.02)


def inside(group: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that is in the group."""
    join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
    return subprocess.run(python(join + code), capture_output=True, text=True, timeout=60)


def test_below_a_limit_of_our_own_nothing_escapes_it(elsewhere: Path) -> None:
    """Version 2 lets no group with processes hand memory on: the reason is told, and polling takes over."""
    (elsewhere / "memory.max").write_text(str(200 * MIB))
    code = """
import json
from memwarden.contain.grants import obtain
ceiling, refused = obtain(64 << 20)
print(json.dumps([ceiling.kind, [grant.reason for grant in refused if grant.kind == "cgroup2"]]))
ceiling.close()
"""
    result = inside(elsewhere, code)
    kind, [reason] = json.loads(result.stdout)
    assert kind == "polling"
    assert "memory controller" in reason
    assert "--cgroup" in reason


def test_a_group_given_by_name_serves_its_owner(elsewhere: Path) -> None:
    """A delegated group, owned by a user without privileges, holds that user's command."""
    (elsewhere / "cgroup.subtree_control").write_text("+memory")
    (elsewhere / "entry").mkdir()
    for path in (elsewhere, elsewhere / "entry"):
        os.chown(path, 4242, 4242)
        for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(path / name, 4242, 4242)
    code = f"""
import sys
from memwarden.contain.contained import hold
with hold([sys.executable, "-c", "b'x' * 200_000_000"], limit="64MiB", cgroup={str(elsewhere)!r}) as command:
    ending = command.wait(60)
print(ending.kind.value, ending.ceiling)
"""
    # The right to read any file stands in for an interpreter that lies where this user may read.
    user = (
        "setpriv --reuid 4242 --regid 4242 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search"
    )
    join = f"open({str(elsewhere / 'entry' / 'cgroup.procs')!r}, 'w').write('0')"
    become = f"import os, sys; {join}; os.execvp('setpriv', {[*user.split(), *python(code)]!r})"
    result = subprocess.run(python(become), capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["limit", "cgroup2"], result.stderr


def test_nested_limits_and_what_counts(elsewhere: Path) -> None:
    """The smaller limit of an ancestor is the effective one, and available is what is left of it."""
    (elsewhere / "cgroup.subtree_control").write_text("+memory")
    inner = elsewhere / "inner"
    inner.mkdir()
    (elsewhere / "memory.max").write_text(str(100 * MIB))
    (inner / "memory.max").write_text(str(300 * MIB))
    code = """
import json
from memwarden.engine.warden import Warden
kept = b"x" * (80 << 20)
reading = Warden().look()
a = reading.assessment
print(json.dumps([a.effective.bytes, a.effective.source, a.binding.limit.bytes, a.raw.value, a.available,
                  [g.path for g in reading.sample.cgroups], [g.limit for g in reading.sample.cgroups]]))
"""
    result = inside(inner, code)
    effective, source, binding, raw, available, paths, limits = json.loads(result.stdout)
    assert (effective, source) == (100 * MIB, "cgroup /mw-elsewhere")
    assert binding == 100 * MIB
    assert raw in ("high", "critical")
    assert 0 < available < 20 * MIB
    assert paths == ["/mw-elsewhere/inner", "/mw-elsewhere"]
    assert limits == [300 * MIB, 100 * MIB]


def test_the_root_keeps_no_account() -> None:
    """At the top of version 2 there is no usage: no group is told, and the machine counts."""
    if Path("/proc/self/cgroup").read_text().strip() != "0::/":
        pytest.skip("the tests do not run in the root group here")
    groups, gaps = CgroupReader().look()
    assert (groups, gaps) == ((), ())
    effective = Warden().look().assessment.effective
    assert effective is not None
    assert effective.source == "machine"


def test_a_named_group_that_does_not_hand_memory_down(elsewhere: Path) -> None:
    """The reason names the file and the way out."""
    with pytest.raises(CeilingUnavailable, match=r"cgroup\.subtree_control"):
        obtain(64 * MIB, "cgroup2", cgroup=str(elsewhere))


def test_the_command_line_in_version_2() -> None:
    """Report and exit code."""
    result = subprocess.run(
        [sys.executable, "-m", "memwarden", "run", "--json", "--limit", "64MiB", "--", *python("b'x' * 200_000_000")],
        capture_output=True, text=True, timeout=60, env={**os.environ, "XDG_STATE_HOME": "/tmp/state"},
    )  # fmt: skip
    assert result.returncode == 123, result.stderr
    told = json.loads(result.stderr.splitlines()[-1])
    assert told["ending"]["ceiling"] == "cgroup2"
    assert told["ending"]["signal"] in (signal.SIGTERM, signal.SIGKILL)
