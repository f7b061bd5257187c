"""A ceiling by a Windows job object. **Never run on a real Windows:** written from Microsoft's documentation, its
structure sizes and its logic tested on Linux against a stand-in for ``kernel32``. So neither ``hold()`` nor
``memwarden run`` uses it; who does, does it by name.

What a job limits is *committed* memory of all its processes together, whether or not it is resident. Two limits
stand, as in a control group of version 2: the notification limit at the limit that was asked for, whose message is
the one kind that Windows promises to deliver, and the enforced limit one parting reserve above it. Who passes that
is not killed: allocations fail, and each program makes of that what it will. Windows documents no way to stop a whole
job, so unlike under the other ceilings the tree runs on while the evidence is read.

Every process that a member starts belongs to the job. The first one must be in it before it runs. Python's
``subprocess`` can hand over neither a job (PROC_THREAD_ATTRIBUTE_JOB_LIST) nor the thread that would have to be
resumed, so :func:`start_suspended` starts it with CREATE_SUSPENDED, and :meth:`JobObjectCeiling.attach` assigns it to
the job and lets it run with ``psutil.Process.resume()`` (NtResumeProcess). If this process dies in between, a
suspended one is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from memwarden.contain.ceiling import PARTING_RESERVE
from memwarden.errors import CeilingUnavailable, LaunchError, ReadError
from memwarden.model.facts import ProcessKey
from memwarden.protocols import IdentityProbe

# winnt.h, winbase.h
CREATE_SUSPENDED = 0x4
PROCESS_TERMINATE, PROCESS_SET_QUOTA = 0x1, 0x100  # what AssignProcessToJobObject asks of the handle
JOB_OBJECT_LIMIT_JOB_MEMORY, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE = 0x200, 0x2000
JOB_OBJECT_MSG_JOB_MEMORY_LIMIT, JOB_OBJECT_MSG_NOTIFICATION_LIMIT = 10, 11
ERROR_MORE_DATA = 234
# JOBOBJECTINFOCLASS
_PROCESS_IDS, _PORT, _EXTENDED, _NOTIFICATION, _MEMORY_USAGE = 3, 7, 9, 12, 28
_INVALID_HANDLE = ctypes.c_void_p(-1).value
#: Nothing tells a Python thread of a message but asking for one; a tree can be past its limit for this long.
POLL_SECONDS = 0.020


class BasicLimit(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class IoCounters(ctypes.Structure):
    """IO_COUNTERS."""

    _fields_ = tuple(
        (f"{kind}{what}Count", ctypes.c_uint64)
        for what in ("Operation", "Transfer")
        for kind in ("Read", "Write", "Other")
    )


class ExtendedLimit(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("BasicLimitInformation", BasicLimit),
        ("IoInfo", IoCounters),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


class NotificationLimit(ctypes.Structure):
    """JOBOBJECT_NOTIFICATION_LIMIT_INFORMATION (Windows 8)."""

    _fields_ = (
        ("IoReadBytesLimit", ctypes.c_uint64),
        ("IoWriteBytesLimit", ctypes.c_uint64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("JobMemoryLimit", ctypes.c_uint64),
        ("RateControlTolerance", ctypes.c_int32),
        ("RateControlToleranceInterval", ctypes.c_int32),
        ("LimitFlags", ctypes.c_uint32),
    )


class CompletionPort(ctypes.Structure):
    """JOBOBJECT_ASSOCIATE_COMPLETION_PORT."""

    _fields_ = (("CompletionKey", ctypes.c_void_p), ("CompletionPort", ctypes.c_void_p))


class MemoryUsage(ctypes.Structure):
    """JOBOBJECT_MEMORY_USAGE_INFORMATION (Windows 10)."""

    _fields_ = (("JobMemory", ctypes.c_uint64), ("PeakJobMemoryUsed", ctypes.c_uint64))


def process_ids(room: int) -> type[ctypes.Structure]:
    """JOBOBJECT_BASIC_PROCESS_ID_LIST with room for so many."""

    class ProcessIds(ctypes.Structure):
        _fields_ = (
            ("NumberOfAssignedProcesses", ctypes.c_uint32),
            ("NumberOfProcessIdsInList", ctypes.c_uint32),
            ("ProcessIdList", ctypes.c_size_t * room),
        )

    return ProcessIds


_HANDLE, _WORD, _POINTER = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p
#: Result and arguments; without them ctypes would cut handles to 32 bits.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "CreateJobObjectW": (_HANDLE, _POINTER, ctypes.c_wchar_p),
    "SetInformationJobObject": (ctypes.c_int, _HANDLE, ctypes.c_int, _POINTER, _WORD),
    "QueryInformationJobObject": (ctypes.c_int, _HANDLE, ctypes.c_int, _POINTER, _WORD, _POINTER),
    "AssignProcessToJobObject": (ctypes.c_int, _HANDLE, _HANDLE),
    "TerminateJobObject": (ctypes.c_int, _HANDLE, _WORD),
    "CreateIoCompletionPort": (_HANDLE, _HANDLE, _HANDLE, ctypes.c_size_t, _WORD),
    "GetQueuedCompletionStatus": (ctypes.c_int, _HANDLE, _POINTER, _POINTER, _POINTER, _WORD),
    "OpenProcess": (_HANDLE, _WORD, ctypes.c_int, _WORD),
    "CloseHandle": (ctypes.c_int, _HANDLE),
}


def load_kernel32() -> Any:
    """The system's library. Raises :class:`CeilingUnavailable` where this is not Windows."""
    loader = getattr(ctypes, "WinDLL", None)
    if loader is None:
        raise CeilingUnavailable("job objects are Windows' own")
    library = loader("kernel32", use_last_error=True)
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def start_suspended(command: Sequence[str], **popen: Any) -> subprocess.Popen[bytes]:
    """Start a command that does not run yet; :meth:`JobObjectCeiling.attach` lets it. Options as ``Popen`` has them."""
    return subprocess.Popen(command, creationflags=popen.pop("creationflags", 0) | CREATE_SUSPENDED, **popen)


class JobObjectCeiling:
    """Holds a tree to ``limit`` committed bytes. Raises :class:`CeilingUnavailable`.

    ``kernel32``, ``probe`` and ``resume`` are the system's own where none are given.
    """

    kind = "job-object"
    joins: Sequence[str] = ()
    helpers: Sequence[int] = ()
    afterwards = "the system ends the whole tree when the job's last handle closes with us"

    def __init__(
        self,
        limit: int,
        *,
        kernel32: Any = None,
        probe: IdentityProbe | None = None,
        resume: Callable[[int], None] | None = None,
    ) -> None:
        self._kernel32 = load_kernel32() if kernel32 is None else kernel32
        self._limit, self._hard = limit, limit + PARTING_RESERVE
        if probe is None:
            from memwarden.readers.portable import PortableProbe

            probe = PortableProbe()
        self._probe, self._resume = probe, _resume if resume is None else resume
        self._notified = self._refused = False
        self._job = self._port = None
        try:
            self._job = self._granted("CreateJobObjectW", self._kernel32.CreateJobObjectW(None, None))
            self._port = self._granted(
                "CreateIoCompletionPort", self._kernel32.CreateIoCompletionPort(_INVALID_HANDLE, None, 0, 1)
            )
            self._set(_PORT, CompletionPort(None, self._port))
            self._set(_EXTENDED, self._enforced(JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE))
            notice = NotificationLimit(JobMemoryLimit=limit, LimitFlags=JOB_OBJECT_LIMIT_JOB_MEMORY)
            self._set(_NOTIFICATION, notice)
        except CeilingUnavailable:
            self._close_handles()
            raise

    def _enforced(self, flags: int) -> ExtendedLimit:
        information = ExtendedLimit(JobMemoryLimit=self._hard)
        information.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_JOB_MEMORY | flags
        return information

    def _granted(self, call: str, result: Any) -> Any:
        if not result:
            number, words = _last_error()
            raise CeilingUnavailable(f"{call}: {words or f'error {number}'}")
        return result

    def _set(self, information: int, value: ctypes.Structure) -> None:
        done = self._kernel32.SetInformationJobObject(self._job, information, ctypes.byref(value), ctypes.sizeof(value))
        self._granted(f"SetInformationJobObject({information})", done)

    def _ask(self, information: int, value: ctypes.Structure) -> bool:
        return bool(
            self._kernel32.QueryInformationJobObject(
                self._job, information, ctypes.byref(value), ctypes.sizeof(value), None
            )
        )

    def attach(self, root: ProcessKey) -> None:
        """Put the process, which :func:`start_suspended` made, into the job and let it run.

        Raises :class:`LaunchError`; the process then still stands still, and is the caller's to end.
        """
        process = self._kernel32.OpenProcess(PROCESS_TERMINATE | PROCESS_SET_QUOTA, 0, root.pid)
        try:
            if not process:
                raise _not_joined(root, _last_error())
            try:
                same = self._probe.key_of(root.pid) == root  # from now on the open handle keeps the pid taken
            except ReadError:
                same = False
            if not same:
                raise _not_joined(root, (0, "the pid belongs to another process now"))
            if not self._kernel32.AssignProcessToJobObject(self._job, process):
                raise _not_joined(root, _last_error())
        finally:
            if process:
                self._kernel32.CloseHandle(process)
        self._resume(root.pid)

    def watched(self) -> Sequence[tuple[int, int]]:
        return ()

    def pace(self) -> float:
        return POLL_SECONDS

    def _listen(self) -> None:
        message, key, overlapped = ctypes.c_uint32(), ctypes.c_size_t(), ctypes.c_void_p()
        while self._kernel32.GetQueuedCompletionStatus(
            self._port, ctypes.byref(message), ctypes.byref(key), ctypes.byref(overlapped), 0
        ):
            self._notified |= message.value == JOB_OBJECT_MSG_NOTIFICATION_LIMIT
            self._refused |= message.value == JOB_OBJECT_MSG_JOB_MEMORY_LIMIT

    def reached(self) -> bool:
        self._listen()
        return self._notified or self._refused or self.used()[0] >= self._limit

    def used(self) -> tuple[int, str]:
        usage = MemoryUsage()
        if self._ask(_MEMORY_USAGE, usage):
            return int(usage.JobMemory), "job"
        return self.peak()  # Windows 8: what was reached, since what is held now is not told

    def peak(self) -> tuple[int, str]:
        limits = ExtendedLimit()
        return (int(limits.PeakJobMemoryUsed), "job") if self._ask(_EXTENDED, limits) else (0, "job")

    def kernel_kills(self) -> int:
        return 0  # Windows refuses memory, and kills nobody for it

    def killed_from_above(self) -> bool:
        return False

    def members(self) -> list[ProcessKey]:
        room = 64
        while True:
            listed: Any = process_ids(room)()
            if self._ask(_PROCESS_IDS, listed):
                break
            if _last_error()[0] != ERROR_MORE_DATA or room >= 1 << 20:
                return []
            room *= 2
        found = []
        for pid in listed.ProcessIdList[: listed.NumberOfProcessIdsInList]:
            with contextlib.suppress(ReadError):  # ended meanwhile
                found.append(self._probe.key_of(pid))
        return found

    def part(self) -> None:
        """The tree was never stopped; its parting reserve stands from the beginning."""
        self._refused = False

    def overdrawn(self) -> bool:
        self._listen()
        return self._refused

    def kill(self) -> None:
        self._kernel32.TerminateJobObject(self._job, 1)

    def close(self) -> None:
        if self._job is not None and self.members():
            with contextlib.suppress(
                CeilingUnavailable
            ):  # who lives on stays limited, and is not ended with the handle
                self._set(_EXTENDED, self._enforced(0))
        self._close_handles()

    def _close_handles(self) -> None:
        for handle in (self._port, self._job):
            if handle:
                self._kernel32.CloseHandle(handle)
        self._port = self._job = None


def _last_error() -> tuple[int, str]:
    number = int(getattr(ctypes, "get_last_error", lambda: 0)())
    return number, str(getattr(ctypes, "FormatError", lambda _: "")(number)).strip()


def _not_joined(root: ProcessKey, told: tuple[int, str]) -> LaunchError:
    number, words = told
    return LaunchError(
        f"pid {root.pid} could not be put into its job: {words or f'error {number}'}", errno=errno.EPERM, stage="join"
    )


def _resume(pid: int) -> None:
    import psutil

    try:
        psutil.Process(pid).resume()
    except (psutil.Error, OSError) as error:
        raise LaunchError(f"pid {pid} could not be resumed: {error}", errno=errno.EPERM, stage="exec") from None
