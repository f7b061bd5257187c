"""A process that takes part in a ledger and is killed at any step of what it does."""

import os
import signal
import time

import pytest

from memwarden.admission.ledger import locked_file as module
from memwarden.admission.ledger.ledger import Ledger

#: The calls by which a process changes what others see.
CALLS = ["pwrite", "open", "unlink", "close", "posix_fallocate", "lockf"]


def _deadly(step):
    """Have this process killed by its own hand before its call number ``step``, counted over all of them."""
    left = [step]

    def wrap(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **more):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        setattr(owner, name, call)

    for name in CALLS:
        wrap(module.fcntl if name == "lockf" else os, name)


def _life(path, step):
    """In a child: reserve, grow, shrink, wait in vain, return; killed before the call with this number."""
    _deadly(step)
    ledger = Ledger("1GiB", path=path)
    held = ledger.reserve("300MiB")
    held.grow("100MiB")
    held.shrink("50MiB")
    try:
        ledger.reserve("900MiB", timeout=0.001)
    except Exception:
        held.release()
    for size in range(70):  # the file has to grow
        held = [held, ledger.reserve(f"{size + 1}KiB")]
    os._exit(0)


@pytest.mark.parametrize("fresh", [True, False], ids=["new file", "old file"])
def test_whatever_the_step_nothing_is_lost_and_nothing_stays(tmp_path, fresh):
    """Killed before each of its calls in turn: the whole budget is free at once, what another process holds
    still counts, and no file stays behind."""
    path = str(tmp_path / "ledger")
    step, killed = 0, 0
    with Ledger("1GiB", path=path).reserve("1MiB", label="ours") as ours:
        while True:
            if fresh:
                os.unlink(path)
            child = os.fork()
            if child == 0:
                try:
                    _life(path, step)
                finally:
                    os._exit(3)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            started = time.monotonic()
            after = Ledger("1GiB", path=path)
            with after.reserve("1000MiB", timeout=5):
                state = after.state()
            assert time.monotonic() - started < 1.0
            assert sum(row["label"] == "ours" for row in state["holders"]) == 1
            assert len(state["holders"]) == 2
            assert os.listdir(tmp_path) == ["ledger"]
            assert ours.bytes == 1 << 20
            step += 1 if step < 60 else 7
            killed += code == -signal.SIGKILL
            if code == 0:
                break
            assert code == -signal.SIGKILL
    assert killed > 40
