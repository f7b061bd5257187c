"""Every place of ours that takes an executor takes any: a thread pool, a process pool, Dask's, and our own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("BudgetedExecutor needs Linux", allow_module_level=True)
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from memwarden.admission.batch.commands import run_commands
from memwarden.admission.batch.manifest import Manifest
from memwarden.admission.executor.executor import BudgetedExecutor

pytestmark = [
    pytest.mark.usefixtures("own_places"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


@contextmanager
def dask() -> Iterator[Executor]:
    from distributed import Client

    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None, set_as_default=False
    ) as client:
        yield client.get_executor(pure=False)  # else a command without files of its own is run once for equal inputs


MAKERS: dict[str, Callable[[], AbstractContextManager[Executor]]] = {
    "budgeted": lambda: BudgetedExecutor(2, budget="1GiB"),
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("forkserver")),
    "dask": dask,
}
#: Dask leaves threads behind for the life of the process, which other tests cannot bear.
EACH = [pytest.param(name, marks=pytest.mark.own_process if name == "dask" else ()) for name in MAKERS]


@pytest.mark.parametrize("maker", EACH)
def test_commands_run_on_any_executor(maker: str, tmp_path: Path) -> None:
    """Every input comes back once with its exit code, output and errors; a program that is not there is reported."""
    out = tmp_path / "out"
    out.mkdir()
    inputs = ["0", "3", "0", "1", "two words"]
    script = 'echo "in $1"; [ "$1" = 3 ] && echo bad >&2; exit "${1%% *}" 2>/dev/null || exit 9'
    with MAKERS[maker]() as executor:
        found = list(run_commands(["sh", "-c", script, "sh", "{}"], inputs, executor=executor, output=str(out)))
        (missing,) = run_commands(["/no/such/program"], ["x"], executor=executor)
    assert sorted(each.input for each in found) == sorted(inputs)
    by_number = {each.number: each for each in found}
    assert [by_number[number].state for number in range(1, 5)] == ["done", "failed", "done", "failed"]
    assert [by_number[number].exit_code for number in range(1, 5)] == [0, 3, 0, 1]
    assert by_number[1].output != by_number[3].output
    assert [Path(str(by_number[number].output)).read_text() for number in (1, 2, 3)] == ["in 0\n", "in 3\n", "in 0\n"]
    assert Path(str(by_number[2].errors)).read_text() == "bad\n"
    assert by_number[1].errors is None
    assert missing.state == "not-started"


@pytest.mark.parametrize("maker", EACH)
def test_equal_inputs_are_each_run(maker: str, tmp_path: Path) -> None:
    """Three times the same command: three lines, though they are equal."""
    log = tmp_path / "log"
    with MAKERS[maker]() as executor:
        results = list(run_commands(["sh", "-c", f"echo x >>{log}"], ["a"] * 3, executor=executor))
    assert [each.state for each in results] == ["done"] * 3
    assert log.read_text() == "x\n" * 3


@pytest.mark.parametrize("maker", EACH)
def test_an_interrupted_run_goes_on_where_it_was(maker: str, tmp_path: Path) -> None:
    """``fail_fast`` and a manifest: what was done is not done again. (Dask may do what was cancelled, too.)"""
    log, manifest = tmp_path / "log", str(tmp_path / "manifest.jsonl")
    script = f'echo "$1" >>{log}; [ "$1" != b ] || [ -e {tmp_path}/fixed ]'
    command = ["sh", "-c", script, "sh", "{}"]
    for turn in range(2):
        with MAKERS[maker]() as executor, closing(Manifest(manifest, command, resume=bool(turn))) as kept:
            for _ in run_commands(command, list("abcd"), executor=executor, manifest=kept, fail_fast=turn == 0):
                pass
        (tmp_path / "fixed").touch()
    done = log.read_text().split()
    assert sorted(set(done)) == list("abcd")
    assert (done.count("a"), done.count("b")) == (1, 2)
    assert maker == "dask" or done.count("c") == done.count("d") == 1
