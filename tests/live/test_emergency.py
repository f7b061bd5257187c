"""The whole path of an emergency, by the engine: a rule finds a real tree or group full, and acts until it is not."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.model.units import MIB
from memwarden.policy.presets import EMERGENCY
from memwarden.readers.linux.process import read_stat
from memwarden.records.jsonl import read_lines
from memwarden.testing import HOG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
V1 = Path("/sys/fs/cgroup/memory")
NEEDS_V1 = pytest.mark.skipif(not os.access(V1 / "cgroup.event_control", os.W_OK), reason="needs groups of version 1")
_number = itertools.count()

#: Fills its tree (or its group) to 93 % of a limit and lets the rules of the preset for containers work, with shorter
#: times; prints what it saw of its own. A process that is not registered, or is essential, must be unharmed.
PROGRAM = """
import dataclasses, json, os, subprocess, sys, threading
from memwarden import EventKind, JsonlRecorder, Warden, preset
from memwarden.model.limits import Limit
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.tree import TreeReader
from memwarden.testing import HOG

plan = json.loads(sys.argv[1])
if plan["group"]:
    with open(f"{plan['group']}/cgroup.procs", "w") as file:
        file.write("0")

def child(size):
    made = subprocess.Popen([sys.executable, "-c", HOG, "1", "0", str(size)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    assert made.stdout.readline() == "started\\n"
    assert made.stdout.readline() == "at cap\\n"
    return made

hog, essential, bystander = child(120), child(40), child(20)
store = [b"x" * (1 << 20) for _ in range(plan["cache"])]
readers = asked = None
if plan["group"]:
    with open(f"{plan['group']}/memory.usage_in_bytes") as file:
        used = int(file.read())
    with open(f"{plan['group']}/memory.limit_in_bytes", "w") as file:
        file.write(str(int(used / 0.93)))
else:
    readers = [TreeReader(os.getpid()), MeminfoReader()]
    asked = Limit(int(readers[0].read()["tree"].total / 0.93), "asked")
rules = [dataclasses.replace(rule, sustain=0.1, step=0.2, settle=0.3) if rule.name == "emergency" else rule
         for rule in preset("container").rules]
assert any(rule.name == "emergency" for rule in rules)
warden = Warden(readers, interval=0.1, asked=asked, rules=rules, dry_run=plan["dry_run"],
                recorders=[JsonlRecorder(plan["record"])])
warden.track_process(hog.pid, "hog", essential=False)
warden.track_process(essential.pid, "essential")
warden.caches.register(store.clear, "store", size=store.__len__)
seen, over = [], threading.Event()

def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]

def hear(event):
    if event.kind is EventKind.OUTCOME:
        seen.append([event.value.decision.action, event.value.decision.undo, warden.gate.closed, state(hog.pid)])
        if event.value.decision.action == plan["until"]:
            over.set()
    elif event.kind is EventKind.CLEARED and event.value.rule == "emergency":
        seen.append(["cleared", False, warden.gate.closed, state(hog.pid)])
        if plan["until"] == "cleared":
            over.set()

warden.subscribe(hear)
warden.start()
ended = over.wait(40)
warden.flush()
outcome = {"ended": ended, "seen": seen, "level": warden.last.assessment.level.name, "pids": [hog.pid, essential.pid,
        bystander.pid], "states": [state(each.pid) for each in (hog, essential, bystander)], "left": len(store)}
warden.stop()
outcome["after"] = [warden.gate.closed, state(hog.pid), essential.poll(), bystander.poll(), hog.poll()]
print(json.dumps(outcome))
for each in (hog, essential, bystander):
    each.kill()
    each.communicate()
"""


@pytest.fixture
def group() -> Iterator[str]:
    """A group of the test's own."""
    path = V1 / f"mw-test-emergency-{os.getpid()}-{next(_number)}"
    path.mkdir()
    yield str(path)
    until = time.monotonic() + 10
    while path.exists():
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < until, path
            time.sleep(0.02)


def emergency(
    folder: Path, *, group: str = "", cache: int = 4, dry_run: bool = False, until: str = "cleared"
) -> tuple[Any, list[Any]]:
    """Return the program's output, and the events that it recorded."""
    record = folder / "record.jsonl"
    plan = {"group": group, "cache": cache, "dry_run": dry_run, "until": until, "record": str(record)}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(plan)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    parsed = json.loads(ran.stdout)
    assert parsed["ended"], parsed
    return parsed, list(read_lines(record))


def steps(events: list[Any], kind: str) -> list[Any]:
    """The decisions, or the outcomes, of the emergency; those that take nothing back."""
    values = [event for event in events if event.kind.value == kind]
    decisions = [event.value if kind == "decision" else event.value.decision for event in values]
    return [
        (event, decision)
        for event, decision in zip(values, decisions, strict=True)
        if decision.rule == "emergency" and not decision.undo
    ]


def check_order(events: list[Any]) -> None:
    """Every step was decided by a sample that was made after the outcome of the one before."""
    outcomes = {decision.action: event for event, decision in steps(events, "outcome")}
    decided = [decision for _, decision in steps(events, "decision")]
    for before, after in itertools.pairwise(decided):
        if before.action in ("notify", *EMERGENCY) and after.action in EMERGENCY:
            assert after.monotonic >= outcomes[before.action].monotonic, (before, after)


@pytest.mark.contract("V-11", "V-12", "S1-34", "S1-35", "W1-12")
@pytest.mark.parametrize("where", ["tree", pytest.param("group", marks=NEEDS_V1)])
def test_an_emergency_ends_with_the_one_that_is_not_essential(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    """Step by step, each after a new sample; the hog is terminated, no other is touched; all is undone."""
    group = request.getfixturevalue("group") if where == "group" else ""
    parsed, events = emergency(tmp_path, group=group)
    decided = [decision.action for _, decision in steps(events, "decision")]
    assert decided == ["notify", *EMERGENCY]
    check_order(events)
    done = {decision.action: event.value for event, decision in steps(events, "outcome")}
    hog = parsed["pids"][0]
    assert done["pause"].message.startswith(f"paused hog (pid {hog})")
    assert done["terminate"].message.startswith(f"terminated hog (pid {hog})")
    assert all(outcome.done for outcome in done.values()), done
    # While it lasted no new work was admitted, and the hog stood still before it was ended.
    states = {action: (closed, state) for action, undo, closed, state in parsed["seen"] if not undo}
    assert states["stop-admitting"] == (True, "S")
    assert states["pause"] == (True, "T")
    # Relief ended it: the rule cleared, what could be was taken back, and no further action was run.
    undone = [["cleared", False], ["pause", True], ["stop-admitting", True], ["notify", True]]  # the last one first
    assert [each[:2] for each in parsed["seen"][-4:]] == undone
    closed, _, essential_code, bystander_code, hog_code = parsed["after"]
    assert (closed, essential_code, bystander_code) == (False, None, None)
    assert hog_code is not None
    assert parsed["states"][1:] == ["S", "S"]
    cleared = [event.value for event in events if event.kind.value == "cleared"]
    assert [each.rule for each in cleared if each.rule == "emergency"] == ["emergency"]


@pytest.mark.contract("V-10", "V-11", "S1-29", "W1-12")
def test_it_stops_at_the_first_step_that_helps(tmp_path: Path) -> None:
    """A cache that holds a third is cleared, and no process is paused or terminated after that."""
    parsed, events = emergency(tmp_path, cache=90)
    decided = [decision.action for _, decision in steps(events, "decision")]
    assert decided == ["notify", "stop-admitting", "collect", "trim", "caches"]
    check_order(events)
    outcomes = {decision.action: event.value for event, decision in steps(events, "outcome")}
    message = outcomes["caches"].message
    assert message.startswith("cleared store (90 entries)")
    assert float(message.partition("; ")[2].partition(" MiB")[0]) == pytest.approx(90, rel=0.1)
    assert parsed["left"] == 0
    assert parsed["states"] == ["S", "S", "S"]
    assert parsed["after"][0] is False
    assert parsed["after"][2:] == [None, None, None]


@pytest.mark.contract("V-12", "S1-35")
def test_a_dry_run_touches_nothing_and_names_the_targets(tmp_path: Path) -> None:
    """The gate stays open and the hog runs on; harmless actions are run."""
    parsed, events = emergency(tmp_path, dry_run=True, until="terminate")
    outcomes = {decision.action: event.value for event, decision in steps(events, "outcome")}
    hog = parsed["pids"][0]
    assert list(outcomes) == ["notify", *EMERGENCY]
    assert all(decision.dry_run for _, decision in steps(events, "decision"))
    assert outcomes["stop-admitting"].message == "would admit no new work"
    assert outcomes["pause"].message == f"would pause hog (pid {hog})"
    assert outcomes["terminate"].message == f"would terminate hog (pid {hog})"
    assert not any(outcomes[action].done for action in ("stop-admitting", "pause", "terminate"))
    assert parsed["left"] == 0
    assert all((closed, state) == (False, "S") for _, _, closed, state in parsed["seen"])
    assert parsed["after"] == [False, "S", None, None, None]


@contextlib.contextmanager
def leaving(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program with a warden that has paused a process that is not its child; with the process's pid."""
    hog = subprocess.Popen(
        [sys.executable, "-c", HOG, "1", "100", "100000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    program = subprocess.Popen(
        [sys.executable, "-c", PAUSER, str(hog.pid), str(tmp_path / "record.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "paused\n"
        yield program, hog.pid
    finally:
        for each in (program, hog):
            each.kill()
            each.communicate()


PAUSER = """
import os, sys
from memwarden import EventKind, JsonlRecorder, Rule, Warden
rule = Rule(name="full", when="process.rss > 1MiB", then="pause", rest=600)
warden = Warden(interval=0.05, rules=[rule], recorders=[JsonlRecorder(sys.argv[2])])
warden.track_process(int(sys.argv[1]), "hog", essential=False)
warden.subscribe(lambda event: print("paused", flush=True) if event.kind is EventKind.OUTCOME else None)
warden.start()
how = sys.stdin.readline().strip()
if how == "raise":
    raise ZeroDivisionError
if how == "exit":
    sys.exit(3)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("exit", 3), ("raise", 1)])
def test_a_program_that_exits_leaves_nothing_paused(tmp_path: Path, how: str, code: int) -> None:
    """However it exits, without a stopped warden: the target runs on, and its record is whole."""
    with leaving(tmp_path) as (program, hog):
        assert read_stat(hog).state == "T"
        program.communicate(f"{how}\n", 30)
        assert program.returncode == code
        assert read_stat(hog).state in "RS"
        before = read_stat(hog).rss
        until = time.monotonic() + 10
        while read_stat(hog).rss < before + 4 * MIB:
            assert time.monotonic() < until
            time.sleep(0.02)
    kinds = [event.kind.value for event in read_lines(tmp_path / "record.jsonl")]
    assert kinds[-1] == "stop"
