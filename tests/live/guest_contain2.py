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

from memwarden.contain.capabilities import obtain, survey
from memwarden.contain.contained_process import popen
from memwarden.contain.kernel import alive, key_of
from memwarden.contain.own_cgroup import sweep
from memwarden.engine.warden import Warden
from memwarden.errors import CeilingUnavailable
from memwarden.model.exits import ExitReason
from memwarden.model.units import MIB
from memwarden.readers.linux.cgroup import CgroupReader
from memwarden.testing import HOG

ROOT = Path("/sys/fs/cgroup")
OURS = ROOT / "memwarden"
MEMWARDEN = [sys.executable, "-m", "memwarden"]
ONE_CALL = "b'x' * 300_000_000"
AS_USER = ["setpriv", "--reuid", "4242", "--regid", "4242", "--clear-groups"]
# The right to read any file stands in for an interpreter that lies where this user may read.
AS_USER += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def _left() -> list[str]:
    return [entry for entry in os.listdir(OURS) if entry.startswith("run-")] if OURS.is_dir() else []


def _members() -> list[int]:
    [group] = _left()
    return [int(line) for line in (OURS / group / "cgroup.procs").read_text().split()]


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test ends without a group of ours."""
    yield
    assert _left() == []


def test_the_best_ceiling_is_version_2() -> None:
    """Granted, chosen automatically, and shown by doctor."""
    grants = {grant.kind: grant for grant in survey()}
    assert grants["cgroup2"].granted, grants["cgroup2"].reason
    assert not grants["cgroup1"].granted
    assert "version 2" in grants["cgroup1"].reason
    ceiling, refused = obtain(64 * MIB)
    assert (ceiling.kind, refused) == ("cgroup2", [])
    ceiling.close()


@pytest.mark.parametrize("code", [HOG, ONE_CALL], ids=["grows", "one call in C"])
def test_a_program_past_its_limit_is_ended_within_one_mib(code: str) -> None:
    """Typed, with evidence, gently first, and not a page more than the parting reserve.

    On a busy machine the tree may grow to the parting reserve before it is frozen, where the kernel kills: not always.
    """
    for _ in range(3):
        with popen(python(code, 10, 0, 300), limit="64MiB", grace=1, stdout=subprocess.DEVNULL) as command:
            command.wait(60)
            report = command.report
        assert report is not None
        assert (report.reason, report.ceiling) == (ExitReason.LIMIT, "cgroup2")
        assert report.peak is not None
        print(f"{(report.peak - 64 * MIB) / MIB:+.2f} MiB", report.steps)
        assert 64 * MIB <= report.peak <= 65 * MIB
        assert report.evidence is not None
        if report.oom_location != "ceiling":
            break
    assert (report.evidence.counted_by, report.evidence.processes[0].key) == ("cgroup", command.key)
    assert report.evidence.used > 63 * MIB
    assert "reached its limit" in report.steps[0]
    assert "SIGTERM" in report.steps[1]
    assert (report.signal, report.oom_location) == (signal.SIGTERM, "")
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
    with popen(python(code), limit="48MiB", grace=5) as command:
        command.wait(60)
        report = command.report
    assert report is not None
    assert (report.reason, report.exit_code) == (ExitReason.LIMIT, 42), report
    assert report.evidence is not None
    assert report.evidence.processes[0].rss > 30 * MIB


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
        time.sleep(0.001)  # a guest on a busy machine looks late, and the kernel would end it before it is looked at
time.sleep(1000)
"""
    with popen(python(code, os.getpid()), limit="64MiB", grace=0.5) as command:
        command.wait(60)
        report = command.report
    assert report is not None
    assert (report.reason, report.signal) == (ExitReason.LIMIT, signal.SIGKILL)
    assert report.evidence is not None
    assert len(report.evidence.processes) == 3
    assert not any(alive(process.key) for process in report.evidence.processes)
    assert report.peak is not None
    assert report.peak <= 65 * MIB


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
    with popen(python(code, disk), limit="48MiB") as command:
        command.wait(90)
        report = command.report
    assert report is not None
    assert (report.reason, report.exit_code) == (ExitReason.EXITED, 0), report
    assert report.peak is not None
    assert report.peak >= 47 * MIB, "the cache never came to the limit: nothing was proven"


def test_a_program_near_its_limit_is_left_alone() -> None:
    """It holds 90 % for a second, by the kernel's own count."""
    code = """
import time
group = open("/proc/self/cgroup").read().strip().removeprefix("0::")
kept = []
while int(open(f"/sys/fs/cgroup{group}/memory.current").read()) < 0.9 * (64 << 20):
    kept.append(b"x" * 262144)
time.sleep(1)
"""
    with popen(python(code), limit="64MiB") as command:
        command.wait(60)
        report = command.report
    assert report is not None
    assert (report.reason, report.exit_code, report.steps) == (ExitReason.EXITED, 0, ()), report
    assert report.peak is not None
    assert 0.9 * 64 * MIB <= report.peak < 64 * MIB


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
    with popen(python(code), limit="48MiB", grace=0.5) as command:
        command.wait(60)
        report = command.report
    assert report is not None
    assert report.reason is ExitReason.LIMIT
    assert report.peak is not None
    assert report.peak <= 49 * MIB


def test_the_kernel_enforces_the_limit_while_the_monitor_is_stopped() -> None:
    """A stopped memwarden reads nothing: the kernel kills 1 MiB above the limit, and that is reported as the limit."""
    code = "import time; time.sleep(1); kept = []\nwhile True: kept.append(b'x' * 65536)"
    monitor = subprocess.Popen(
        [*MEMWARDEN, "run", "--json", "--limit", "32MiB", "--", *python(code)], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 30
    while not _left() or len(_members()) != 1:
        assert time.monotonic() < until
        time.sleep(0.02)
    monitor.send_signal(signal.SIGSTOP)
    try:
        while _members():
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        monitor.send_signal(signal.SIGCONT)
    parsed = json.loads(monitor.communicate(timeout=30)[1].splitlines()[-1])
    assert (monitor.returncode, parsed["exit"]["reason"], parsed["exit"]["oom_location"]) == (123, "limit", "ceiling")
    assert parsed["peak_bytes"] <= 33 * MIB


MONITOR = """
import sys
from memwarden.contain.contained_process import popen
tree = "import subprocess, sys; subprocess.Popen(['sleep', '300']); print('up', flush=True); sys.stdin.read()"
command = popen([sys.executable, "-c", tree], limit="64MiB")
print(command.pid, flush=True)
command.wait()
"""


def test_a_killed_monitor_takes_the_tree_along() -> None:
    """The watchdog kills the group by cgroup.kill, and the next start removes it."""
    monitor = subprocess.Popen(python(MONITOR), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert monitor.stdout is not None
    pid = int(sorted([monitor.stdout.readline(), monitor.stdout.readline()])[0])
    members = _members()
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


def test_nothing_that_a_dead_monitor_left_stays_frozen() -> None:
    """Killed between freezing and SIGTERM, and its watchdog with it: the next start resumes the processes."""
    group = OURS / "run-0-left"
    group.mkdir(parents=True)
    sleeper = subprocess.Popen(["sleep", "300"])
    try:
        (group / "cgroup.procs").write_text(str(sleeper.pid))
        (group / "cgroup.freeze").write_text("1")
        assert sweep(str(OURS)) == [str(group)]
        assert (group / "cgroup.freeze").read_text() == "0\n"
    finally:
        sleeper.kill()
        sleeper.wait()
    until = time.monotonic() + 10
    while _left():
        sweep(str(OURS))
        assert time.monotonic() < until
    OURS.rmdir()


def test_without_the_controller_handed_down_polling_takes_over() -> None:
    """A root that does not delegate memory is not changed: the reason is shown, and the limit still holds."""
    control = ROOT / "cgroup.subtree_control"
    control.write_text("-memory")
    try:
        with popen(python("b'x' * 200_000_000"), limit="32MiB", grace=1) as command:
            command.wait(60)
            report = command.report
        assert "memory" not in control.read_text()
    finally:
        control.write_text("+memory")
    assert report is not None
    assert (report.reason, report.ceiling) == (ExitReason.LIMIT, "polling")
    reasons = {grant.kind: grant.reason for grant in command.refused}
    assert "cgroup.subtree_control" in reasons["cgroup2"]


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


def run_inside(group: Path, *arguments: str) -> tuple[int, dict]:
    """Run memwarden in the group; its exit code, and its report."""
    argv = [*MEMWARDEN, "run", "--json", *arguments]
    result = inside(group, f"import os, sys; os.execv(sys.executable, {argv!r})")
    return result.returncode, json.loads(result.stderr.splitlines()[-1])


def delegate(group: Path) -> None:
    """Give a group to the user without privileges, as in the kernel's documentation."""
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(group / name, 4242, 4242)


def test_below_a_limit_of_our_own_nothing_escapes_it(elsewhere: Path) -> None:
    """In version 2 a group with processes cannot delegate memory: the reason is shown, and polling takes over."""
    (elsewhere / "memory.max").write_text(str(200 * MIB))
    code = """
import json
from memwarden.contain.capabilities import obtain
ceiling, refused = obtain(64 << 20)
print(json.dumps([ceiling.kind, [grant.reason for grant in refused if grant.kind == "cgroup2"]]))
ceiling.close()
"""
    result = inside(elsewhere, code)
    kind, [reason] = json.loads(result.stdout)
    assert kind == "polling"
    assert "memory controller" in reason
    assert "--cgroup" in reason


@pytest.mark.parametrize("name", ["memory.max", "memory.high"])
def test_below_a_limit_above_us_the_group_stands_below_that_limit(elsewhere: Path, name: str) -> None:
    """The group with the limit hands memory down: ours stands in it, not at the top where the limit is escaped."""
    (elsewhere / "cgroup.subtree_control").write_text("+memory")
    (elsewhere / name).write_text(str(200 * MIB))
    (elsewhere / "inner").mkdir()
    code = """
from memwarden.contain.capabilities import obtain
ceiling, _ = obtain(64 << 20)
print(ceiling.kind, *ceiling.joins)
ceiling.close()
"""
    result = inside(elsewhere / "inner", code)
    assert result.stdout.startswith(f"cgroup2 {elsewhere}/memwarden/run-"), result


@pytest.mark.contract("V-28", "W1-11")
@pytest.mark.parametrize("options", [[], ["--limit", "180MiB"]], ids=["watched", "held"])
def test_a_kill_for_a_limit_above_is_not_reported_as_ours(elsewhere: Path, options: list[str]) -> None:
    """The kernel kills for the ancestor's 48 MiB: its path is named, not the nearest group's, and not our limit."""
    (elsewhere / "cgroup.subtree_control").write_text("+memory")
    (elsewhere / "memory.max").write_text(str(48 * MIB))
    (elsewhere / "memory.swap.max").write_text("0")
    inner = elsewhere / "inner"
    inner.mkdir()
    (inner / "memory.swap.max").write_text("0")
    if not options:
        (inner / "memory.max").write_text(str(400 * MIB))
    code, parsed = run_inside(inner, *options, "--", *python("b'x' * 200_000_000"))
    assert code == 128 + signal.SIGKILL
    assert (parsed["exit"]["reason"], parsed["exit"]["oom_location"]) == ("kernel_oom", "/mw-elsewhere")
    assert parsed["exit"].get("ceiling") == ("cgroup2" if options else None)
    assert "48 MiB" in parsed["verdict"]


def test_a_group_given_by_name_serves_its_owner(elsewhere: Path) -> None:
    """A delegated group, owned by a user without privileges, holds that user's command."""
    (elsewhere / "cgroup.subtree_control").write_text("+memory")
    (elsewhere / "entry").mkdir()
    delegate(elsewhere)
    delegate(elsewhere / "entry")
    code = f"""
import sys
from memwarden.contain.contained_process import popen
with popen([sys.executable, "-c", "b'x' * 200_000_000"], limit="64MiB", cgroup={str(elsewhere)!r}) as command:
    command.wait(60)
    report = command.report
print(report.reason.value, report.ceiling)
"""
    join = f"open({str(elsewhere / 'entry' / 'cgroup.procs')!r}, 'w').write('0')"
    become = f"import os, sys; {join}; os.execvp('setpriv', {[*AS_USER, *python(code)]!r})"
    result = subprocess.run(python(become), capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["limit", "cgroup2"], result.stderr


def test_a_group_that_may_not_be_entered_is_not_granted(elsewhere: Path) -> None:
    """The kernel does not let a process in from outside the delegated group; doctor shows it before run."""
    (elsewhere / "cgroup.subtree_control").write_text("+memory")
    delegate(elsewhere)
    asked = ["--json", "--cgroup", str(elsewhere)]
    parsed = subprocess.run([*AS_USER, *MEMWARDEN, "doctor", *asked], capture_output=True, text=True, timeout=60)
    [grant] = [each for each in json.loads(parsed.stdout)["ceilings"] if each["kind"] == "cgroup2"]
    assert not grant["granted"]
    assert "/sys/fs/cgroup/cgroup.procs cannot be written" in grant["reason"]
    argv = [*AS_USER, *MEMWARDEN, "run", *asked, "--limit", "32MiB", "--", "true"]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert result.returncode == 125
    assert grant["reason"] in result.stderr
    assert not (elsewhere / "memwarden").exists()


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
reading = Warden().sample()
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
    """At the top of version 2 there is no usage: no group is shown, and the machine counts."""
    if Path("/proc/self/cgroup").read_text().strip() != "0::/":
        pytest.skip("the tests do not run in the root group here")
    groups, gaps = CgroupReader().sample()
    assert (groups, gaps) == ((), ())
    effective = Warden().sample().assessment.effective
    assert effective is not None
    assert effective.source == "machine"


def test_a_named_group_that_does_not_hand_memory_down(elsewhere: Path) -> None:
    """The reason names the file and the way out."""
    with pytest.raises(CeilingUnavailable, match=r"cgroup\.subtree_control"):
        obtain(64 * MIB, "cgroup2", cgroup=str(elsewhere))


def test_the_command_line_in_version_2(tmp_path: Path) -> None:
    """Report and exit code; the record's levels are shares of the asked limit, not of the kernel's 1 MiB above."""
    record = tmp_path / "record"
    argv = [*MEMWARDEN, "run", "--json", "--limit", "64MiB", "--record", str(record), "--", *python(ONE_CALL)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert result.returncode == 123, result.stderr
    parsed = json.loads(result.stderr.splitlines()[-1])
    assert parsed["exit"]["ceiling"] == "cgroup2"
    assert parsed["exit"]["signal"] in (signal.SIGTERM, signal.SIGKILL)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    effective = [line["value"]["assessment"]["effective"] for line in lines if line["kind"] == "sample"]
    assert {limit["bytes"] for limit in effective if "/memwarden/run-" in limit["source"]} == {64 * MIB}


def test_doctor_grants_version_2() -> None:
    """As a person asks for it, with what happens when memwarden is killed."""
    result = subprocess.run([*MEMWARDEN, "doctor", "--json"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    grants = {each["kind"]: each for each in json.loads(result.stdout)["ceilings"]}
    assert (grants["cgroup2"]["granted"], grants["cgroup2"]["reason"]) == (True, "")
    assert grants["cgroup2"]["if_killed"] == "a helper shell kills the whole tree"
    assert not grants["cgroup1"]["granted"]
