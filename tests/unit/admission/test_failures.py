"""Classification of dead workers and failed tasks, as a table of cases."""

import pytest

from memwarden.admission.executor.failures import (
    Attempts,
    Cause,
    WorkerExit,
    classify_error,
    classify_exit,
    describe_code,
)
from memwarden.admission.pool.connection import ERROR, NO_MEMORY, PROGRAM_FAILED

KILLED_FOR_MEMORY = {"code": -9, "killed_for": "no task could continue", "killed_for_memory": True}
KERNEL = {"code": -9, "kernel_kill": True}
BUDGET = {"limit": 100}


@pytest.mark.parametrize(
    ("end", "attempts", "cause", "retry", "exclusive"),
    [
        # A worker that was never ready had not started the task: the attempt does not count.
        ({"code": -9, "ready": False}, (0, 3), Cause.NOT_READY, True, False),
        ({"code": None, "ready": False}, (0, 1), Cause.NOT_READY, True, False),
        # Killed to free memory, by the executor or by the kernel.
        ({**KILLED_FOR_MEMORY, "peak": 50, **BUDGET}, (1, 3), Cause.MEMORY, True, False),
        ({**KILLED_FOR_MEMORY, "peak": 50, **BUDGET}, (2, 3), Cause.MEMORY, True, True),
        ({**KERNEL, "peak": 50, **BUDGET}, (1, 3), Cause.MEMORY, True, False),
        ({**KERNEL, "peak": 50, **BUDGET}, (3, 3), Cause.TOO_LARGE, False, True),
        # Exclusively, twice as many attempts: others may have used the memory.
        ({**KERNEL, "peak": 50, **BUDGET}, (3, 3, True), Cause.MEMORY, True, True),
        ({**KERNEL, "peak": 50, **BUDGET}, (6, 3, True), Cause.TOO_LARGE, False, True),
        # A task that had all there is.
        ({**KILLED_FOR_MEMORY, "peak": 90, **BUDGET}, (1, 3), Cause.TOO_LARGE, False, False),
        ({**KILLED_FOR_MEMORY, "peak": 89, **BUDGET}, (1, 3), Cause.MEMORY, True, False),
        # Killed from outside, or gone in an unknown way.
        ({"code": -9}, (1, 3), Cause.KILLED, True, False),
        ({"code": -15}, (2, 3), Cause.KILLED, True, False),
        ({"code": None}, (2, 3), Cause.KILLED, True, False),
        ({"code": -9}, (3, 3), Cause.KILLED, False, False),
        ({"code": -9}, (1, 1), Cause.KILLED, False, False),
        # By SIGTERM while the kernel killed another worker.
        ({"code": -15, "kernel_kill": True, **BUDGET}, (1, 3), Cause.KILLED, True, False),
        # By itself: the next attempt would end the same way.
        ({"code": 0}, (1, 3), Cause.CRASHED, False, False),
        ({"code": 7}, (1, 3), Cause.CRASHED, False, False),
        ({"code": -11}, (1, 3), Cause.CRASHED, False, False),
        # It sent what it was not asked for.
        ({"code": -9, "killed_for": "its worker sent a result of another task"}, (1, 3), Cause.PROTOCOL, False, False),
        ({"code": -9, "killed_for": "other", "kernel_kill": True, **BUDGET}, (1, 3), Cause.PROTOCOL, False, False),
    ],
)
def test_the_end_of_a_worker(end, attempts, cause, retry, exclusive):
    """Cause, whether the task is retried, and whether exclusively."""
    verdict = classify_exit(WorkerExit(**end), Attempts(*attempts))
    assert (verdict.cause, verdict.retry, verdict.exclusive) == (cause, retry, exclusive)
    assert verdict.reason


@pytest.mark.parametrize("end", [{"code": -9}, {"code": -9, "killed_for": "the executor was shut down"}])
def test_nothing_is_retried_while_the_executor_kills_all(end):
    """The task's future raises WorkerLost, for which KILLED stands."""
    verdict = classify_exit(WorkerExit(**end), Attempts(1, 3), stopping=True)
    assert (verdict.cause, verdict.retry) == (Cause.KILLED, False)


@pytest.mark.parametrize(
    ("kind", "attempts", "known", "cause", "retry", "exclusive"),
    [
        (ERROR, (1, 3), {"refused": True, "full": True}, Cause.ERROR, False, False),
        (NO_MEMORY, (1, 3), {"refused": False, "full": True}, Cause.ERROR, False, False),
        (NO_MEMORY, (1, 3), {"refused": True, "full": False}, Cause.NO_MEMORY, True, False),
        (NO_MEMORY, (2, 3), {"refused": True, "full": False}, Cause.NO_MEMORY, True, True),
        (NO_MEMORY, (3, 3), {"refused": True, "full": False}, Cause.NO_MEMORY, False, True),
        (NO_MEMORY, (5, 3, True), {"refused": True, "full": False}, Cause.NO_MEMORY, True, True),
        (PROGRAM_FAILED, (1, 3), {"refused": True, "full": False}, Cause.ERROR, False, False),
        (PROGRAM_FAILED, (1, 3), {"refused": False, "full": True}, Cause.PROGRAM, True, True),
        (PROGRAM_FAILED, (1, 1), {"refused": False, "full": True}, Cause.ERROR, False, False),
        (
            PROGRAM_FAILED, (2, 3), {"refused": False, "full": True, "program_failed_before": True},
            Cause.ERROR, False, False,
        ),
    ],
)  # fmt: skip
def test_the_error_of_a_task(kind, attempts, known, cause, retry, exclusive):
    """Retried only where the memory was used up, and a failed program only once."""
    verdict = classify_error(kind, Attempts(*attempts), **known)
    assert (verdict.cause, verdict.retry, verdict.exclusive) == (cause, retry, exclusive)
    assert bool(verdict.reason) == (cause is not Cause.ERROR)


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal 9"), (None, "an unknown exit code")]
)
def test_an_exit_code_in_words(code, words):
    """As in the message of WorkerLost."""
    assert describe_code(code) == words
