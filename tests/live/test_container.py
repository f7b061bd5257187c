"""In a real container of 64 MiB on a host that has far more: level, percentages and the end are the container's."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from memwarden.model.units import MIB
from memwarden.testing import HOG
from support.docker import Docker

LIMIT = 64 * MIB
MEMWARDEN = [sys.executable, "-m", "memwarden"]
STATE = {"XDG_STATE_HOME": "/tmp/state"}


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.contract("V-28", "W1-11")
def test_levels_and_percentages_are_the_containers(docker: Docker) -> None:
    """Taking 45, 70, 85 and 92 % of 64 MiB is LOW, MODERATE, HIGH and CRITICAL, though the host has free memory."""
    code = """
import json
from memwarden.engine.warden import Warden
from memwarden.assess.pressure import bare_level
output, kept = [], []
warden = Warden()
for share in (0.45, 0.72, 0.83, 0.92):
    while True:
        assessment = warden.sample().assessment
        if assessment.ratio >= share:
            break
        kept.append(b"x" * 262144)
    output.append([assessment.raw.value, assessment.effective.bytes, assessment.binding.limit.source.split("/")[0],
                 round(assessment.ratio, 2), assessment.available])
print(json.dumps(output))
"""
    result = docker.run(python(code), memory=LIMIT)
    assert result.returncode == 0, result.stderr
    output = json.loads(result.stdout)
    assert [raw for raw, *_ in output] == ["low", "moderate", "high", "critical"]
    for (_, effective, source, ratio, available), share in zip(output, (0.45, 0.72, 0.83, 0.92), strict=True):
        assert (effective, source) == (LIMIT, "cgroup ")
        assert share <= ratio < share + 0.05
        assert available == pytest.approx(LIMIT * (1 - ratio), abs=MIB)


@pytest.mark.contract("V-28")
def test_doctor_shows_the_containers_limit(docker: Docker) -> None:
    """`effective_limit_bytes` is the container's, and shows where it comes from."""
    result = docker.run([*MEMWARDEN, "doctor", "--json"], memory=LIMIT)
    output = json.loads(result.stdout)
    assert output["effective_limit_bytes"] == LIMIT
    assert output["effective_limit_source"].startswith("cgroup ")
    assert all(each["reason"] for each in output["ceilings"] if not each["granted"])


def test_the_end_is_the_containers(docker: Docker) -> None:
    """Without a limit of ours the kernel kills the program; memwarden, as PID 1, survives and shows where."""
    argv = [*MEMWARDEN, "run", "--json", "--interval", "0.05", "--", *python(HOG, 1, 50, 500)]
    with docker.start(argv, memory=LIMIT, env=STATE) as container:
        result, group = container.wait(), container.cgroup
    assert result.returncode == 128 + signal.SIGKILL, result.stderr
    output = json.loads(result.stderr.splitlines()[-1])
    assert output["exit"]["reason"] == "kernel_oom"
    assert output["exit"]["oom_location"] == group
    assert "64 MiB" in output["verdict"]
    assert output["effective_limit_bytes"] == LIMIT
    levels = [level["level"] for level in output["levels"]]
    assert levels[0] == "low"
    assert "critical" in levels
    assert result.oom_killed
    assert all(level["of"].startswith("cgroup ") for level in output["levels"])


@pytest.mark.parametrize(
    ("own_groups", "kind", "most"), [(False, "polling", 6 * MIB), (True, "cgroup1", 1 * MIB)], ids=["polling", "group"]
)
def test_a_limit_of_our_own_inside_a_container(docker: Docker, own_groups: bool, kind: str, most: int) -> None:
    """Read-only groups leave polling; where groups may be made it is one below the container's own."""
    result = docker.run(
        [*MEMWARDEN, "run", "--json", "--limit", "40MiB", "--grace", "0.5", "--", *python(HOG, 1, 100, 500)],
        memory=2 * LIMIT, env=STATE, own_groups=own_groups,
    )  # fmt: skip
    assert result.returncode == 123, result.stderr
    output = json.loads(result.stderr.splitlines()[-1])
    print(f"{(output['peak_bytes'] - 40 * MIB) / MIB:+.2f} MiB past the limit by {kind}")
    assert output["exit"]["ceiling"] == kind
    assert output["peak_bytes"] <= 40 * MIB + most
    assert not result.oom_killed
    if kind == "polling":
        assert all(refused["reason"] for refused in output["better_ceilings_refused"])


@pytest.mark.contract("V-28", "W1-11")
@pytest.mark.parametrize(("own_groups", "kind"), [(False, "polling"), (True, "cgroup1")], ids=["polling", "group"])
def test_the_containers_own_end_is_not_reported_as_our_limit(docker: Docker, own_groups: bool, kind: str) -> None:
    """The container is full before the command is at its limit: the kernel's kill names its group."""
    asked = ["--limit", "60MiB", "--grace", "0.5"]  # memwarden's own memory leaves the command less than that
    argv = [*MEMWARDEN, "run", "--json", *asked, "--", *python(HOG, 1, 100, 500)]
    with docker.start(argv, memory=LIMIT, env=STATE, own_groups=own_groups) as container:
        result, group = container.wait(), container.cgroup
    assert result.returncode == 128 + signal.SIGKILL, result.stderr
    output = json.loads(result.stderr.splitlines()[-1])["exit"]
    assert (output["reason"], output["oom_location"], output["ceiling"]) == ("kernel_oom", group, kind)


def test_as_pid_1_it_reaps_orphans_and_kills_what_is_left(docker: Docker) -> None:
    """Double forks leave no zombie while the command runs, and nothing outlives it."""
    code = """
import os, subprocess, time
assert os.getppid() == 1
for _ in range(5):
    subprocess.run(["sh", "-c", "true & sleep 0.02 &"], check=True)
subprocess.run(["sh", "-c", "sleep 1000 &"], check=True)
until = time.monotonic() + 10
def zombies():
    found = 0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            found += open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            pass
    return found
while zombies() and time.monotonic() < until:
    time.sleep(0.05)
print("zombies", zombies(), flush=True)
"""
    result = docker.run([*MEMWARDEN, "run", "--json", "--grace", "1", "--", *python(code)], memory=LIMIT * 2, env=STATE)
    assert result.returncode == 0, result.stderr
    assert "zombies 0" in result.stdout
    output = json.loads(result.stderr.splitlines()[-1])
    assert any("outlived the command" in step for step in output["exit"]["steps"])
    assert output["exit"]["survivors"] == []


@pytest.mark.parametrize(
    ("prepare", "code_of_it"), [("signal.signal(15, lambda *_: os._exit(33))", 33), ("", 128 + signal.SIGTERM)]
)
def test_docker_stop_reaches_the_command(docker: Docker, prepare: str, code_of_it: int) -> None:
    """SIGTERM to PID 1 is passed on, and the command's own exit code comes back, or 128 and the signal's number."""
    code = f"import os, signal\n{prepare}\nprint('up', flush=True)\nsignal.pause()"
    with docker.start([*MEMWARDEN, "run", "--quiet", "--", *python(code)], memory=LIMIT * 2, env=STATE) as container:
        container.wait_for_output("up")
        container.kill(signal.SIGTERM)
        started = time.monotonic()
        assert container.wait(30).returncode == code_of_it
        assert time.monotonic() - started < 8, "ended by itself, not by docker's patience"


def test_the_verdict_is_left_for_the_supervisor(docker: Docker, tmp_path: Path) -> None:
    """As PID 1 in /dev/termination-log where that exists, else where it was asked for."""
    asked = tmp_path / "asked"
    asked.touch()
    default = tmp_path / "default"
    default.touch()
    result = docker.run(
        [*MEMWARDEN, "run", "--quiet", "--", "sh", "-c", "exit 9"],
        memory=LIMIT * 2, env=STATE, host_config={"Binds": [f"{default}:/dev/termination-log"]},
    )  # fmt: skip
    assert result.returncode == 9, result.stderr
    assert default.read_text().startswith("memwarden: exited with code 9 after ")
    result = docker.run(
        [*MEMWARDEN, "run", "--quiet", "--termination-log", str(asked), "--", "sh", "-c", "exit 9"],
        memory=LIMIT * 2, env=STATE, writable=[tmp_path],
    )  # fmt: skip
    assert result.returncode == 9, result.stderr
    assert asked.read_text().startswith("memwarden: exited with code 9 after ")
    assert "exit code 9" in asked.read_text()


@pytest.mark.contract("S1-71")
@pytest.mark.parametrize("memory", [4 << 30, 512 << 20])
def test_the_main_job_works_on_a_small_machine(docker: Docker, tmp_path: Path, memory: int) -> None:
    """A real index is built, watched and held, where there are 4 GiB, and where there is 0.5."""
    example = Path(__file__).parents[2] / "examples" / "fulltext_index.py"
    sources = Path(json.__file__).parent
    index = tmp_path / "sources.idx"
    result = docker.run(
        [*MEMWARDEN, "run", "--json", "--limit", "256MiB", "--",
         sys.executable, str(example), "build", str(sources), "--out", str(index)],
        memory=memory, env=STATE, writable=[tmp_path],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert index.stat().st_size > 1000
    assert json.loads(result.stderr.splitlines()[-1])["effective_limit_bytes"] == memory
