"""Ends of all kinds: of workers, of what they started, of the program, of interest in the executor.

Programs run in a process of their own; what they leave behind is looked for by pid and start, so that a number that
was given out again is never taken for one of theirs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import glob
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from memwarden.admission.executor.executor import BudgetedExecutor
from memwarden.admission.ledger.ledger import Ledger
from memwarden.errors import ReadError, WorkerLost
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.identity import ProcProbe
from support import chores
from support.engine import no_thread_is_left

pytestmark = [
    pytest.mark.usefixtures("own_places"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
METHODS = ["fork", "spawn", "forkserver"]


def make(workers: int = 2, method: str = "fork", **options: Any) -> BudgetedExecutor:
    options.setdefault("budget", "1GiB")
    return BudgetedExecutor(workers, mp_context=get_context(method), **options)


# --- workers that end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_exits_fails_its_task_alone(method: str) -> None:
    """``os._exit``: the task raises ``WorkerLost`` with the code; those beside it and after it are done."""
    with make(2, method) as executor:
        futures = [executor.submit(chores.same, each) for each in range(5)]
        lost = executor.submit(chores.end_with, 7)
        futures += [executor.submit(chores.same, each) for each in range(5, 20)]
        error = lost.exception(60)
        assert [future.result(60) for future in futures] == list(range(20))
    assert isinstance(error, WorkerLost)
    assert isinstance(error, RuntimeError)
    assert error.code == 7
    assert "end_with" in str(error)
    assert "exit code 7" in str(error)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_worker_has_its_task_requeued(method: str, tmp_path: Path) -> None:
    """SIGKILL and SIGTERM from outside: another worker retries the task; an incident in the report has the reason."""
    with make(2, method) as executor:
        killed = executor.submit(chores.end_once, str(tmp_path / "kill"), signal.SIGKILL)
        ended = executor.submit(chores.end_once, str(tmp_path / "term"), signal.SIGTERM)
        assert killed.result(60) > 0
        assert ended.result(60) > 0
        report = executor.report()
    assert (report.requeues, report.failed, report.finished) == (2, 0, 2)
    assert sorted(each.reason for each in report.incidents) == [
        "its worker ended with signal 15",
        "its worker ended with signal 9",
    ]


def test_a_task_that_is_killed_each_time_is_given_up() -> None:
    """After ``attempts``; the error has their number, and the others continue."""
    with make(2, attempts=2) as executor:
        lost = executor.submit(signal.raise_signal, signal.SIGKILL)
        assert executor.submit(chores.same, 1).result(60) == 1
        error = lost.exception(60)
    assert isinstance(error, WorkerLost)
    assert error.code == -9
    assert "after 2 attempts" in str(error)


def crash() -> None:
    faulthandler.disable()  # pytest's, which would write into its output
    signal.raise_signal(signal.SIGSEGV)


def test_a_crash_is_not_tried_again() -> None:
    """SIGSEGV is the task's own doing."""
    with make(1) as executor:
        error = executor.submit(crash).exception(60)
        assert isinstance(error, WorkerLost)
        assert error.code == -11
        assert executor.submit(chores.same, 1).result(60) == 1
        assert executor.report().requeues == 0


def test_an_idle_worker_that_is_killed_is_replaced() -> None:
    """Only the pid differs."""
    with make(1) as executor:
        pid = executor.submit(chores.pid).result(60)
        os.kill(pid, signal.SIGKILL)
        chores.until(lambda: len(executor._manager._pool) == 0)
        assert executor.submit(chores.pid).result(60) != pid


def test_all_workers_are_killed_again_and_again() -> None:
    """Twenty times, all that run at that moment: every task is done, and no other worker ends."""
    kills = 0
    with make(3, attempts=50) as executor:
        futures = [executor.submit(chores.rest, each, 0.01) for each in range(150)]
        for _ in range(20):
            time.sleep(0.02)
            for handle in executor._manager._pool:
                if handle.key is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(handle.key.pid, signal.SIGKILL)
                        kills += 1
        assert [future.result(60) for future in futures] == list(range(150))
        assert 0 < executor.report().requeues <= kills


def close_everything() -> None:
    os.closerange(3, 4096)
    time.sleep(60)


def test_a_task_that_closes_all_descriptors_is_lost() -> None:
    """Its worker has no connection any more and is killed; nothing waits for it."""
    with make(2) as executor:
        error = executor.submit(close_everything).exception(30)
        assert isinstance(error, WorkerLost)
        assert executor.submit(chores.same, 1).result(60) == 1


def leave_a_child(path: str) -> int:
    """A child by fork, with copies of all descriptors, that outlives the task."""
    child = os.fork()
    if not child:
        time.sleep(300)
        os._exit(0)
    Path(path).write_text(str(child))
    return child


def test_a_forked_child_that_stays_delays_nothing(tmp_path: Path) -> None:
    """It has a copy of the worker's connection: the end of the worker is noticed all the same, and it goes, too."""
    begun = time.monotonic()
    with make(1) as executor:
        child = executor.submit(leave_a_child, str(tmp_path / "child")).result(60)
    assert time.monotonic() - begun < 5
    chores.until(lambda: chores.is_gone(child))


def hang_at_exit() -> int:
    threading.Thread(target=time.sleep, args=(300,)).start()
    return os.getpid()


@pytest.mark.parametrize("method", METHODS)
def test_workers_that_hang_at_their_end_are_ended(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that never ends keeps a Python process for ever; all are given the same few seconds, not one each."""
    from memwarden.admission.pool import worker_pool

    monkeypatch.setattr(worker_pool, "EXIT_SECONDS", 1.0)
    executor = make(3, method)
    futures = [executor.submit(hang_at_exit) for _ in range(3)]
    pids = {future.result(60) for future in futures}
    begun = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - begun < 5
    assert all(chores.is_gone(pid) for pid in pids)


# --- what workers started ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_session", [False, True])
def test_what_a_killed_worker_started_goes_with_it(tmp_path: Path, own_session: bool) -> None:
    """Programs in its session and in one of their own."""
    with make(1, attempts=1) as executor:
        future = executor.submit(chores.start_sleepers, str(tmp_path), own_session=own_session)
        pids = chores.sleepers(tmp_path)
        time.sleep(0.1)  # seen once
        os.kill(chores.started(tmp_path), signal.SIGKILL)
        assert isinstance(future.exception(60), WorkerLost)
        chores.until(lambda: all(chores.is_gone(pid) for pid in pids), 5)


def exit_with_children(folder: str) -> None:
    for _ in range(2):
        subprocess.Popen(["sleep", "300"])
    Path(folder, "sleepers").write_text(" ".join(chores_children()))
    os._exit(1)


def chores_children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_what_a_worker_started_in_its_last_moment_goes_with_it(tmp_path: Path) -> None:
    """There was no sample between the start of its children and its end."""
    with make(1) as executor:
        assert executor.submit(chores.same, 1).result(60)
        for _ in range(5):
            assert isinstance(executor.submit(exit_with_children, str(tmp_path)).exception(60), WorkerLost)
            pids = chores.sleepers(tmp_path)
            chores.until(lambda pids=pids: all(chores.is_gone(pid) for pid in pids), 5)


# --- forks of the program ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_fork_of_the_program_is_harmless(method: str, tmp_path: Path) -> None:
    """In the child it takes nothing and its end is quick; in the parent everything goes on."""
    with make(2, method) as executor:
        futures = [executor.submit(chores.attend, str(tmp_path), name) for name in "ab"]
        for name in "ab":
            chores.started(tmp_path, name)
        waiting = [executor.submit(chores.same, each) for each in range(20)]
        child = os.fork()
        if not child:
            signal.alarm(10)
            code = 1
            with contextlib.suppress(BaseException):
                with contextlib.suppress(RuntimeError):
                    executor.submit(chores.same, 1)
                    os._exit(2)
                executor.shutdown()
                executor.__exit__(KeyboardInterrupt, None, None)
                code = 0
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        chores.go(tmp_path)
        assert all(future.result(60) for future in futures)
        assert [future.result(60) for future in waiting] == list(range(20))


def test_forks_at_every_moment_are_harmless() -> None:
    """While it is busy in its threads: no child hangs at its end, and no task is lost."""
    with make(2) as executor:
        futures = [executor.submit(chores.rest, each, 0.002) for each in range(200)]
        for _ in range(25):
            child = os.fork()
            if not child:
                signal.alarm(20)
                with contextlib.suppress(BaseException):
                    executor.shutdown()
                    del executor
                    gc.collect()
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
        assert [future.result(60) for future in futures] == list(range(200))


# --- executors that are not used any more --------------------------------------------------------------------------


def descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def groups() -> list[str]:
    return glob.glob(f"/sys/fs/cgroup/**/memwarden/run-{os.getpid()}-*", recursive=True)


def children() -> set[int]:
    return {int(pid) for thread in os.listdir("/proc/self/task") for pid in _children_of(thread)}


def _children_of(thread: str) -> list[str]:
    return chores.text(f"/proc/self/task/{thread}/children").split()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """As many descriptors, threads, processes and groups afterwards as before."""
    from multiprocessing import forkserver, resource_tracker

    resource_tracker.ensure_running()  # they stay after their first use
    forkserver.ensure_running()
    with make(1) as executor:  # imports, and files that are kept for the whole program
        executor.submit(chores.same, 1).result(60)
    del executor
    gc.collect()
    assert no_thread_is_left()
    before, were = descriptors(), children()
    yield
    gc.collect()
    assert no_thread_is_left()
    chores.until(lambda: children() <= were, 5)
    assert sorted(descriptors().values()) == sorted(before.values())
    assert groups() == []


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("method", METHODS)
def test_fifty_executors_leave_nothing(method: str) -> None:
    """Used, unused, broken and interrupted ones."""
    for turn in range(10 if method == "fork" else 2):
        with make(2, method) as executor:
            list(executor.map(chores.same, range(5)))
        make(2, method).shutdown()
        with make(2, method) as executor:
            executor.submit(chores.end_with, 1).exception(60)
        with make(2, method, initializer=chores.unfit) as executor:
            executor.submit(chores.same, turn).exception(60)
        with contextlib.suppress(KeyboardInterrupt), make(2, method) as executor:
            executor.submit(chores.rest, 1, 60)
            raise KeyboardInterrupt


@pytest.mark.usefixtures("nothing_left")
def test_one_that_is_forgotten_has_its_tasks_done() -> None:
    """Collected with work pending: the futures get their results, then the workers go."""
    futures = [make(2).submit(chores.rest, each, 0.1) for each in range(3)]
    gc.collect()
    assert [future.result(60) for future in futures] == [0, 1, 2]


@pytest.mark.usefixtures("nothing_left")
def test_one_that_is_forgotten_unused_leaves_nothing() -> None:
    """It was made, and nothing was asked of it."""
    for _ in range(5):
        make(2)
    gc.collect()


# --- the program ends ----------------------------------------------------------------------------------------


def program(text: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process with the executor at hand."""
    code = "import os, sys, time, signal\nfrom memwarden import BudgetedExecutor\nfrom support import chores\n"
    return subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(text), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}/tests", "PYTHONUNBUFFERED": ""},
    )


def outcome(text: str, *arguments: object, seconds: float = 60) -> tuple[int, str, str]:
    """Exit code, output, errors of a program that ends by itself."""
    process = program(text, *arguments)
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def family(pid: int) -> list[ProcessKey]:
    """All processes below a process, and those in their sessions."""
    probe = ProcProbe()
    found = [probe.key_of(pid)]
    for key in found:
        for each in [*probe.children(key), *probe.session(key)]:
            if each not in found:
                found.append(each)
    return found[1:]


def left_of(keys: list[ProcessKey]) -> list[str]:
    probe, left = ProcProbe(), []
    for key in keys:
        with contextlib.suppress(ReadError, OSError):
            if probe.alive(key):
                left.append(Path(f"/proc/{key.pid}/cmdline").read_text().replace("\0", " ")[:200])
    return left


def test_a_program_that_ends_has_its_tasks_done(tmp_path: Path) -> None:
    """No shutdown, no result asked for: what was submitted is done before the interpreter ends."""
    code, out, err = outcome(
        """
        executor = BudgetedExecutor(2, budget="1GiB")
        for number in range(6):
            executor.submit(chores.rest, number, 0.05).add_done_callback(lambda done: print(done.result(), flush=True))
        """
    )
    assert (code, err) == (0, "")
    assert sorted(out.split()) == list("012345")


@pytest.mark.parametrize("how", ["shutdown(wait=False)", "shutdown(wait=False, cancel_futures=True)"])
def test_a_program_that_shuts_down_without_waiting_ends(how: str) -> None:
    """The running task is done, nothing is printed at exit."""
    code, out, err = outcome(
        f"""
        executor = BudgetedExecutor(1, budget="1GiB")
        future = executor.submit(chores.rest, 1, 0.2)
        future.add_done_callback(lambda done: print(done.result(), flush=True))
        while not future.running():
            time.sleep(0.01)
        executor.{how}
        """
    )
    assert (code, out, err) == (0, "1\n", "")


def test_a_program_that_fails_with_work_pending_ends() -> None:
    """An uncaught exception: its traceback and nothing of ours."""
    code, _, err = outcome(
        """
        executor = BudgetedExecutor(1, budget="1GiB")
        future = executor.submit(chores.rest, 1, 0.2)
        raise ValueError("of the program")
        """
    )
    assert code == 1
    assert err.splitlines()[-1] == "ValueError: of the program"
    assert err.count("Traceback") == 1


def test_what_a_task_prints_arrives_once() -> None:
    """Through a pipe: neither lost in a worker's buffer, nor again what the program had not written out yet."""
    code, out, err = outcome(
        """
        print("begin")
        with BudgetedExecutor(2, budget="1GiB") as executor:
            list(executor.map(chores.say, ["one", "two", "three", "four"]))
        print("end")
        """
    )
    assert (code, err) == (0, "")
    assert sorted(out.split()) == ["begin", "end", "four", "one", "three", "two"]


#: Two tasks that started programs and attend, one that waits, in FOLDER, with METHOD.
BUSY = """
from multiprocessing import get_context
folder, method = sys.argv[1:3]
executor = BudgetedExecutor(2, budget="500MiB", mp_context=get_context(method))
tasks = executor.with_options(reserve="200MiB", kind="busy", size=1)
for name in "ab":
    os.mkdir(os.path.join(folder, name))
    tasks.submit(chores.start_sleepers, os.path.join(folder, name))
    chores.sleepers(os.path.join(folder, name))
tasks.submit(chores.same, 1)
"""
READY = """
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def victim() -> Iterator[Any]:
    """Starts programs, and clears away what tests find left of them."""
    started: list[tuple[subprocess.Popen[str], list[ProcessKey]]] = []

    def start(text: str, *arguments: object) -> tuple[subprocess.Popen[str], list[ProcessKey]]:
        process = program(text, *arguments)
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != "ready\n":
            process.kill()
            raise AssertionError(process.communicate()[1])
        keys = family(process.pid)
        started.append((process, keys))
        return process, keys

    yield start
    probe = ProcProbe()
    for process, keys in started:
        process.kill()
        for key in keys:
            with contextlib.suppress(ReadError, OSError):
                if probe.alive(key):
                    os.kill(key.pid, signal.SIGKILL)
        process.communicate(timeout=10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_program_leaves_no_process_and_no_reservation(
    victim: Any, tmp_path: Path, method: str, number: int
) -> None:
    """Within a second the workers and what they started are gone, and others may have the memory."""
    process, keys = victim(BUSY + READY, tmp_path, method)
    ledger = Ledger("500MiB")
    assert ledger.try_reserve("300MiB") is None
    killed = time.monotonic()
    process.send_signal(number)
    process.wait(10)
    with ledger.reserve("480MiB", timeout=5):
        assert time.monotonic() - killed < 1.0
    chores.until(lambda: not left_of(keys), 1.0 - (time.monotonic() - killed) if method == "fork" else 5)
    assert ledger.state()["holders"] == []


@pytest.mark.parametrize("method", METHODS)
def test_paused_workers_of_a_killed_program_go_too(victim: Any, tmp_path: Path, method: str) -> None:
    """A worker that is stopped at that moment cannot exit by itself."""
    process, keys = victim(
        BUSY
        + """
for handle in executor._manager._pool:
    handle.pause()
"""
        + READY,
        tmp_path,
        method,
    )
    process.kill()
    process.wait(10)
    killed = time.monotonic()
    chores.until(lambda: not left_of(keys), 5)
    assert time.monotonic() - killed < 5


def test_a_child_of_the_program_keeps_nothing_alive(victim: Any, tmp_path: Path) -> None:
    """Another process that the program forked has copies of its connections; the workers' end does not wait for it."""
    process, keys = victim(
        BUSY
        + """
child = os.fork()
if not child:
    os.setsid()
    time.sleep(60)
    os._exit(0)
with open(os.path.join(folder, "child"), "w") as file:
    file.write(str(child))
"""
        + READY,
        tmp_path,
        "fork",
    )
    child = int(Path(tmp_path, "child").read_text())
    process.kill()
    process.wait(10)
    chores.until(lambda: len(left_of(keys)) <= 1, 2)
    assert not chores.is_gone(child)
    with Ledger("500MiB").reserve("480MiB", timeout=1):
        pass


def test_a_killed_program_leaves_no_group(victim: Any, tmp_path: Path) -> None:
    """The next executor that is given work removes what was left (as the next command does)."""
    process, _ = victim(BUSY + READY, tmp_path, "fork")
    mine = f"/sys/fs/cgroup/**/memwarden/run-{process.pid}-*"
    process.kill()
    process.wait(10)

    def swept() -> bool:
        with make(1) as executor:
            executor.submit(chores.same, 1).result(60)
        return not glob.glob(mine, recursive=True)

    chores.until(swept, 5)
