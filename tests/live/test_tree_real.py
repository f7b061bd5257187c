"""The tree reader on real processes: a thousand children, threads, orphans, zombies, a daemon."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from memwarden.errors import ReadError
from memwarden.readers.linux.process import read_stat
from memwarden.readers.linux.tree import TreeReader
from support.trees import descriptors

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

#: A parent of so many sleepers.
PARENT = """
import os, sys
pids = []
for _ in range(int(sys.argv[1])):
    pid = os.posix_spawn("/bin/sleep", ["sleep", "infinity"], {}, file_actions=[(os.POSIX_SPAWN_CLOSE, 0)])
    pids.append(pid)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts ``python -c CODE ARG…`` and, in the end, ends it with everything that it started."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *args: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def next_line(process: "subprocess.Popen[str]") -> str:
    """The next line of its output."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until(condition: Callable[[], object], patience: float = 30.0) -> None:
    """Look until it holds."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


@pytest.mark.parametrize("keep", [128, 0], ids=["some kept open", "none kept open"])
def test_a_thousand_children(start: Callable[..., "subprocess.Popen[str]"], keep: int) -> None:
    """More than one read of ``children`` gives, all of them found, and their sum is psutil's."""
    process = start(PARENT, "1000")
    assert next_line(process) == "ready"
    listed = open(f"/proc/{process.pid}/task/{process.pid}/children", "rb")  # noqa: SIM115 - one bare read
    with listed:
        one_read = os.pread(listed.fileno(), 1 << 20, 0).split()
    assert len(one_read) < 1000, "this kernel gives all in one read: the test proves nothing here"
    before, reader = descriptors(), TreeReader(process.pid, keep=keep)
    for _ in range(2):
        memory, gaps = reader.sample()
    assert (len(memory.keys), memory.zombies, gaps) == (1001, 0, ())
    assert descriptors() <= before + keep + 1, "one a member, and the counter of process numbers"
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    starts = {each.pid: read_stat(each.pid).start for each in family}
    assert {key.pid: key.start for key in memory.keys} == starts
    expected = sum(each.memory_info().rss for each in family)
    # A counter for each processor may be some pages off (Linux 6.2 and later).
    assert memory.total == pytest.approx(expected, rel=0.05)
    assert sorted(set(memory.names)) == sorted({each.name() for each in family})
    reader.close()
    assert descriptors() == before


def test_a_child_that_a_thread_forked(start: Callable[..., "subprocess.Popen[str]"]) -> None:
    """It is missing from the main thread's list, and found all the same."""
    process = start(
        "import subprocess, sys, threading\n"
        "def work():\n"
        "    child = subprocess.Popen(['sleep', 'infinity'])\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait()\n"
        "threading.Thread(target=work).start()\n"
    )
    child = int(next_line(process))
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as main:
        assert str(child) not in main.read().split()
    memory, gaps = TreeReader(process.pid, keep=0).sample()
    assert ({key.pid for key in memory.keys}, gaps) == ({process.pid, child}, ())


def test_a_zombie_counts_apart_until_it_is_reaped(start: Callable[..., "subprocess.Popen[str]"]) -> None:
    """It holds no memory and is no member that could be measured."""
    process = start(
        "import os, sys\n"
        "pid = os.posix_spawn('/bin/true', ['true'], {})\n"
        "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "print(pid, flush=True)\n"
        "sys.stdin.readline()\n"
        "os.waitpid(pid, 0)\n"
        "print('reaped', flush=True)\n"
        "sys.stdin.read()\n"
    )
    zombie = int(next_line(process))
    reader = TreeReader(process.pid)
    for _ in range(3):
        memory, gaps = reader.sample()
        assert ([key.pid for key in memory.keys], memory.zombies, gaps) == ([process.pid], 1, ())
    assert zombie in [key.pid for key in reader.members()]
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert next_line(process) == "reaped"
    memory, _ = reader.sample()
    assert (len(memory.keys), memory.zombies) == (1, 0)
    reader.close()


#: Forks a middle process that forks a daemon. Each line on its input is one step: the middle ends; the daemon forks.
DAEMON = """
import os, sys
steps = [os.pipe(), os.pipe()]
if os.fork() == 0:
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.read(steps[1][0], 1)
        print(os.posix_spawn("/bin/sleep", ["sleep", "infinity"], {}), flush=True)
        os.read(steps[1][0], 1)
        os._exit(0)
    os.read(steps[0][0], 1)
    os._exit(0)
sys.stdin.readline()
os.write(steps[0][1], b"x")
os.wait()
print("orphaned", flush=True)
sys.stdin.readline()
os.write(steps[1][1], b"x")
sys.stdin.read()
"""


@pytest.mark.parametrize("keep", [128, 0], ids=["kept open", "opened each time"])
def test_a_daemon_that_forked_twice_stays_a_member(start: Callable[..., "subprocess.Popen[str]"], keep: int) -> None:
    """The middle one ends and the daemon has another parent: it is kept by its identity, and so is its child."""
    process = start(DAEMON)
    assert process.stdin is not None
    daemon = int(next_line(process))
    reader = TreeReader(process.pid, keep=keep)
    assert len(reader.sample()[0].keys) == 3
    process.stdin.write("\n")
    process.stdin.flush()
    assert next_line(process) == "orphaned"
    assert read_stat(daemon).ppid not in {process.pid, daemon}
    assert {key.pid for key in reader.sample()[0].keys} == {process.pid, daemon}
    process.stdin.write("\n")
    process.stdin.flush()
    child = int(next_line(process))
    assert {key.pid for key in reader.sample()[0].keys} == {process.pid, daemon, child}
    reader.close()


def test_a_tree_that_ends_is_gone(start: Callable[..., "subprocess.Popen[str]"]) -> None:
    """And its descriptors are given back."""
    process = start(PARENT, "3")
    assert next_line(process) == "ready"
    before, reader = descriptors(), TreeReader(process.pid)
    assert len(reader.sample()[0].keys) == 4
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    def gone() -> bool:
        try:
            reader.sample()
        except ReadError as error:
            return error.why == "gone"
        return False

    until(gone)
    assert reader.members() == []
    reader.close()
    assert descriptors() == before


#: In a pid namespace of its own: a stranger's number is given out again, to a child of a member, between two samples.
GIVEN_AGAIN = """
import json, os, signal, sys
from memwarden.readers.linux import tree
from memwarden.readers.linux.tree import TreeReader

def sleeper():
    pid = os.fork()
    if not pid:
        signal.pause()
    return pid

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

there, back = os.pipe(), os.pipe()
root = os.fork()
if not root:
    while os.read(there[0], 1):
        os.write(back[1], b"%8d" % sleeper())
strangers = [sleeper() for _ in range(3)]
found = []
for files_cost in (0, 1000):
    tree._FILE_IN_LISTED = files_cost
    reader = TreeReader(root)
    for _ in range(40):
        reader.sample()
    again = strangers.pop(0)
    end(again)
    with open("/proc/sys/kernel/ns_last_pid", "w") as counter:
        counter.write(str(again - 1))
    os.write(there[1], b"x")
    child = int(os.read(back[0], 8))
    keys = reader.sample()[0].keys
    found.append([reader._counter.last() == child == again, child in [key.pid for key in keys]])
    reader.close()
print(json.dumps(found))
os.kill(-1, signal.SIGKILL)
"""


def test_a_strangers_number_that_a_member_gets() -> None:
    """The kernel's own counter, both ways of asking: found by the next sample, though the list is the same."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    try:
        subprocess.run([*command, "open('/proc/sys/kernel/ns_last_pid', 'r+')"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no pid namespace can be made here")
    reported = subprocess.run([*command, GIVEN_AGAIN], check=False, capture_output=True, text=True, timeout=60)
    assert reported.stdout, reported.stderr
    assert json.loads(reported.stdout) == [[True, True], [True, True]]
