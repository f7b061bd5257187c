"""Ending registered processes: real ones, of these tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from memwarden.actions.targets import Targets
from memwarden.actions.terminate import Terminate
from memwarden.engine.warden import Warden
from memwarden.errors import ActionFailed, ReadError, TargetChanged
from memwarden.model.decisions import Decision
from memwarden.model.events import EventKind
from memwarden.model.facts import ProcessKey
from memwarden.policy.rules import Rule
from memwarden.readers.linux.identity import ProcProbe
from memwarden.testing import ScriptedReader

PROBE = ProcProbe()
DECISION = Decision(rule="r", action="terminate", reason="CRITICAL", wall=0.0, monotonic=0.0)
DEAF = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.2; done"])
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator:
    """Starts programs, and ends whatever is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()
        process.communicate()


@pytest.mark.contract("V-12")
def test_only_the_registered_and_non_essential_is_ended(start) -> None:
    """The essential, the unregistered and the parent live on; the outcome has the target and the signal."""
    extra, essential, stranger = (start("sleep", "300") for _ in range(3))
    targets = Targets(PROBE)
    targets.track_process(extra.pid, "extra", essential=False)
    targets.track_process(essential.pid, "encoder")
    outcome = Terminate(targets, PROBE, grace=5).run(DECISION)
    assert outcome.done
    assert outcome.message == f"terminated extra (pid {extra.pid}) by SIGTERM"
    assert extra.wait(5) == -signal.SIGTERM
    assert (essential.poll(), stranger.poll()) == (None, None)
    again = Terminate(targets, PROBE).run(DECISION)
    assert (again.done, "nothing to terminate" in again.message) == (False, True)


def test_a_tree_that_ignores_sigterm_is_killed_whole(start) -> None:
    """Parent and child are gone after the grace."""
    deaf = start(sys.executable, "-c", DEAF)
    child = PROBE.key_of(int(deaf.stdout.readline()))
    targets = Targets(PROBE)
    targets.track_process(deaf.pid, "deaf", essential=False)
    outcome = Terminate(targets, PROBE, grace=0.2).run(DECISION)
    assert outcome.message.endswith("by SIGKILL")
    assert deaf.wait(5) == -signal.SIGKILL
    assert not PROBE.alive(child)


@pytest.mark.contract("V-12")
def test_a_reused_pid_is_not_signaled(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target with another start time now is unregistered, or raises TargetChanged; nothing is sent."""
    bystander = start("sleep", "300")
    targets = Targets(PROBE)
    real = targets.track_process(bystander.pid, "worker", essential=False)
    stale = ProcessKey(real.key.pid, real.key.start - 1)
    targets._targets = {stale: real.__class__(key=stale, name="worker", essential=False)}
    assert targets.living() == []
    targets._targets = {stale: real.__class__(key=stale, name="worker", essential=False)}
    monkeypatch.setattr(targets, "living", lambda: list(targets._targets.values()))
    with pytest.raises(TargetChanged, match="worker"):
        Terminate(targets, PROBE).run(DECISION)
    assert bystander.poll() is None


def test_a_rehearsal_terminates_nothing(start) -> None:
    """A dry run names the target."""
    extra = start("sleep", "300")
    targets = Targets(PROBE)
    targets.track_process(extra.pid, "extra", essential=False)
    outcome = Terminate(targets, PROBE).run(DECISION._replace(dry_run=True))
    assert (outcome.done, "would terminate extra" in outcome.message) == (False, True)
    assert extra.poll() is None


def test_targets_that_cannot_be_registered(start) -> None:
    """A pid without a process, and the own process as non-essential."""
    targets = Targets(PROBE)
    with pytest.raises(ReadError):
        targets.track_process(2**22 + 1, "absent")
    with pytest.raises(ActionFailed, match="this process"):
        targets.track_process(PROBE.own().pid, "me", essential=False)
    extra = start("sleep", "300")
    targets.track_process(extra.pid, "extra", essential=False)
    targets.untrack_process(extra.pid)
    assert targets.living() == []


def test_a_rule_ends_one_at_a_time_and_measures_again(start) -> None:
    """At CRITICAL the newest goes; the next only when the level is still CRITICAL after the rule's rest."""
    older, newer = start("sleep", "300"), start("sleep", "300")
    targets = Targets(PROBE)
    targets.track_process(older.pid, "older", essential=False)
    targets.track_process(newer.pid, "newer", essential=False)
    rules = [Rule(name="emergency", when="level >= CRITICAL", then="terminate", rest=60)]
    outcomes = []
    warden = Warden([ScriptedReader([970])], interval=0.02, rules=rules, actions=[Terminate(targets, PROBE)])
    warden.subscribe(lambda event: outcomes.append(event.message) if event.kind is EventKind.OUTCOME else None)
    with warden:
        assert newer.wait(10) == -signal.SIGTERM
        warden.flush()
        assert warden.flush()
    assert outcomes == [f"terminated newer (pid {newer.pid}) by SIGTERM"]
    assert older.poll() is None


def test_processes_forked_during_the_search_are_terminated_too(start, tmp_path: Path) -> None:
    """A target that forks as fast as it can, and ignores SIGTERM, leaves no process behind."""
    mark = str(tmp_path / "mark")
    bomb = start(
        sys.executable,
        "-c",
        "import os, signal, sys, time\n"
        "kept = open(sys.argv[1], 'w')\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "for _ in range(200):\n"
        "    if not os.fork():\n"
        "        time.sleep(30)\n"
        "        os._exit(0)\n"
        "    time.sleep(0.001)\n"
        "time.sleep(30)\n",
        mark,
    )
    bomb.stdout.readline()
    targets = Targets(PROBE)
    targets.track_process(bomb.pid, "bomb", essential=False)
    outcome = Terminate(targets, PROBE, grace=0.1).run(DECISION)
    bomb.wait(5)
    left = [pid for pid in psutil.pids() if holds(pid, mark)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert outcome.message.endswith("by SIGKILL")
    assert left == []


def test_what_is_essential_inside_of_a_target_lives_on(start) -> None:
    """A database that the target started is not ended with it."""
    target = start("sh", "-c", "sleep 300 & echo $!; sleep 300 & wait")
    database = int(target.stdout.readline())
    targets = Targets(PROBE)
    targets.track_process(target.pid, "target", essential=False)
    kept = targets.track_process(database, "database")
    text = Terminate(targets, PROBE).run(DECISION).message
    assert text == f"terminated target (pid {target.pid}) and 1 descendant by SIGTERM"
    try:
        assert PROBE.alive(kept.key)
        assert not PROBE.stopped(kept.key)
    finally:
        os.kill(database, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop the right to signal")
def test_a_process_that_may_not_be_signaled_is_named(start) -> None:
    """Another user's: the target, and the system's reason; soon, and nothing is left stopped."""
    target = start("sleep", "300")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setuid(65534)
            targets = Targets(PROBE)
            targets.track_process(target.pid, "roots", essential=False)
            try:
                Terminate(targets, PROBE).run(DECISION)
            except ActionFailed as error:
                code = 0 if "roots" in str(error) and "Operation not permitted" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert target.poll() is None


def test_a_child_has_targets_of_its_own() -> None:
    """The lock of the registry, held by another thread at the fork, is not waited for in the child."""
    targets = Targets(PROBE)
    with targets._lock:
        pid = os.fork()
        if not pid:
            signal.alarm(10)
            targets.track_process(os.getpid(), "me")
            os._exit(0 if len(targets.living()) == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert targets.living() == []


def holds(pid: int, mark: str) -> bool:
    """Return whether a process has this file open."""
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == mark for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False
