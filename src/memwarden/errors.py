"""The errors that memwarden raises.

    MemwardenError
    ├── SettingsError (ValueError)     a value that cannot be understood or is out of range
    ├── ReadError                      a fact could not be read: what, where and why
    ├── LimitExceeded (MemoryError)    work exceeded its memory limit
    │   └── TaskTooLarge               a task exceeded its executor's budget while running exclusively
    ├── ActionFailed                   a decision could not be carried out
    │   └── TargetChanged              the pid belongs to another process now
    ├── NotAdmitted                    work may not start now: too little memory is free
    │   └── DoesNotFit (MemoryError)   it exceeds the budget even without other work
    ├── WorkerLost (RuntimeError)      a worker process died, and not for lack of memory
    ├── LaunchError                    a command could not be started
    ├── CeilingUnavailable             no way to enforce a limit is available here
    ├── IsolationFailed                a function could not run in its own process, or that process died
    ├── RecordError                    a record could not be written, or a history not read
    └── ExtraMissing (ImportError)     an optional library was asked for and is not installed

Every error keeps its attributes when it is pickled, because task queues send errors between processes.
"""

from __future__ import annotations

from typing import Any


def _rebuild(cls: type[MemwardenError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    # Not cls.__new__: for LimitExceeded that is MemoryError's, which refuses (its layout is Exception's).
    error = BaseException.__new__(cls)
    super(MemwardenError, error).__init__(*args)  # the built-in one's; ImportError keeps its message there
    error.__dict__.update(state)
    return error


class MemwardenError(Exception):
    """The root: catch this to catch every error of memwarden's own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class SettingsError(MemwardenError, ValueError):
    """A setting, size or duration that cannot be understood; the message names it and shows a good one."""


class ReadError(MemwardenError):
    """A fact could not be read.

    ``what`` is the fact (``"statm"``), ``where`` the file or call, ``why`` one of :data:`REASONS`,
    ``detail`` the message of the system or the parser.
    """

    #: absent: no such file here; denied: no permission; malformed: unexpected content;
    #: gone: the process or group has ended; slow: it did not answer in time; broken: the reader raised.
    REASONS = ("absent", "denied", "malformed", "gone", "slow", "broken")

    def __init__(self, what: str, where: str, why: str, detail: str = "") -> None:
        super().__init__(f"{what}: {why} at {where}" + (f" ({detail})" if detail else ""))
        self.what, self.where, self.why, self.detail = what, where, why, detail


class LimitExceeded(MemwardenError, MemoryError):
    """Work exceeded its memory limit; ``limit`` and ``used`` are bytes."""

    def __init__(self, message: str, *, limit: int, used: int | None = None) -> None:
        super().__init__(message)
        self.limit, self.used = limit, used


class TaskTooLarge(LimitExceeded):
    """A task exceeded the whole budget of its executor. In bytes: the peak that was ``predicted``, the highest that was
    seen (``used``), and the budget (``limit``); ``attempts`` counts how often it was started."""

    def __init__(self, message: str, *, predicted: int, used: int, limit: int, attempts: int) -> None:
        super().__init__(message, limit=limit, used=used)
        self.predicted, self.attempts = predicted, attempts


class ActionFailed(MemwardenError):
    """A decision could not be carried out; the message names the action, its target and the reason."""


class TargetChanged(ActionFailed):
    """The pid belongs to another process now (its start time differs): nothing was done."""


class NotAdmitted(MemwardenError):
    """Work may not start now: too little memory is free. The message names the limit and how long it waited."""


class DoesNotFit(NotAdmitted, MemoryError):
    """Work needs more memory than the budget, even without other work. ``asked`` and ``budget`` are bytes, ``source``
    names the limit; the message says the way out."""

    def __init__(self, message: str, *, asked: int, budget: int, source: str) -> None:
        super().__init__(message)
        self.asked, self.budget, self.source = asked, budget, source


class WorkerLost(MemwardenError, RuntimeError):
    """A worker process died: it called ``os._exit``, crashed, or was killed. ``code`` is its exit code or negative
    signal number, None where it is not known."""

    def __init__(self, message: str, *, code: int | None) -> None:
        super().__init__(message)
        self.code = code


class LaunchError(MemwardenError):
    """A command could not be started. ``errno`` is the system's number, ``stage`` where it failed:
    ``"exec"`` (the command itself) or ``"join"`` (entering its memory group)."""

    def __init__(self, message: str, *, errno: int, stage: str) -> None:
        super().__init__(message)
        self.errno, self.stage = errno, stage


class CeilingUnavailable(MemwardenError):
    """This way to enforce a limit is not available here; the message says why and what would help."""


class IsolationFailed(MemwardenError):
    """A function could not run in a process of its own: it, its arguments or its result could not be sent, or that
    process died for another reason than its memory limit (``code`` is its exit code, ``signal`` its signal)."""

    def __init__(self, message: str, *, code: int | None = None, signal: int | None = None) -> None:
        super().__init__(message)
        self.code, self.signal = code, signal


class RecordError(MemwardenError):
    """A record could not be written, or a history not read; ``path`` is the file."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class ExtraMissing(MemwardenError, ImportError):
    """An optional library was asked for and is not installed; the message has the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'memwarden[{extra}]'")
        self.extra = extra
