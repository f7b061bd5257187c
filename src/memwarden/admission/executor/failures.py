"""Classification of dead workers and failed tasks: functions of values."""

from __future__ import annotations

import signal
from enum import Enum
from typing import NamedTuple

from memwarden.admission.pool.connection import NO_MEMORY, PROGRAM_FAILED
from memwarden.process.signals import KILL

#: A task that used this share of what it could have had was killed for its own size, not for that of others.
_WHOLE = 0.9
#: Signals that come from outside: the task is not at fault.
_KILLED_BY_OTHERS = (-KILL, -signal.SIGTERM)


class Cause(Enum):
    """Cause of a worker's end or of a task's error."""

    NOT_READY = "not ready"  # the worker ended before it could start the task
    MEMORY = "memory"  # killed by the executor or the kernel to free memory
    TOO_LARGE = "too large"  # the same, with all the memory there is
    KILLED = "killed"  # by a signal from outside, or in an unknown way
    CRASHED = "crashed"  # by itself
    PROTOCOL = "protocol"  # killed because it sent what was not asked for
    ERROR = "error"  # the task raised an exception
    NO_MEMORY = "no memory"  # a system call of the task found no memory
    PROGRAM = "program"  # a program that the task started failed while memory was used up


class Verdict(NamedTuple):
    """Classification of one failed attempt."""

    cause: Cause
    reason: str
    retry: bool
    #: The next attempt runs exclusively.
    exclusive: bool

    @property
    def for_memory(self) -> bool:
        """True where memory was the cause."""
        return self.cause in (Cause.MEMORY, Cause.TOO_LARGE, Cause.NO_MEMORY, Cause.PROGRAM)


class WorkerExit(NamedTuple):
    """A worker's end, as far as it is known."""

    #: Exit code, negative signal, or None where unknown.
    code: int | None
    #: The worker had reported that it is ready.
    ready: bool = True
    #: The executor killed it, for this reason, and whether to free memory.
    killed_for: str = ""
    killed_for_memory: bool = False
    #: The kernel has killed in the workers' group since the last worker ended.
    kernel_kill: bool = False
    #: Bytes that the task used at its peak, and could have had without others.
    peak: int = 0
    limit: int = 0


class Attempts(NamedTuple):
    """Attempts of a task, this one included."""

    made: int
    most: int
    exclusive: bool = False

    @property
    def last_is_next(self) -> bool:
        """True where only one attempt is left, which runs exclusively."""
        return self.exclusive or self.made >= self.most - 1

    @property
    def for_memory(self) -> int:
        """Most attempts of a task that is killed for memory: a task may be killed because others used the memory."""
        return self.most * 2 if self.exclusive else self.most


def classify_exit(end: WorkerExit, attempts: Attempts, *, stopping: bool = False) -> Verdict:
    """Classify the end of a worker that had a task. ``stopping``: the executor kills all tasks."""
    if not end.ready:
        return Verdict(Cause.NOT_READY, "its worker ended before it was ready", True, attempts.exclusive)
    if end.killed_for_memory or (end.code == -KILL and end.kernel_kill and not end.killed_for):
        reason = end.killed_for or "killed by the kernel for want of memory"
        whole = end.peak >= _WHOLE * end.limit
        retry = not whole and attempts.made < attempts.for_memory
        return Verdict(Cause.MEMORY if retry else Cause.TOO_LARGE, reason, retry, attempts.last_is_next)
    if end.killed_for and not stopping:
        return Verdict(Cause.PROTOCOL, end.killed_for, False, attempts.exclusive)
    reason = f"its worker ended with {describe_code(end.code)}"
    if end.code is not None and end.code not in _KILLED_BY_OTHERS:
        return Verdict(Cause.CRASHED, reason, False, attempts.exclusive)
    return Verdict(Cause.KILLED, reason, attempts.made < attempts.most and not stopping, attempts.exclusive)


def classify_error(
    kind: int, attempts: Attempts, *, refused: bool, full: bool, program_failed_before: bool = False
) -> Verdict:
    """Classify a task's exception of a ``kind`` of result item.

    ``refused``: since the task was sent, system calls of the workers may have failed for want of memory; ``full``:
    since then the budget was used up under a group of the kernel's.
    """
    if kind == NO_MEMORY and refused:
        retry = attempts.made < attempts.for_memory
        return Verdict(Cause.NO_MEMORY, "it failed while the kernel had no memory for it", retry, attempts.last_is_next)
    if kind == PROGRAM_FAILED and full and attempts.most > 1 and not program_failed_before:
        return Verdict(Cause.PROGRAM, "a program that it started failed while the memory was used up", True, True)
    return Verdict(Cause.ERROR, "", False, attempts.exclusive)


def describe_code(code: int | None) -> str:
    """Return an exit code in words."""
    if code is None:
        return "an unknown exit code"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
