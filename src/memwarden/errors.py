"""The errors that memwarden raises.

    MemwardenError
    ├── SettingsError (ValueError)     a value that cannot be understood or is out of range
    ├── ReadError                      a fact could not be read: what, where and why
    ├── LimitExceeded (MemoryError)    work went past its memory limit
    │   └── TaskTooLarge               a task that had the whole budget of its executor to itself
    ├── ActionFailed                   something decided upon could not be done
    │   └── TargetChanged              the process is no longer the one that was meant
    ├── NotAdmitted                    work may not begin now, for want of memory
    │   └── DoesNotFit (MemoryError)   it could not begin even alone
    ├── WorkerLost (RuntimeError)      the process that worked at a task ended, and not for want of memory
    ├── LaunchError                    a command could not be started
    ├── CeilingUnavailable             no way to hold a command to its limit could be had
    ├── IsolationFailed                a function that was to run in a process of its own could not, or broke that
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
    """The root: catch this to catch whatever memwarden raises on its own account."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class SettingsError(MemwardenError, ValueError):
    """A setting, size or duration that cannot be understood; the message names it and shows a good one."""


class ReadError(MemwardenError):
    """A fact could not be read.

    ``what`` is the fact (``"statm"``), ``where`` the file or call, ``why`` one of :data:`REASONS`,
    ``detail`` the system's or the parser's own words.
    """

    #: absent: no such file here; denied: no permission; malformed: unexpected content;
    #: gone: the process or group has ended; slow: it did not answer in time; broken: the reader raised.
    REASONS = ("absent", "denied", "malformed", "gone", "slow", "broken")

    def __init__(self, what: str, where: str, why: str, detail: str = "") -> None:
        super().__init__(f"{what}: {why} at {where}" + (f" ({detail})" if detail else ""))
        self.what, self.where, self.why, self.detail = what, where, why, detail


class LimitExceeded(MemwardenError, MemoryError):
    """Work went past its memory limit; ``limit`` and ``used`` are bytes."""

    def __init__(self, message: str, *, limit: int, used: int | None = None) -> None:
        super().__init__(message)
        self.limit, self.used = limit, used


class TaskTooLarge(LimitExceeded):
    """A task took all that an executor has, and wanted more. Bytes: what was ``predicted``, what it was seen with
    (``used``), and what there is (``limit``); ``attempts`` is how often it was begun."""

    def __init__(self, message: str, *, predicted: int, used: int, limit: int, attempts: int) -> None:
        super().__init__(message, limit=limit, used=used)
        self.predicted, self.attempts = predicted, attempts


class ActionFailed(MemwardenError):
    """Something that was decided could not be done; the message says what, to whom and why."""


class TargetChanged(ActionFailed):
    """The process with this pid is not the one that was meant (another start time): nothing was done."""


class NotAdmitted(MemwardenError):
    """Work may not begin now, for want of memory; the message says who holds it back and for how long it waited."""


class DoesNotFit(NotAdmitted, MemoryError):
    """Work needs more memory than it could have even alone. ``asked`` and ``budget`` are bytes, ``source`` says who
    limits it; the message says the way out."""

    def __init__(self, message: str, *, asked: int, budget: int, source: str) -> None:
        super().__init__(message)
        self.asked, self.budget, self.source = asked, budget, source


class WorkerLost(MemwardenError, RuntimeError):
    """The process that worked at a task ended: it called ``os._exit``, crashed, or somebody killed it. ``code`` is its
    exit code or negative signal number, None where nobody knows."""

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
    """This way of holding a command to a limit is not granted here; the message says why and what would help."""


class IsolationFailed(MemwardenError):
    """A function was to run in a process of its own: it or its arguments could not be sent there, its result could not
    be brought back, or that process ended for another reason than its memory limit (``code`` is its exit code,
    ``signal`` what ended it)."""

    def __init__(self, message: str, *, code: int | None = None, signal: int | None = None) -> None:
        super().__init__(message)
        self.code, self.signal = code, signal


class RecordError(MemwardenError):
    """A record could not be written, or a history not read; ``path`` is the file."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class ExtraMissing(MemwardenError, ImportError):
    """An optional library was asked for and is not installed; the message holds the command to type."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'memwarden[{extra}]'")
        self.extra = extra
