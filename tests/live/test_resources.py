"""Managed files and processes on the real thing: kills, many jobs at once, commands that do not want to end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memwarden.errors import LaunchError, SettingsError
from memwarden.guards.resources.managed import force_memory_cleanup, managed_process, resource_scope
from memwarden.model.exits import ExitReason
from memwarden.readers.linux.identity import ProcProbe

JOBS = Path(__file__).with_name("tempfile_jobs.py")

#: Makes a file in each place, says where, and waits.
HOLDER = """
import sys, json
from memwarden.guards.resources.managed import managed_temp_directory, managed_tempfile
with managed_tempfile(".mp4") as file, managed_temp_directory() as folder:
    with managed_tempfile(" a\\n(b) *", directory=sys.argv[1]) as part:
        open(folder + "/x", "w").close()
        print(json.dumps([file, folder, part]), flush=True)
        sys.stdin.read()
"""
#: The next start.
NEXT = "from memwarden.guards.resources.managed import managed_tempfile\nwith managed_tempfile(): pass"


@pytest.fixture
def places(tmp_path):
    """The system's temporary directory, and a folder of the user's, for programs of a test."""
    for name in ("tmp", "out put"):
        (tmp_path / name).mkdir()
    return {"TMPDIR": str(tmp_path / "tmp")}, str(tmp_path / "out put")


def within(seconds, wanted):
    """Whether it became true in that time."""
    until = time.monotonic() + seconds
    while not wanted():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def holder(places):
    """A program that holds files, and their paths."""
    environment, out = places
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    return child, json.loads(child.stdout.readline())


@pytest.mark.timeout(330)  # 10 s on a quiet machine
@pytest.mark.contract("W1-8")
def test_500_jobs_of_which_a_third_is_killed(places):
    """The living lose nothing, while several start at once; nothing of the dead is left after the next start."""
    environment, out = places
    done = subprocess.run(
        [sys.executable, str(JOBS), "500", out],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        timeout=300,
        check=True,
    )
    reported = json.loads(done.stdout)
    assert (reported["jobs"], reported["killed"], reported["left by the kill"]) == (500, 166, 498)
    assert reported["lost of the living"] == reported["living that missed something"] == 0
    assert reported["left after the next start"] == reported["left in the end"] == reported["starts failed"] == 0
    assert os.listdir(out) == []
    assert list(Path(environment["TMPDIR"]).glob("*/*")) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_start_removes_what_a_kill_left(places, number):
    """SIGTERM without a handler is a kill, too. In between the files stay: no other process has started."""
    child, paths = holder(places)
    with child:
        child.send_signal(number)
        child.wait()
        assert all(map(os.path.exists, paths))
        subprocess.run([sys.executable, "-c", NEXT], env=os.environ | places[0], check=True, timeout=60)
        assert not any(map(os.path.lexists, paths))
    assert os.listdir(places[1]) == []


def test_a_program_that_closes_all_descriptors_keeps_its_files(places):
    """Its lock is gone then, but it runs: the next start removes nothing."""
    program = HOLDER.replace("print(", "os.closerange(3, 256); print(").replace("import sys", "import os, sys")
    environment, out = places
    child = subprocess.Popen(
        [sys.executable, "-c", program, out],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    with child:
        paths = json.loads(child.stdout.readline())
        subprocess.run([sys.executable, "-c", NEXT], env=os.environ | environment, check=True, timeout=60)
        assert all(map(os.path.exists, paths))
        child.communicate()
    assert not any(map(os.path.lexists, paths))


def test_a_survivor_of_a_killed_parent_keeps_nothing_alive(places):
    """A forked worker that outlives its parent: the parent's files are gone after the next start, its own are not."""
    program = """
import os, sys, json
from memwarden.guards.resources.managed import managed_tempfile
with managed_tempfile() as parents:
    if os.fork() == 0:
        with managed_tempfile() as own:
            print(json.dumps([parents, own]), flush=True)
            sys.stdin.read()
        os._exit(0)
    sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | places[0],
    )
    with child:
        parents, own = json.loads(child.stdout.readline())
        child.kill()
        child.wait()
        subprocess.run([sys.executable, "-c", NEXT], env=os.environ | places[0], check=True, timeout=60)
        assert (os.path.exists(parents), os.path.exists(own)) == (False, True)
        child.stdin.close()
        assert within(20, lambda: not os.path.exists(own))


# --- processes -----------------------------------------------------------------------------------------------


#: Notes what it is sent and goes on, with a child that does the same; the arguments are the signals that end it.
STUBBORN = """
import os, signal, sys, time
def note(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")  # print() may be what it interrupts
    if signal.Signals(number).name in sys.argv[1:]:
        os._exit(0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("ends_by", "seen", "code"),
    [("SIGINT", ["SIGINT"], 0), ("SIGTERM", ["SIGINT", "SIGTERM"], 0), ("", ["SIGINT", "SIGTERM"], -signal.SIGKILL)],
)
def test_ended_gently_then_by_term_then_by_kill(ends_by, seen, code):
    """One step after the other, no further than needed, and the child that it started ends with it."""
    probe = ProcProbe()
    with managed_process(
        [sys.executable, "-c", STUBBORN, ends_by],
        stop_signal=signal.SIGINT,
        stop_timeout=3 if ends_by == "SIGINT" else 0.5,  # on a busy machine it is noticed late
        grace=1.5,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        tree = [probe.key_of(process.pid)]
        tree += probe.children(tree[0])
        assert len(tree) == 2
        output = os.dup(process.stdout.fileno())
    with os.fdopen(output) as lines:
        assert lines.read().split() == seen
    assert process.returncode == code
    assert not any(map(probe.alive, tree))


def test_one_that_has_ended_is_left_as_it_is():
    """Its code and its output are its own."""
    with managed_process(["sh", "-c", "cat; exit 3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"through\n")
        process.stdin.close()
        assert process.stdout.read() == b"through\n"
        assert process.wait() == 3
    assert (process.returncode, process.poll(), process.report.reason) == (3, 3, ExitReason.EXITED)


def test_waiting_can_be_bounded():
    """As with subprocess: it runs on."""
    with managed_process(["sleep", "60"]) as process:
        with pytest.raises(subprocess.TimeoutExpired, match="sleep"):
            process.wait(0.01)
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_what_cannot_be_started_leaves_no_descriptor():
    """Nor what is refused."""
    before = os.listdir("/proc/self/fd")
    for command, options, error in (
        (["no-such-command-here"], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}, LaunchError),
        (["true"], {"stdout": subprocess.STDOUT}, SettingsError),
        (["true"], {"stop_timeout": "soon"}, SettingsError),
    ):
        with pytest.raises(error), managed_process(command, **options):
            pass
    with managed_process(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.contract("S1-50", "W1-8")
def test_forced_cleanup_ends_the_own_processes_together():
    """Three that need their whole grace end in the time of one; another job's runs on, and so does a stranger."""
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"]
    with (
        subprocess.Popen(["sleep", "60"]) as stranger,
        resource_scope("other"),
        managed_process(["sleep", "60"]) as others,
    ):
        with resource_scope("own"):
            mine = []
            for _ in range(3):
                manager = managed_process(stubborn, grace=1.0, stdout=subprocess.PIPE)
                process = manager.__enter__()
                assert process.stdout.readline() == b"ready\n"
                mine.append((manager, process))
            begin = time.monotonic()
            done = force_memory_cleanup()
            assert time.monotonic() - begin < 2.5
            assert (done.processes, done.failed) == (3, ())
            assert [process.returncode for _, process in mine] == [-signal.SIGKILL] * 3
        assert others.poll() is None
        assert stranger.poll() is None
        stranger.terminate()


def test_a_command_does_not_outlive_a_killed_program():
    """The kernel ends it with its starter."""
    program = """
import sys
from memwarden.guards.resources.managed import managed_process
with managed_process(["sleep", "600"]) as process:
    print(process.pid, flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        probe = ProcProbe()
        key = probe.key_of(int(child.stdout.readline()))
        child.kill()
        child.wait()
        assert within(20, lambda: not probe.alive(key))


def test_the_end_of_the_program_ends_what_it_started(places):
    """Also where the block was never left; temporary files go last, so that nothing writes there any more."""
    program = """
import os, subprocess
from memwarden.guards.resources.managed import managed_process, managed_tempfile
file = managed_tempfile(); path = file.__enter__()
process = managed_process(["sh", "-c", "trap 'echo late > $0; exit' TERM; echo; while :; do sleep 0.01; done", path],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
process.__enter__().stdout.readline()
print(path)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | places[0],
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not os.path.exists(done.stdout.strip())
    assert list(Path(places[0]["TMPDIR"]).glob("*/*")) == []


# --- the old names --------------------------------------------------------------------------------------------


def test_the_old_process_manager_has_its_deadline():
    """``wait`` ends the command when its time is over; a shorter wait is the caller's own."""
    from memwarden.compat.resource_manager import managed_process as old_process

    with old_process(["sleep", "60"], "sleeper", timeout=0.2) as process:
        with pytest.raises(subprocess.TimeoutExpired, match=r"0\.01"):
            process.wait(0.01)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired, match=r"0\.2"):
            process.wait()
        assert process.poll() == -signal.SIGTERM
    with old_process(["sh", "-c", "exit 3"], timeout=60) as process:
        assert process.wait() == 3


def test_the_old_memory_limit_limits():
    """In megabytes, for the whole tree; the original looked every two seconds, and at the command alone."""
    from memwarden.compat.resource_manager import ffmpeg_process_manager

    grows = f"{sys.executable} -c 'import time; x = bytearray(200 << 20); time.sleep(60)' & wait"
    with ffmpeg_process_manager(["sh", "-c", grows], memory_limit_mb=64) as process:
        process.wait()
        assert process.report.reason is ExitReason.LIMIT
        assert process.report.limit.bytes == 64 << 20


@pytest.mark.contract("S1-48")
def test_the_old_status_counts_what_is_managed():
    """Files, directories and processes of all jobs, while they are there."""
    from memwarden.compat.memory_init import get_memory_status
    from memwarden.guards.resources.managed import managed_temp_directory, managed_tempfile

    with managed_tempfile(), managed_tempfile(), managed_temp_directory(), managed_process(["sleep", "60"]):
        held = get_memory_status()["resources"]
    assert held == {"tracked_processes": 1, "tracked_files": 2, "temp_directories": 1, "opencv_objects": 0}
    assert set(get_memory_status()["resources"].values()) == {0}


# --- the end of the program --------------------------------------------------------------------------------------


def run(program):
    """What a fresh interpreter printed in the end."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_the_end_of_the_program_lets_go():
    """Of what a thread's or a main program's own job still holds, and of a block that was never left."""
    said = run("""
import threading
from memwarden.guards.resources.resource_scope import ResourceScope, current_scope
def work():
    current_scope().add(None, lambda: print("thread"))
thread = threading.Thread(target=work); thread.start(); thread.join()
def generator():
    with ResourceScope() as job:
        job.add(None, lambda: print("generator"))
        yield
current_scope().add(None, lambda: print("main"))
kept = generator(); next(kept)
""")
    assert sorted(said) == ["generator", "main", "thread"]


def test_the_end_of_a_worker_process_lets_go():
    """Children of multiprocessing leave without ``atexit``: their own things go all the same, and no others."""
    assert run("""
import multiprocessing
from memwarden.guards.resources.resource_scope import current_scope
def work():
    current_scope().add(None, lambda: print("worker", flush=True))
if __name__ == "__main__":
    current_scope().add(None, lambda: print("main", flush=True))
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start(); worker.join()
    print("joined", flush=True)
""") == ["worker", "joined", "main"]
