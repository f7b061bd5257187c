"""The executor and its backstop on control groups of version 2. Runs in the guest only, by test_executor_v2.py."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from memwarden.admission.executor.executor import BudgetedExecutor
from memwarden.errors import TaskTooLarge
from memwarden.model.units import MIB

from .test_backstop import *  # noqa: F403 - the same tests


def carry(mib: int, seconds: float) -> int:
    """So much private memory, bit by bit, held for a while."""
    with mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for at in range(0, mib * MIB, 4096):
            memory[at] = 1
        time.sleep(seconds)
    return mib


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger and what is learned are the test's own."""
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
        os.makedirs(tmp_path / name, mode=0o700)


def test_a_batch_that_does_not_fit_is_done() -> None:
    """Three times the budget, some of it in tasks that outgrow their prediction; nothing is lost."""
    sizes = [8, 20, 9, 30, 12, 8, 24, 10, 40, 8, 16, 12]
    with BudgetedExecutor(4, budget="64MiB") as executor:
        assert list(executor.map(carry, sizes, [0.1] * len(sizes))) == sizes
        assert executor.enforcement == "cgroup2"
        assert executor.report().kernel_kills == 0


def test_a_task_that_has_all_and_wants_more_is_named() -> None:
    """It is ended before the kernel would, and the executor goes on."""
    with BudgetedExecutor(2, budget="48MiB") as executor:
        with pytest.raises(TaskTooLarge) as raised:
            executor.submit(carry, 120, 0).result()
        assert raised.value.limit <= 48 * MIB
        assert executor.submit(carry, 8, 0).result() == 8
