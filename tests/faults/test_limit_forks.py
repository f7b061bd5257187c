"""``memory_limit`` and what may happen around it: forks, the end of the program, signals, exceptions in every place."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from memwarden import LimitExceeded, memory_limit
from memwarden.guards.limit.limit_monitor import monitor
from memwarden.model.units import MIB

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def output_of(program: str, *, code: int = 0) -> str:
    """Return the output of a fresh interpreter, with every warning an error and nothing on standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (code, ""), done.stderr
    return done.stdout


def test_a_child_that_is_forked_in_a_block_is_free() -> None:
    """The limit is the parent's: the child has the system's limit that was there before, takes more and leaves the
    block in silence; the parent goes on under its own."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit("8MiB") as held:
        kept = [b"x" * MIB]
        pid = os.fork()
        if pid == 0:
            try:
                kept.append(b"x" * (24 * MIB))
                held.leave(None)
                free = resource.getrlimit(resource.RLIMIT_DATA) == before and monitor.single_threaded()
                with memory_limit("64MiB"):
                    pass
                os._exit(0 if free else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
        assert monitor._poll_thread is not None
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(kept) == 1


def test_the_parent_is_still_watched_after_a_fork() -> None:
    """The thread that samples ends before the fork, and is there again."""
    kept: list[bytearray] = []

    @memory_limit("16MiB", refuse=False)
    def fork_and_grow() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        while len(kept) < 1000:
            kept.append(bytearray(b"x" * MIB))

    with pytest.raises(LimitExceeded):
        fork_and_grow()
    assert len(kept) < 200


def test_a_fork_in_a_block_warns_of_no_thread() -> None:
    """From Python 3.12 on a fork beside other threads is warned of; ours is no reason."""
    program = """
import os
from memwarden import memory_limit
with memory_limit("100MiB"):
    if (pid := os.fork()) == 0:
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
"""
    assert output_of(program) == "0\n"


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 15)", -15)],
)
def test_the_program_may_end_in_a_block(end: str, code: int) -> None:
    """In its main thread, or in a daemon thread: nothing hangs, nothing is printed."""
    program = f"""
import os, sys, threading, time
from memwarden import memory_limit
started = threading.Event()
def forever():
    with memory_limit("100MiB"):
        started.set()
        time.sleep(1000)
threading.Thread(target=forever, daemon=True).start()
started.wait()
guard = memory_limit("100MiB")
guard.__enter__()
{end}
"""
    assert output_of(program, code=code) == ""


def test_a_block_may_be_entered_while_the_program_ends() -> None:
    """In a function that runs at exit: it runs, watched or not."""
    program = """
import atexit
from memwarden import memory_limit
@atexit.register
def late():
    with memory_limit("100MiB"):
        print("late")
with memory_limit("100MiB"):
    print("early")
"""
    assert output_of(program) == "early\nlate\n"


def test_a_signal_handler_may_raise_anywhere() -> None:
    """Ctrl-C at any moment of entering and leaving, many times: what was set is as it was."""
    program = """
import resource, signal, sys, threading, time
from memwarden import memory_limit
from memwarden.guards.limit.limit_monitor import monitor
class Stop(Exception): pass
def stop(*_): raise Stop
before = resource.getrlimit(resource.RLIMIT_DATA), sys.getswitchinterval()
signal.signal(signal.SIGALRM, stop)
hit = 0
with memory_limit("1GiB"):
    pass
for trial in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.00001 + trial * 0.000001)
        for _ in range(1000):
            with memory_limit("1GiB"):
                pass
    except Stop:
        hit += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
with memory_limit("1GiB"):
    pass
assert hit > 300, hit
assert (resource.getrlimit(resource.RLIMIT_DATA), sys.getswitchinterval()) == before
assert not monitor._regions
until = time.monotonic() + 5
while not monitor.single_threaded() and time.monotonic() < until:
    pass  # a thread that was interrupted while it was started ends by itself
assert monitor.single_threaded()
"""
    output_of(program)
