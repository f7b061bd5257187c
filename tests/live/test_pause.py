"""Pausing real processes: none stays stopped after an undo, a close, an exit, or kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memwarden
from memwarden.actions import suspend
from memwarden.actions.pause import Pause
from memwarden.actions.targets import Targets
from memwarden.actions.terminate import Terminate
from memwarden.errors import ActionFailed
from memwarden.model.decisions import Decision
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.identity import ProcProbe
from memwarden.readers.linux.process import read_stat
from support.engine import soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PROBE = ProcProbe()
DECISION = Decision(rule="r", action="pause", reason="CRITICAL", wall=0.0, monotonic=0.0)
#: A parent, its child, and the child's child.
TREE = "sh -c 'sh -c \"sleep 300; :\" & wait' & echo $!; wait"
#: Pauses the given process, prints that, and waits to be killed.
PAUSER = """
import sys
from memwarden.actions import suspend
from memwarden.actions.pause import Pause
from memwarden.actions.targets import Targets
from memwarden.model.decisions import Decision
from memwarden.readers.linux.identity import ProcProbe
probe = ProcProbe()
targets = Targets(probe)
targets.track_process(int(sys.argv[1]), "target", essential=False)
pause = Pause(targets, probe)
print(pause.run(Decision(rule="r", action="pause", reason="", wall=0.0, monotonic=0.0)).message, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs in sessions of their own, and ends whatever is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(Path(memwarden.__file__).parents[1])},
            )
        )
        return started[-1]

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        for stream in (process.stdin, process.stdout):
            stream.close()


def family(pid: int) -> list[ProcessKey]:
    """A process and all below it."""
    found = [PROBE.key_of(pid)]
    for key in found:
        found += PROBE.children(key)
    return found


def tree(start: Callable[..., subprocess.Popen[str]]) -> list[ProcessKey]:
    """Three generations."""
    process = start("sh", "-c", TREE)
    # The last one has become what it shall be: a shell that waits in vfork for one that stands still cannot be stopped.
    assert soon(lambda: len(found := family(process.pid)) >= 4 and read_stat(found[-1].pid).name == "sleep")
    return family(process.pid)


def paused(key: ProcessKey) -> bool:
    """Return whether it is stopped."""
    return read_stat(key.pid).state == "T"


def targets_of(*pids: int) -> Targets:
    """A registry where these are not essential."""
    targets = Targets(PROBE)
    for pid in pids:
        targets.track_process(pid, f"t{pid}", essential=False)
    return targets


@pytest.mark.contract("V-11")
def test_a_whole_tree_stands_still_and_runs_on(start) -> None:
    """One target for each decision, the newest first; undo lets all of them run on."""
    older, newer = tree(start), tree(start)
    pause = Pause(targets_of(older[0].pid, newer[0].pid), PROBE)
    outcome = pause.run(DECISION)
    assert outcome.message == f"paused t{newer[0].pid} (pid {newer[0].pid}) and {len(newer) - 1} descendants"
    assert all(map(paused, newer))
    assert not any(map(paused, older))
    assert pause.run(DECISION).done
    assert all(map(paused, older))
    third = pause.run(DECISION)
    assert (third.done, "nothing to pause" in third.message) == (False, True)
    assert not pause.undo(DECISION._replace(rule="another")).done
    undone = pause.undo(DECISION._replace(undo=True))
    assert undone.done
    assert str(newer[0].pid) in undone.message
    assert soon(lambda: not any(map(paused, older + newer)))
    assert all(map(PROBE.alive, older + newer))


def test_closing_lets_everybody_run_on(start) -> None:
    """And leaves no shell behind."""
    members = tree(start)
    before = PROBE.children(PROBE.own())
    pause = Pause(targets_of(members[0].pid), PROBE)
    pause.run(DECISION)
    assert len(PROBE.children(PROBE.own())) == len(before) + 1
    pause.close()
    assert soon(lambda: not any(map(paused, members)))
    assert PROBE.children(PROBE.own()) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_the_pausing_process_may_be_killed(start, number: int) -> None:
    """A helper shell resumes the whole tree."""
    members = tree(start)
    pauser = start(sys.executable, "-c", PAUSER, str(members[0].pid))
    assert pauser.stdout.readline().startswith("paused")
    assert all(map(paused, members))
    (guard,) = PROBE.children(PROBE.key_of(pauser.pid))
    pauser.send_signal(number)
    pauser.wait(10)
    assert soon(lambda: not any(map(paused, members)))
    assert all(map(PROBE.alive, members))
    assert soon(lambda: not PROBE.alive(guard))


def test_the_pausing_process_may_exit_at_once(start) -> None:
    """An interpreter that simply ends lets them run on, too."""
    members = tree(start)
    pauser = start(sys.executable, "-c", PAUSER, str(members[0].pid))
    pauser.stdout.readline()
    pauser.stdin.close()
    assert pauser.wait(10) == 0
    assert soon(lambda: not any(map(paused, members)))


def test_a_forked_child_does_not_hold_the_guard(start) -> None:
    """The pipe's copy in a child that lives on is closed there; its own close resumes nothing."""
    members = tree(start)
    pauser = start(
        sys.executable,
        "-W",
        "ignore",
        "-c",
        PAUSER.replace("sys.stdin.read()", "import os; os.fork() or pause.close(); sys.stdin.read()"),
        str(members[0].pid),
    )
    pauser.stdout.readline()
    assert soon(lambda: len(PROBE.children(PROBE.key_of(pauser.pid))) == 2)
    time.sleep(0.1)  # the child has closed its pause by then, if it ever does harm by it
    assert all(map(paused, members))
    os.kill(pauser.pid, signal.SIGKILL)
    assert soon(lambda: not any(map(paused, members)))


def test_the_shell_resumes_only_reported_processes(start) -> None:
    """A pid that has another start time now is left as it is; strange names do not confuse it."""
    odd = start(sys.executable, "-c", "open('/proc/self/comm', 'w').write(') T 1 (\\n) x'); input()")
    other = start("sleep", "300")
    assert soon(lambda: ")" in read_stat(odd.pid).name)
    for process in (odd, other):
        process.send_signal(signal.SIGSTOP)
    assert soon(lambda: paused(PROBE.key_of(odd.pid)) and paused(PROBE.key_of(other.pid)))
    this, that = PROBE.key_of(odd.pid), PROBE.key_of(other.pid)
    reported = f"{this.pid}:{this.start} {that.pid}:{that.start - 1} 4194305:7"
    subprocess.run(["/bin/sh", "-c", f"words='{reported}'; {suspend._RESUME}"], check=False, env={})
    assert soon(lambda: not paused(PROBE.key_of(odd.pid)))
    assert paused(PROBE.key_of(other.pid))
    other.send_signal(signal.SIGCONT)


def test_a_process_that_was_stopped_before_stays_stopped(start) -> None:
    """It is not counted as paused, and undo does not let it run on."""
    members = tree(start)
    child = members[-1]
    os.kill(child.pid, signal.SIGSTOP)
    assert soon(lambda: paused(child))
    pause = Pause(targets_of(members[0].pid), PROBE)
    assert pause.run(DECISION).done
    pause.undo(DECISION)
    assert soon(lambda: not any(map(paused, members[:-1])))
    assert paused(child)
    for key in members[:-1]:
        os.kill(key.pid, signal.SIGSTOP)
    assert soon(lambda: all(map(paused, members)))
    outcome = pause.run(DECISION)
    assert (outcome.done, "nothing to pause" in outcome.message) == (False, True)


def test_what_is_paused_can_still_be_ended(start) -> None:
    """Terminate resumes it so that it can handle SIGTERM; undoing the pause then has no effect."""
    asked = start("sh", "-c", "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    asked.stdout.readline()
    targets = targets_of(asked.pid)
    pause = Pause(targets, PROBE)
    assert pause.run(DECISION).done
    assert Terminate(targets, PROBE).run(DECISION).message.endswith("by SIGTERM")
    assert asked.wait(5) == 3
    assert asked.stdout.readline() == "asked\n"
    assert pause.undo(DECISION).done


def test_a_rehearsal_stops_nothing(start) -> None:
    """It names the target."""
    members = tree(start)
    pause = Pause(targets_of(members[0].pid), PROBE)
    for outcome in (pause.rehearse(DECISION), pause.run(DECISION._replace(dry_run=True))):
        assert not outcome.done
        assert outcome.message.startswith(f"would pause t{members[0].pid}")
    assert not any(map(paused, members))


def test_without_a_shell_nothing_is_paused(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a paused process could stay stopped."""

    def none(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/bin/sh")

    target = start("sleep", "300")
    pause = Pause(targets_of(target.pid), PROBE)
    monkeypatch.setattr("memwarden.process.watchdog.subprocess.Popen", none)
    with pytest.raises(ActionFailed, match="/bin/sh"):
        pause.run(DECISION)
    assert not paused(PROBE.key_of(target.pid))
