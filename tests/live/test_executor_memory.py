"""Batches that do not fit, on real processes: nothing is lost, and what they take stays inside the budget."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from memwarden.actions.gate import Gate, StopAdmitting
from memwarden.admission.executor.executor import BudgetedExecutor
from memwarden.admission.footprints.predictors import Footprints, FunctionPredictor
from memwarden.admission.footprints.task_key import task_key_of
from memwarden.admission.ledger.ledger import Ledger
from memwarden.contain.capabilities import survey
from memwarden.errors import ReadError, SettingsError, TaskTooLarge
from memwarden.guards.budget.processing_config import safe_processing_config
from memwarden.model.decisions import Decision
from memwarden.model.limits import Constraint, Limit
from memwarden.model.verdicts import Assessment, PressureLevel
from memwarden.readers.linux.cgroup import locate
from memwarden.readers.linux.identity import ProcProbe
from support import chores
from support.chores import MIB
from support.docker import Docker

pytestmark = [
    pytest.mark.usefixtures("own_places"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
GRANTED = {grant.kind for grant in survey() if grant.granted}
#: With a group of the kernel's behind it, and without.
HOLDS = [
    pytest.param(
        None, id="group", marks=pytest.mark.skipif(not GRANTED & {"cgroup1", "cgroup2"}, reason="no group is granted")
    ),
    pytest.param(False, id="polling"),
]
#: The kernel's limit stands so far above the budget (page tables, stacks), and what is done between two samples.
BEYOND = 16 * MIB


def anonymous(pid: int) -> int:
    """Anonymous bytes of a process, from the kernel."""
    try:
        status = chores.text(f"/proc/{pid}/status")
    except ProcessLookupError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


class Watch:
    """Sample every 5 ms, on a thread, the memory that all processes below some others took since they started."""

    def __init__(self, *roots: int) -> None:
        self._roots, self._probe = roots or (os.getpid(),), ProcProbe()
        self._first: dict[Any, int] = {}
        self.most = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ending.wait(0.005):
            keys = []
            for root in self._roots:
                with contextlib.suppress(ReadError, OSError):
                    keys.append(self._probe.key_of(root))
            ours = set(keys)
            for key in keys:
                keys += self._probe.children(key)
            taken = 0
            for key in keys:
                if key not in ours and (now := anonymous(key.pid)):
                    taken += max(0, now - self._first.setdefault(key, now))
            self.most = max(self.most, taken)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()


def predicts(mib: float) -> FunctionPredictor:
    """A predictor with the same answer for every task."""
    return FunctionPredictor(lambda kind, size: mib * MIB, otherwise=Footprints(budget=1 << 30, slots=4))


# --- batches that do not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cgroup", HOLDS)
def test_a_batch_that_does_not_fit_is_done(cgroup: bool | None) -> None:
    """Eight workers, each task a third of the budget: all are done within the budget."""
    with Watch() as watch, BudgetedExecutor(8, budget="120MiB", cgroup=cgroup) as executor:
        assert list(executor.map(chores.hold, [40] * 20)) == [40 * MIB] * 20
    report = executor.report()
    assert (report.finished, report.failed, report.kernel_kills) == (20, 0, 0)
    # A worker may be killed at the moment at which its task has finished.
    assert report.requeues <= report.kills, [(each.number, each.reason) for each in report.incidents]
    if cgroup is None:  # else eight processes that nothing is known of may take 40 MiB each between two samples
        assert watch.most <= 120 * MIB + BEYOND


@pytest.mark.parametrize("cgroup", HOLDS)
def test_sizes_that_differ_are_done(cgroup: bool | None) -> None:
    """Peaks of 5 to 75 MiB in a budget of 100: small ones run beside large ones, and none is lost."""
    sizes = [5, 60, 20, 75, 10, 40, 30, 5, 70, 15, 50, 25] * 2
    with BudgetedExecutor(6, budget="100MiB", cgroup=cgroup) as executor:
        assert [done // MIB for done in executor.map(chores.hold, sizes, [0.05] * 24)] == sizes
    report = executor.report()
    assert (report.finished, report.failed) == (24, 0)
    assert cgroup is False or report.peak_used <= 100 * MIB + BEYOND
    assert report.most_running >= 2


@pytest.mark.skipif(not GRANTED & {"cgroup1", "cgroup2"}, reason="no group is granted")
@pytest.mark.parametrize("reads", [chores.read_whole, chores.read_in_parts])
def test_tasks_that_read_files_at_the_limit_are_not_lost(reads: Callable[[str], int], tmp_path: Path) -> None:
    """A read that finds no memory in the group fails where an allocation would wait: such a task is tried again."""
    path = str(tmp_path / "large")
    with open(path, "wb") as file:
        file.write(os.urandom(MIB) * 50)
    with BudgetedExecutor(6, budget="110MiB", predictor=predicts(10)) as executor:
        futures = [executor.submit(reads, path) for _ in range(10)]
        assert not [error for future in futures if (error := future.exception(60))], executor.report().incidents
    assert executor.report().failed == 0


@pytest.mark.skipif("cgroup1" not in GRANTED, reason="no group of version 1 is granted")
def test_a_task_that_fails_by_itself_is_not_repeated(tmp_path: Path) -> None:
    """Though the group is full after a large file was read in it: there is no sign that memory was the cause."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(60):
            file.write(os.urandom(MIB))
    os.sync()
    with path.open("rb") as file:  # or it would be in the cache, charged to another group
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with BudgetedExecutor(1, budget="48MiB") as executor:
        with pytest.raises(ValueError, match="not what it should be"):
            executor.submit(chores.read_and_fail, str(path), str(tmp_path)).result(60)
    assert len(list(tmp_path.glob("*.started"))) == 1


@pytest.mark.parametrize(("cgroup", "budget", "times"), [(None, "48MiB", 2), (None, "480MiB", 1), (False, "48MiB", 1)])
def test_a_failed_program_is_retried_once_where_memory_is_used_up(
    cgroup: bool | None, budget: str, times: int, tmp_path: Path
) -> None:
    """The kernel may have caused the failure, which has no other sign; not with free memory, or without a group."""
    if cgroup is None and not GRANTED & {"cgroup1", "cgroup2"}:
        pytest.skip("no group is granted")
    with BudgetedExecutor(1, budget=budget, cgroup=cgroup) as executor:
        with pytest.raises(subprocess.CalledProcessError):
            executor.submit(chores.hold_and_start, 43, 0.1, str(tmp_path)).result(60)
    report = executor.report()
    assert (len(list(tmp_path.glob("*.started"))), report.failed) == (times, 1)
    assert [each.reason for each in report.incidents] == [
        "a program that it started failed while the memory was used up"
    ] * (times - 1)


@pytest.mark.parametrize("workers", [1, 3])
def test_tasks_that_need_the_whole_budget_are_done(workers: int) -> None:
    """Though workers that have done something keep a little: the one in the way goes."""
    with BudgetedExecutor(workers, budget="48MiB") as executor:
        small = executor.with_options(kind="small", reserve="8MiB")
        assert [each.result(60) for each in [small.submit(chores.hold, 4, 0.1) for _ in range(workers)]]
        whole = executor.with_options(kind="whole", reserve="48MiB")
        futures = [whole.submit(chores.hold, 30) for _ in range(4)]
        assert [each.result(60) for each in futures] == [30 * MIB] * 4
    assert executor.report().failed == 0


@pytest.mark.parametrize("cgroup", HOLDS)
def test_a_task_that_is_too_large_fails_by_itself(cgroup: bool | None) -> None:
    """It had everything, and wanted more: a MemoryError with all three figures; the others are done."""
    with BudgetedExecutor(3, budget="100MiB", cgroup=cgroup) as executor:
        futures = [executor.submit(chores.hold, 20, 0.05) for _ in range(6)]
        large = executor.submit(chores.grow, 300, 0.5)
        futures += [executor.submit(chores.hold, 20, 0.05) for _ in range(6)]
        error = large.exception(60)
        assert [future.result(60) for future in futures] == [20 * MIB] * 12
    assert isinstance(error, TaskTooLarge)
    assert isinstance(error, MemoryError)
    assert 80 * MIB <= error.used <= 100 * MIB + BEYOND
    assert 90 * MIB <= error.limit <= 100 * MIB
    assert 0 < error.predicted <= error.limit * 2
    assert error.attempts >= 1
    for words in ("grow", "exceeded the budget", "predicted", "MiB"):
        assert words in str(error)
    assert executor.report().failed == 1


@pytest.mark.parametrize("cgroup", HOLDS)
def test_a_task_that_outgrows_its_reservation_is_paused_and_resumes(cgroup: bool | None) -> None:
    """Four tasks of 60 MiB that were predicted to need 10, in 150 MiB: they wait for each other, and none is lost."""
    with Watch() as watch, BudgetedExecutor(4, budget="150MiB", predictor=predicts(10), cgroup=cgroup) as executor:
        assert list(executor.map(chores.grow, [60] * 4, [0.3, 0.4, 0.5, 0.6])) == [60 * MIB] * 4
    report = executor.report()
    assert report.pauses > 0
    assert report.paused_seconds > 0
    assert report.kernel_kills == 0
    assert max(watch.most, report.peak_used) <= 150 * MIB + BEYOND


@pytest.mark.parametrize("cgroup", HOLDS)
def test_growers_that_block_each_other_are_resolved(cgroup: bool | None) -> None:
    """Three grow to 80 MiB at the same pace in a budget of 130: one is killed and requeued, and all finish."""
    with BudgetedExecutor(3, budget="130MiB", predictor=predicts(10), cgroup=cgroup) as executor:
        assert list(executor.map(chores.grow, [80] * 3, [0.4] * 3)) == [80 * MIB] * 3
    report = executor.report()
    assert report.kills >= 1
    assert report.requeues == report.kills == len(report.incidents)
    assert (report.failed, report.finished, report.kernel_kills) == (0, 3, 0)
    assert all(each.retried and each.peak > 10 * MIB for each in report.incidents)


def test_memory_of_programs_that_a_task_starts_counts() -> None:
    """As much as its own: three at a time would be too much."""
    with Watch() as watch, BudgetedExecutor(6, budget="150MiB") as executor:
        assert list(executor.map(chores.child_holds, [60] * 8, [0.1] * 8)) == [0] * 8
        assert isinstance(executor.submit(chores.child_holds, 400, 5).exception(60), TaskTooLarge)
    report = executor.report()
    assert report.peak_used > 60 * MIB
    assert max(report.peak_used, watch.most) <= 150 * MIB + BEYOND


# --- budgets that change -------------------------------------------------------------------------------------------


def test_a_budget_that_is_halved_in_the_middle() -> None:
    """Another process takes part in the ledger with half the budget: what runs gives way, and all is done."""
    with BudgetedExecutor(6, budget="200MiB") as executor:
        futures = [executor.submit(chores.hold, 30, 0.15) for _ in range(24)]
        wait(futures[:6], 60)
        with Ledger("100MiB").reserve("1MiB"):
            chores.until(lambda: executor.report().budget <= 100 * MIB)
            assert [future.result(60) for future in futures] == [30 * MIB] * 24
            report = executor.report()
    assert report.failed == 0
    late = [moment.used for moment in report.points if moment.budget <= 100 * MIB][15:]
    assert late
    assert max(late) <= 100 * MIB + BEYOND


#: A program in a group of its own: 16 tasks of 40 MiB, and what came of it.
BATCH = """
import json, sys, time
from memwarden import BudgetedExecutor
from support import chores
print("ready", flush=True)
sys.stdin.readline()
with BudgetedExecutor(6) as executor:
    futures = [executor.submit(chores.hold, 40, 0.2) for _ in range(16)]
    futures[3].result()
    print("started", flush=True)
    results = [future.result() for future in futures]
report = executor.report()
lowered = next(point.seconds for point in report.points if point.budget < 160 << 20)
before = max(point.running for point in report.points if lowered - 0.5 <= point.seconds <= lowered)
figures = [len(results), report.failed, report.kernel_kills, report.budget, report.most_running, before]
print(json.dumps(figures), flush=True)
"""


def start(text: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}/tests"},
        **options,
    )


@contextlib.contextmanager
def group(limit: int) -> Iterator[str]:
    """A memory group of version 1 below our own, with a limit."""
    try:
        location = locate()
    except ReadError as error:
        pytest.skip(str(error))
    path = f"{location.directory}/memwarden-test-{os.getpid()}"
    if location.mount.version != 1:
        pytest.skip("the memory controller is on version 2 here; the guest's tests have it")
    try:
        os.mkdir(path)
    except OSError as error:
        pytest.skip(f"no group can be made here: {error.strerror}")
    try:
        Path(path, "memory.limit_in_bytes").write_text(str(limit))
        yield path
    finally:

        def gone() -> bool:
            with contextlib.suppress(OSError):
                os.rmdir(f"{path}/memwarden")
            with contextlib.suppress(OSError):
                os.rmdir(path)
            return not os.path.isdir(path)

        chores.until(gone, 5)


def test_a_group_whose_limit_is_lowered_in_the_middle() -> None:
    """The kernel's limit on the whole program is halved: fewer run, none is lost; kills of the kernel are counted."""
    with group(320 * MIB) as path:
        process = start(BATCH)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        Path(path, "cgroup.procs").write_text(str(process.pid))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "started\n"

        def lower() -> bool:
            try:
                Path(path, "memory.limit_in_bytes").write_text(str(160 * MIB))
            except OSError:
                return False  # more is used at this moment
            return True

        chores.until(lower)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    done, failed, kernel_kills, budget, most_running, before = json.loads(out)
    assert (done, failed) == (16, 0)
    # The limit is written while little is used; tasks that had started may grow before the executor reads it. Which of
    # these the kernel kills is a race; but 160 MiB hold two tasks and the program, and none starts beyond that later.
    assert kernel_kills <= before - 2
    assert budget < 160 * MIB
    assert most_running > 2


#: Tasks of 40 MiB in the default ledger with a budget of 150 MiB; prints how many were done and how many at once.
SHARER = """
import sys, time
from memwarden import BudgetedExecutor
from support import chores
with BudgetedExecutor(4, budget="150MiB") as executor:
    print("ready", flush=True)
    sys.stdin.readline()
    errors = [future.exception() for future in [executor.submit(chores.hold, 40, 0.15) for _ in range(10)]]
    report = executor.report()
print(report.finished, report.kernel_kills, [error for error in errors if error], report.incidents)
"""


def test_two_programs_share_one_budget() -> None:
    """Each could have it all; together they stay inside, both get on, and nothing is lost."""
    processes = [start(SHARER) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    with Watch(*(process.pid for process in processes)) as watch:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [each[:7] for each in outputs] == ["10 0 []"] * 2, outputs
    assert 80 * MIB < watch.most <= 150 * MIB + 2 * BEYOND


def test_an_exclusive_task_waits_for_other_programs() -> None:
    """Another program holds most of the budget for a while: a task that needs it all begins when that has ended."""
    other = Ledger("200MiB")
    held = other.reserve("160MiB")
    with BudgetedExecutor(2, budget="200MiB", predictor=predicts(500), attempts=1) as executor:
        future = executor.submit(chores.grow, 120, 0.3)
        time.sleep(1.0)
        held.release()
        assert future.result(30) == 120 * MIB


def test_a_budget_that_was_short_for_a_moment_is_forgotten() -> None:
    """While there was hardly any, each task had to be alone; when there is enough again they run together."""
    short = Ledger("30MiB").reserve("1MiB")
    with BudgetedExecutor(4, budget="400MiB", predictor=predicts(60)) as executor:
        futures = [executor.submit(chores.hold, 10, 0.2) for _ in range(12)]
        futures[0].result(60)
        short.release()
        assert wait(futures, 60).not_done == set()
    assert executor.report().most_running >= 3


# --- the gate, and fewer workers ------------------------------------------------------------------------------------


@pytest.mark.contract("V-11")
def test_nothing_new_begins_while_the_emergency_gate_is_shut(tmp_path: Path) -> None:
    """The first step of an emergency: what runs goes on, what waits begins when the gate is open again."""
    gate = Gate()
    stop = StopAdmitting(gate)
    decision = Decision(rule="emergency", action=stop.name, reason="level CRITICAL", wall=1e9, monotonic=1.0)
    with BudgetedExecutor(3, budget="1GiB", gate=gate) as executor:
        running = executor.submit(chores.attend, str(tmp_path), "a")
        chores.started(tmp_path, "a")
        stop.run(decision)
        waiting = [executor.submit(chores.attend, str(tmp_path), name) for name in "bc"]
        chores.go(tmp_path)
        assert running.result(60)
        time.sleep(0.3)
        assert sorted(each.name for each in tmp_path.glob("*.started")) == ["a.started"]
        assert not any(future.done() for future in waiting)
        stop.undo(decision)
        assert all(future.result(60) for future in waiting)


@pytest.mark.contract("S1-30")
def test_workers_are_reduced_at_high() -> None:
    """memwarden advises two workers at HIGH; an executor that is set to that stops the others."""
    limit = Limit(16 << 30, "machine")
    high = Assessment(
        PressureLevel.HIGH,
        PressureLevel.HIGH,
        Constraint(limit, 14 << 30),
        limit,
        2 << 30,
        None,
    )
    advice = safe_processing_config(assessment=high, processors=8)
    assert advice.max_workers == 2
    with BudgetedExecutor(6, budget="1GiB") as executor:
        before = set(executor.map(rest_and_pid, [0.1] * 12))
        assert len(before) == 6
        executor.max_workers = advice.max_workers
        chores.until(lambda: len(executor._manager._pool) == 2)
        assert len(set(executor.map(rest_and_pid, [0.02] * 10))) == 2
        executor.max_workers = 4
        assert len(set(executor.map(rest_and_pid, [0.1] * 12))) == 4
        with pytest.raises(ValueError, match="max_workers"):
            executor.max_workers = 0


def rest_and_pid(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_busy_workers_finish_when_there_shall_be_fewer(tmp_path: Path) -> None:
    """Nothing is ended for it; one that hangs at its end does not count as a worker."""
    with BudgetedExecutor(4, budget="1GiB") as executor:
        futures = [executor.submit(chores.attend, str(tmp_path), name) for name in "abcd"]
        for name in "abcd":
            chores.started(tmp_path, name)
        executor.max_workers = 1
        rest = [executor.submit(chores.pid, each) for each in range(10)]
        chores.go(tmp_path)
        assert len({future.result(60) for future in futures}) == 4
        assert len({future.result(60) for future in rest}) == 1
        assert executor.report().requeues == 0


# --- what workers keep, and what is learned ---------------------------------------------------------------------------


def test_workers_that_keep_memory_are_replaced() -> None:
    """One that keeps 64 MiB more than after its first task is stopped; the next one starts small."""
    with BudgetedExecutor(1, budget="1GiB") as executor:
        pids = [executor.submit(chores.keep, 50).result(60) for _ in range(9)]
    # Before the first is learned from, a second task may be taken to need the whole budget, and a small worker with it.
    assert len(set(pids)) in (3, 4)
    assert executor.report().retired >= 2
    assert executor.report().peak_used < 250 * MIB


def test_idle_workers_that_keep_much_are_stopped() -> None:
    """Two that keep 60 MiB each stand in the way of a task of 150 in a budget of 200."""
    with BudgetedExecutor(2, budget="200MiB", predictor=predicts(70)) as executor:
        list(executor.map(chores.keep, [60, 60]))
        assert executor.with_options(reserve="150MiB").submit(chores.hold, 140).result(60) == 140 * MIB


def test_a_short_peak_is_learned() -> None:
    """100 MiB for 5 ms, between two samples from outside, are as well known as if they had lasted."""
    predictor = Footprints(budget=1 << 30, slots=2)
    with BudgetedExecutor(1, budget="1GiB", predictor=predictor) as executor:
        for _ in range(4):
            executor.submit(chores.spike, 100, 0.005).result(60)
    points = predictor.describe(task_key_of(chores.spike))["points"]
    assert len(points) == 4
    assert all(99 * MIB <= point["peak_bytes"] <= 108 * MIB for point in points)
    assert [point["size"] for point in points] == [100] * 4


def test_a_later_run_begins_with_what_the_first_has_learned() -> None:
    """Without a predictor of its own an executor keeps what it learned, for the next program, too."""
    for turn in range(2):
        with BudgetedExecutor(4, budget="150MiB") as executor:
            list(executor.map(chores.hold, [45] * 8, [0.1] * 8))
        report = executor.report()
        assert report.failed == 0
        if turn:
            assert (report.kills, report.pauses) == (0, 0)
            assert report.most_running == 3


def test_an_error_of_a_predictor_is_raised_by_submit() -> None:
    """The caller can handle it; what the predictor cannot learn costs nothing."""

    class Broken(FunctionPredictor):
        def observe(self, *_: Any, **__: Any) -> None:
            raise ZeroDivisionError

    with BudgetedExecutor(2, budget="200MiB", predictor=Broken(lambda kind, size: size and MIB / size)) as executor:
        with pytest.raises(SettingsError, match="must be a number of bytes"):
            executor.with_options(size=-1).submit(chores.same, 1)
        assert list(executor.map(chores.hold, [20] * 4, timeout=60)) == [20 * MIB] * 4


@pytest.mark.parametrize("cgroup", HOLDS)
def test_callbacks_that_hang_or_raise_do_not_stop_the_enforcement(cgroup: bool | None) -> None:
    """While one sleeps in the result thread, a task that outgrows its reservation is paused and killed as ever."""
    hangs = threading.Event()
    with BudgetedExecutor(3, budget="130MiB", predictor=predicts(10), cgroup=cgroup) as executor:
        executor.submit(chores.same, 1).add_done_callback(lambda _: 1 / 0)
        executor.submit(chores.same, 2).add_done_callback(lambda _: hangs.wait(60))
        futures = [executor.submit(chores.grow, 80, 0.4) for _ in range(3)]
        chores.until(lambda: executor.report().finished == 5)
        assert not any(future.done() for future in futures)
        assert executor.report().peak_used <= 130 * MIB + BEYOND
        hangs.set()
        assert [future.result(60) for future in futures] == [80 * MIB] * 3


# --- under a hard limit -----------------------------------------------------------------------------------------------

#: Eight tasks of 90 MiB, with the standard library's pool or ours.
EIGHT = """
import sys
sys.path[:0] = sys.argv[2:]
from support import chores
if sys.argv[1] == "ours":
    from memwarden import BudgetedExecutor as Pool
else:
    from concurrent.futures import ProcessPoolExecutor as Pool
with Pool(4) as executor:
    print(sum(executor.map(chores.hold, [90] * 8, [0.4] * 8)) >> 20, flush=True)
"""


@pytest.mark.contract("S1-1", "S1-62", "V-8")
def test_under_a_hard_limit_it_finishes_and_a_bare_pool_is_killed(docker: Docker) -> None:
    """Eight tasks of 90 MiB and four processors in a container of 300 MiB."""
    state = {"XDG_STATE_HOME": "/tmp/state", "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests"}
    results = {}
    for pool in ("bare", "ours"):
        results[pool] = docker.run([sys.executable, "-c", EIGHT, pool], memory=300 * MIB, env=state)
    assert (results["ours"].returncode, results["ours"].stdout) == (0, "720\n"), results["ours"].stderr
    assert results["bare"].returncode != 0
    assert "BrokenProcessPool" in results["bare"].stderr or results["bare"].oom_killed
