"""``memory_limit(isolate=True)``: real processes, real limits of the kernel."""

import asyncio
import functools
import gc
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from memwarden import IsolationFailed, LimitExceeded, SettingsError, memory_limit
from memwarden.errors import CeilingUnavailable
from memwarden.guards.limit import isolate
from memwarden.model.units import GIB, MIB

LIMIT = 48 * MIB
ISOLATED = memory_limit(LIMIT, isolate=True)


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """No child (but what other tests have, a fork server), no descriptor, no other priority of this thread."""
    with memory_limit("1GiB"):
        pass  # the reader of the kernel's peak stays open
    gc.collect()  # what earlier tests left
    before, children = _kept(), _children()
    yield
    assert _kept() == before
    assert _children() <= children


def _children():
    return {child.pid for child in psutil.Process().children()}


def _kept():
    return sorted(os.listdir("/proc/self/fd")), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture(params=["best", "polling"])
def _each_ceiling(request, monkeypatch):
    """The best ceiling that is granted here, and the one that always is."""
    if request.param == "polling":
        obtain = isolate.obtain

        def only_polling(limit, kind, **options):
            if kind != "polling":
                raise CeilingUnavailable("not in this test")
            return obtain(limit, kind, **options)

        monkeypatch.setattr(isolate, "obtain", only_polling)


@pytest.fixture
def other_thread():
    """A thread beside: a fork is not safe."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield
    done.set()
    thread.join()


def grow():
    """Take memory without end."""
    kept = []
    while True:
        kept.append(bytearray(b"x" * (MIB // 4)))


@ISOLATED
def double(value):
    """Something that a fresh interpreter can find."""
    return [value, value]


@ISOLATED
def pid_and_threads():
    """Return the process and thread that run it."""
    return os.getpid(), threading.active_count(), threading.current_thread() is threading.main_thread()


@ISOLATED
def grow_there():
    """Take memory without end, found by a fresh interpreter."""
    grow()


def twice(function):
    """A decorator below the limit."""

    @functools.wraps(function)
    def wrapped(value):
        return function(value) * 2

    return wrapped


@ISOLATED
@twice
def decorated(value):
    """A function with a decorator of its own."""
    return [value]


@ISOLATED
async def later(value):
    """A coroutine function."""
    await asyncio.sleep(0.1)
    return value


class Maker:
    """Something with a method."""

    def __init__(self, size):
        self.size = size

    @ISOLATED
    def make(self, many):
        return self.size * many


@pytest.mark.usefixtures("_each_ceiling")
@pytest.mark.contract("V-31")
def test_results_of_closures_come_back():
    """Small or larger than any pipe, from another process, with what the function closes over."""
    offset = 3
    assert ISOLATED(lambda value: value + offset)(4) == 7
    assert len(ISOLATED(lambda: b"x" * (20 * MIB))()) == 20 * MIB
    assert ISOLATED(lambda: list(range(100_000)))() == list(range(100_000))
    pid, threads, main = pid_and_threads()
    assert pid != os.getpid()
    assert main
    assert threads == 1
    assert Maker(3).make(4) == 12


@pytest.mark.own_process
@pytest.mark.usefixtures("_each_ceiling")
@pytest.mark.contract("V-31")
def test_growth_is_refused_exactly_at_the_limit():
    """The kernel refuses the page that would be beyond it; the traceback of there comes along."""
    with pytest.raises(LimitExceeded, match="refused") as caught:
        ISOLATED(grow)()
    error = caught.value
    assert isinstance(error, MemoryError)
    assert error.limit == LIMIT
    # Pages of libraries that are changed count, too, and were mapped before.
    assert LIMIT - 2 * MIB < error.used <= LIMIT + MIB
    assert "in grow" in "".join(error.__notes__)


def test_a_large_buffer_is_refused():
    """Before any of it is in use."""
    with pytest.raises(LimitExceeded) as caught:
        ISOLATED(lambda: bytearray(GIB))()
    assert caught.value.used < MIB


def test_memory_of_the_parent_does_not_count():
    """A parent that is larger than the limit can still have a small function run."""
    kept = [bytearray(b"x" * MIB) for _ in range(3 * LIMIT // MIB)]
    assert ISOLATED(lambda: len(kept))() == len(kept)


@pytest.mark.usefixtures("_each_ceiling")
def test_programs_that_it_starts_are_limited():
    """A program that lifts the limit that it inherits reaches the ceiling around both."""

    def start():
        lift = (
            "import resource as r, time; r.setrlimit(r.RLIMIT_DATA, (-1, -1));"
            f" kept = [b'x' * 2**20 for _ in range({30 * LIMIT // MIB})]; time.sleep(60)"
        )
        return subprocess.run([sys.executable, "-c", lift], check=False).returncode

    started = time.monotonic()
    with pytest.raises(LimitExceeded, match="ceiling"):
        ISOLATED(start)()
    assert time.monotonic() - started < 30


def test_its_own_exception_comes_back_with_its_traceback():
    """Type, arguments, notes of where; also what is no Exception, and a LimitExceeded of its own."""

    def fail(error):
        raise error

    own = LimitExceeded("mine", limit=1, used=2)
    for error in (ValueError("bad", 7), KeyError("k"), SystemExit(3), MemoryError("mine"), own):
        with pytest.raises(type(error)) as caught:
            ISOLATED(fail)(error)
        assert type(caught.value) is type(error)
        assert caught.value.args == error.args
        assert "in fail" in caught.value.__notes__[-1]


def test_a_result_that_cannot_be_pickled_is_a_clear_error():
    """A result or an exception that pickle does not take, an exception that cannot be made again."""

    class Local(Exception):
        pass

    class Picky(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    def fail(kind, *args):
        raise kind(*args)

    with pytest.raises(IsolationFailed, match="result cannot be pickled"):
        ISOLATED(lambda: lambda: 1)()
    with pytest.raises(IsolationFailed, match="Local cannot be pickled: words") as caught:
        ISOLATED(fail)(Local, "words")
    assert "in fail" in caught.value.__notes__[-1]
    with pytest.raises(IsolationFailed, match="Picky"):
        ISOLATED(fail)(Picky, 1, 2)


def read_in_place(path):
    """Fill mapped memory from a file in a system call, which cannot wait for memory, and fail for another reason."""
    memory = mmap.mmap(-1, GIB)
    with open(path, "rb", 0) as file:
        for _ in range(20):  # a read that is refused leaves some file cache, which the next one reclaims
            file.seek(0)
            file.readinto(memory)
    raise ValueError("short")


def test_an_error_after_the_kernel_refused_memory_is_the_limits(tmp_path):
    """With the function's own error as its cause."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(GIB)  # far more than the limit and the copies of this process's pages
    with pytest.raises(LimitExceeded) as caught:
        memory_limit("48MiB", isolate=True)(read_in_place)(tmp_path / "large")
    if "refused" in str(caught.value):  # else a group of version 2 killed it
        assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("end", "code", "number"),
    [
        (lambda: os._exit(3), 3, None),
        (lambda: os._exit(0), 0, None),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), None, signal.SIGSEGV),
        (os.abort, None, signal.SIGABRT),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), None, signal.SIGKILL),
    ],
)
def test_a_crash_is_no_memory_limit(end, code, number):
    """The error has the exit code or the signal."""
    with pytest.raises(IsolationFailed) as caught:
        ISOLATED(end)()
    assert (caught.value.code, caught.value.signal) == (code, number)
    assert not isinstance(caught.value, MemoryError)


@pytest.mark.usefixtures("other_thread")
def test_beside_threads_a_fresh_interpreter_runs_it():
    """Functions at the top of a module; others and arguments that cannot be sent are refused with the reason."""
    assert double("a") == ["a", "a"]
    assert pid_and_threads()[1] == 1
    assert Maker(3).make(4) == 12
    assert decorated(1) == [1, 1], "decorators below the limit run in the child, too"
    with pytest.raises(LimitExceeded) as caught:
        grow_there()
    assert LIMIT - 2 * MIB < caught.value.used <= LIMIT + MIB
    with pytest.raises(IsolationFailed, match="top of a module"):
        ISOLATED(lambda: 1)()
    with pytest.raises(IsolationFailed, match="arguments cannot be pickled"):
        double(lambda: 1)


def test_coroutine_functions():
    """They run in an event loop of their own, and this one goes on meanwhile; cancelled, they are gone."""

    @ISOLATED
    async def sleeps():
        await asyncio.sleep(60)

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        assert await later(5) == 5
        ticking.cancel()
        assert ticks > 2

    async def cancelled():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sleeps(), 0.2)

    asyncio.run(main())
    started = time.monotonic()
    asyncio.run(cancelled())
    assert time.monotonic() - started < 20


def test_an_interrupt_of_the_caller_kills_the_child():
    """Ctrl-C in the waiting parent: the child is gone before the exception is out."""

    def interrupt_the_parent():
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ISOLATED(interrupt_the_parent)()
    assert time.monotonic() - started < 20


def test_output_is_printed_once(capfd):
    """Text in a buffer at the fork, and text that the child writes at its end."""
    program = (
        "from memwarden import memory_limit\n"
        "print('before', end=' ')\n"
        "memory_limit('50MiB', isolate=True)(lambda: print('inside', end=' '))()\n"
        "print('after')"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("before inside after\n", "")


def test_blocks_and_generators_are_refused():
    """At the entry, and at decoration."""
    with pytest.raises(SettingsError, match="make it a function"), ISOLATED:
        pass

    def generator():
        yield 1

    with pytest.raises(SettingsError, match="generator"):
        ISOLATED(generator)
