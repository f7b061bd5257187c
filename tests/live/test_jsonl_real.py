"""The record on a disk that is really full, and under a writer that is really killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import memwarden
from memwarden.records.jsonl import JsonlRecorder, read_lines
from support.values import EVENT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(memwarden.__file__).parents[1])}

WRITER = """
import sys
from memwarden.model.events import Event, EventKind
from memwarden.records.jsonl import JsonlRecorder
recorder, number = JsonlRecorder(sys.argv[1]), 0
while True:
    number += 1
    kind = EventKind.SAMPLE if number % 50 else EventKind.LEVEL
    recorder.record(Event(kind=kind, wall=1.7e9, monotonic=float(number), message="x" * (number % 997)))
    if number == 200:
        print("writing", flush=True)
"""


@pytest.mark.contract("S2-59", "S2-7")
def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    """SIGKILL in mid-writing, five times on the same file: every line is JSON and none is missing."""
    path = tmp_path / "record.jsonl"
    for _ in range(5):
        started = path.stat().st_size if path.exists() else 0
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=ENVIRONMENT
        ) as one:
            assert one.stdout is not None
            assert one.stdout.readline() == b"writing\n"
            one.send_signal(signal.SIGKILL)
        data = path.read_bytes()[started:]
        assert data.endswith(b"\n")
        numbers = [json.loads(line)["monotonic_seconds"] for line in data.splitlines()]
        assert numbers == [float(number) for number in range(1, len(numbers) + 1)]
        assert len(numbers) >= 200


FULL_DISK = """
import json, os, subprocess, sys
from memwarden.errors import RecordError
from memwarden.model.events import Event, EventKind
from memwarden.records.jsonl import JsonlRecorder, read_lines
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
open(f"{folder}/ballast", "wb").write(b"x" * 16384)
recorder, path, logged, written = JsonlRecorder(f"{folder}/record.jsonl"), f"{folder}/record.jsonl", 0, []

def record(name):
    global logged
    try:
        recorder.record(Event(kind=EventKind.LEVEL, wall=1.7e9, monotonic=1.0, message=name + "x" * 700))
    except RecordError as error:
        assert "No space left" in str(error) and error.path == path, error
        logged += 1
    else:
        written.append(name)

for number in range(200):
    record(f"a{number}-")
full = logged
os.unlink(f"{folder}/ballast")
for number in range(10):
    record(f"b{number}-")
read = [event.message.rstrip("x") for event in read_lines(path)]
print(json.dumps([full, recorder.lost == logged, read == written, [name for name in written if name[0] == "b"]]))
"""


@pytest.mark.contract("S2-59", "W2-5")
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a disk in a namespace of its own")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """Each lost line is reported and counted; with free space recording goes on, and every kept line can be read."""
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert result.returncode == 0, result.stderr
    full, all_counted, all_read, after = json.loads(result.stdout)
    assert full > 50
    assert all_counted
    assert all_read
    assert after == [f"b{number}-" for number in range(10)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.contract("S2-59")
def test_two_writers_on_one_file_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Each line is one write at the end of the file, whichever process writes."""
    path = tmp_path / "record.jsonl"
    first, second = JsonlRecorder(path), JsonlRecorder(path)
    for _ in range(50):
        first.record(EVENT)
        second.record(EVENT)
    first.close()
    second.close()
    assert list(read_lines(path)) == [EVENT] * 100


RECORDED = """
import sys, threading, time
from memwarden import Event, EventKind, JsonlRecorder, Warden
recorder = JsonlRecorder(sys.argv[1])
recorder.max_delay = float(sys.argv[2])
warden = Warden(interval=0.02, recorders=[recorder])
warden.start()
for line in sys.stdin:
    if line == "report\\n":
        event = Event(kind=EventKind.TROUBLE, wall=time.time(), monotonic=time.monotonic(), message="ours")
        warden.publish(event)
        warden.flush()
    print(time.monotonic(), flush=True)
"""
MAX_DELAY = 1.0


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that records itself 50 times a second, where samples may wait for a second; it answers lines."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RECORDED, str(tmp_path / "record.jsonl"), str(MAX_DELAY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    yield process
    process.kill()
    process.communicate()


def ask(process: subprocess.Popen[str], word: str) -> float:
    """What time it is there."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


@pytest.mark.contract("S2-59")
def test_a_killed_warden_loses_the_samples_that_lingered_and_nothing_else(
    tmp_path: Path, recorded: subprocess.Popen[str]
) -> None:
    """The event that was reported last is there; of samples at most those of twice the time that they may wait."""
    ask(recorded, "report")
    time.sleep(2.5 * MAX_DELAY)
    at_end = ask(recorded, "time")
    recorded.kill()
    recorded.wait(10)
    for line in (tmp_path / "record.jsonl").read_bytes().splitlines():
        json.loads(line)
    events = list(read_lines(tmp_path / "record.jsonl"))
    assert [event.message for event in events if event.kind.value == "trouble"] == ["ours"]
    samples = [event.monotonic for event in events if event.kind.value == "sample"]
    lost = at_end - samples[-1]
    print(f"lost the last {lost:.2f} s")
    assert lost <= 2 * MAX_DELAY
    assert max(after - before for before, after in pairwise(samples)) < MAX_DELAY / 2  # none is missing before that


def test_a_killed_warden_loses_no_event(tmp_path: Path, recorded: subprocess.Popen[str]) -> None:
    """Killed the moment that the event was reported: with it come the samples that waited before it."""
    ask(recorded, "time")
    time.sleep(MAX_DELAY / 2)
    reported = ask(recorded, "report")
    recorded.kill()
    recorded.wait(10)
    events = list(read_lines(tmp_path / "record.jsonl"))
    at = [event.message for event in events].index("ours")
    assert reported - events[at - 1].monotonic < MAX_DELAY / 4
    assert events[at - 1].kind.value == "sample"


def test_a_program_that_ends_without_a_word_loses_nothing(tmp_path: Path, recorded: subprocess.Popen[str]) -> None:
    """The warden was not stopped: the samples up to the end are there, and the event that ends the watch."""
    ask(recorded, "time")
    time.sleep(MAX_DELAY / 2)
    at_end = ask(recorded, "time")
    recorded.communicate(timeout=30)
    assert recorded.returncode == 0
    events = list(read_lines(tmp_path / "record.jsonl"))
    assert events[-1].kind.value == "stop"
    samples = [event.monotonic for event in events if event.kind.value == "sample"]
    assert samples[-1] > at_end - MAX_DELAY / 4
    assert max(after - before for before, after in pairwise(samples)) < MAX_DELAY / 4
