"""The ceiling by a Windows job object, with a stand-in for kernel32: nothing here proves it on a real Windows."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from memwarden.contain import job_object
from memwarden.contain.ceiling import PARTING_RESERVE, Ceiling
from memwarden.contain.job_object import JobObjectCeiling
from memwarden.errors import CeilingUnavailable, LaunchError, ReadError
from memwarden.model.facts import ProcessKey

MIB = 1 << 20
ROOT = ProcessKey(70, 7)


class Kernel32:
    """A job, its port and one process, as the calls' documentation describes them; the call ``refuses`` fails."""

    def __init__(self, refuses: str = "", error: int = 5) -> None:
        self.refuses, self.error = refuses, error
        self.calls: list[str] = []
        self.opened: set[int] = set()
        self.set: dict[int, Any] = {}
        self.messages: list[int] = []
        self.pids: list[int] = []
        self.usage: tuple[int, int] | None = (0, 0)

    def _call(self, name: str) -> bool:
        self.calls.append(name)
        return name != self.refuses

    def _handle(self, name: str) -> int | None:
        if not self._call(name):
            return None
        handle = len(self.calls) * 4
        self.opened.add(handle)
        return handle

    def CreateJobObjectW(self, security: None, name: None) -> int | None:
        return self._handle("CreateJobObjectW")

    def CreateIoCompletionPort(self, file: int, port: None, key: int, threads: int) -> int | None:
        assert file == 2 ** (8 * ctypes.sizeof(ctypes.c_void_p)) - 1
        return self._handle("CreateIoCompletionPort")

    def SetInformationJobObject(self, job: int, kind: int, value: Any, size: int) -> int:
        assert job in self.opened
        assert size == ctypes.sizeof(value._obj)
        self.set[kind] = value._obj
        return self._call(f"SetInformationJobObject({kind})")

    def QueryInformationJobObject(self, job: int, kind: int, value: Any, size: int, told: None) -> int:
        assert job in self.opened
        into = value._obj
        assert size == ctypes.sizeof(into)
        if kind == 28 and self.usage is not None:
            into.JobMemory = self.usage[0]
        elif kind == 9 and self.usage is not None:
            into.PeakJobMemoryUsed = self.usage[1]
        elif kind == 3:
            if len(self.pids) > len(into.ProcessIdList):
                self.error = 234
                return 0
            into.NumberOfAssignedProcesses = into.NumberOfProcessIdsInList = len(self.pids)
            into.ProcessIdList[: len(self.pids)] = self.pids
        else:
            return 0
        return 1

    def AssignProcessToJobObject(self, job: int, process: int) -> int:
        assert {job, process} <= self.opened
        return self._call("AssignProcessToJobObject")

    def TerminateJobObject(self, job: int, code: int) -> int:
        return self._call("TerminateJobObject")

    def GetQueuedCompletionStatus(self, port: int, message: Any, key: Any, overlapped: Any, wait: int) -> int:
        assert (port in self.opened, wait) == (True, 0)
        if not self.messages:
            return 0
        message._obj.value = self.messages.pop(0)
        return 1

    def OpenProcess(self, access: int, inherit: int, pid: int) -> int | None:
        assert access == 0x101
        return self._handle("OpenProcess")

    def CloseHandle(self, handle: int) -> int:
        self.opened.remove(handle)
        return 1


class Probe:
    """Everybody has the start time 7, but those with a pid above 1000, who are gone."""

    def key_of(self, pid: int) -> ProcessKey:
        if pid > 1000:
            raise ReadError("process", f"pid {pid}", "gone")
        return ProcessKey(pid, 7)

    own = alive = tree = stopped = children = None


@pytest.fixture
def kernel32(monkeypatch: pytest.MonkeyPatch) -> Kernel32:
    made = Kernel32()
    monkeypatch.setattr(ctypes, "get_last_error", lambda: made.error, raising=False)
    monkeypatch.setattr(ctypes, "FormatError", lambda number: f"Windows says {number}", raising=False)
    return made


def ceiling(kernel32: Kernel32, resume: Callable[[int], None] | None = None) -> JobObjectCeiling:
    return JobObjectCeiling(100 * MIB, kernel32=kernel32, probe=Probe(), resume=resume)  # type: ignore[arg-type]


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the sizes are those of 64-bit Windows")
@pytest.mark.parametrize(
    ("structure", "size", "offsets"),
    [
        (
            job_object.BasicLimit,
            64,
            {"LimitFlags": 16, "MinimumWorkingSetSize": 24, "ActiveProcessLimit": 40, "Affinity": 48},
        ),
        (job_object.IoCounters, 48, {"ReadOperationCount": 0, "WriteOperationCount": 8, "ReadTransferCount": 24}),
        (
            job_object.ExtendedLimit,
            144,
            {"IoInfo": 64, "ProcessMemoryLimit": 112, "JobMemoryLimit": 120, "PeakJobMemoryUsed": 136},
        ),
        (job_object.NotificationLimit, 48, {"JobMemoryLimit": 24, "LimitFlags": 40}),
        (job_object.CompletionPort, 16, {"CompletionPort": 8}),
        (job_object.MemoryUsage, 16, {"PeakJobMemoryUsed": 8}),
        (job_object.process_ids(4), 8 + 4 * 8, {"NumberOfProcessIdsInList": 4, "ProcessIdList": 8}),
    ],
)
def test_structures_are_laid_out_as_documented(structure: Any, size: int, offsets: dict[str, int]) -> None:
    """A field in the wrong place would limit nothing, or something else."""
    assert ctypes.sizeof(structure) == size
    assert {name: getattr(structure, name).offset for name in offsets} == offsets


def test_it_can_stand_where_a_ceiling_stands(kernel32: Kernel32) -> None:
    """Every member of the protocol is there."""
    made = ceiling(kernel32)
    assert [name for name in vars(Ceiling) if not name.startswith("_") and not hasattr(made, name)] == []
    assert (made.kind, made.joins, made.helpers, made.watched()) == ("job-object", (), (), ())


def test_limits_stand_before_anybody_is_in(kernel32: Kernel32) -> None:
    """The notice at the limit, the enforced limit one parting reserve above, and nobody outlives our death."""
    made = ceiling(kernel32)
    enforced, notice = kernel32.set[9], kernel32.set[12]
    assert enforced.JobMemoryLimit == 100 * MIB + PARTING_RESERVE
    assert enforced.BasicLimitInformation.LimitFlags == 0x200 | 0x2000
    assert (notice.JobMemoryLimit, notice.LimitFlags) == (100 * MIB, 0x200)
    assert kernel32.set[7].CompletionPort in kernel32.opened
    made.close()
    made.close()
    assert kernel32.opened == set()


def test_a_process_runs_only_when_it_is_in_the_job(kernel32: Kernel32) -> None:
    """Identified on an open handle, assigned, and then resumed; the handle goes back."""
    made = ceiling(kernel32, lambda pid: kernel32.calls.append(f"resume {pid}"))
    before = set(kernel32.opened)
    made.attach(ROOT)
    assert kernel32.calls[-3:] == ["OpenProcess", "AssignProcessToJobObject", f"resume {ROOT.pid}"]
    assert kernel32.opened == before


@pytest.mark.parametrize("refuses", ["OpenProcess", "AssignProcessToJobObject"])
def test_a_process_that_cannot_be_assigned_never_runs(refuses: str, kernel32: Kernel32) -> None:
    """An error that says why, no resume, and no handle left."""
    made = ceiling(kernel32, lambda pid: pytest.fail("it was resumed"))
    kernel32.refuses, before = refuses, set(kernel32.opened)
    with pytest.raises(LaunchError, match="Windows says 5") as caught:
        made.attach(ROOT)
    assert caught.value.stage == "join"
    assert kernel32.opened == before


@pytest.mark.parametrize("key", [ProcessKey(70, 8), ProcessKey(2000, 7)], ids=["another", "gone"])
def test_another_process_under_the_pid_is_never_assigned(key: ProcessKey, kernel32: Kernel32) -> None:
    """Whoever has the pid by now is not ours."""
    made = ceiling(kernel32, lambda pid: pytest.fail("it was resumed"))
    with pytest.raises(LaunchError, match="another process"):
        made.attach(key)
    assert "AssignProcessToJobObject" not in kernel32.calls


@pytest.mark.parametrize("message", [10, 11])
def test_a_message_of_the_limit_is_the_end(message: int, kernel32: Kernel32) -> None:
    """Others (a process that came or went) are not; once told it stays so."""
    made = ceiling(kernel32)
    kernel32.messages = [6, 7]
    assert not made.reached()
    kernel32.messages = [6, message, 7]
    assert made.reached()
    assert made.reached()


def test_use_at_the_limit_is_the_end_without_a_message(kernel32: Kernel32) -> None:
    """The figure itself is believed, too."""
    made = ceiling(kernel32)
    kernel32.usage = (100 * MIB - 1, 100 * MIB - 1)
    assert not made.reached()
    kernel32.usage = (100 * MIB, 100 * MIB)
    assert made.reached()
    assert (made.used(), made.peak()) == ((100 * MIB, "job"), (100 * MIB, "job"))


def test_the_reserve_is_used_up_when_memory_is_refused(kernel32: Kernel32) -> None:
    """What was refused before the parting does not count."""
    made = ceiling(kernel32)
    kernel32.messages = [11, 10]
    assert made.reached()
    made.part()
    assert not made.overdrawn()
    kernel32.messages = [10]
    assert made.overdrawn()


def test_members_are_listed_however_many(kernel32: Kernel32) -> None:
    """With their identities; who is gone meanwhile is left out."""
    made = ceiling(kernel32)
    kernel32.pids = [*range(1, 301), 1001]
    assert made.members() == [ProcessKey(pid, 7) for pid in range(1, 301)]


def test_who_lives_on_stays_limited_and_is_not_ended(kernel32: Kernel32) -> None:
    """Closing takes back only that the handle's end is theirs; where nobody is left nothing is changed."""
    made = ceiling(kernel32)
    kernel32.pids = [70]
    made.close()
    assert kernel32.set[9].BasicLimitInformation.LimitFlags == 0x200
    assert kernel32.set[9].JobMemoryLimit == 100 * MIB + PARTING_RESERVE
    assert kernel32.opened == set()


def test_kill_ends_the_whole_job(kernel32: Kernel32) -> None:
    """By the one call for it."""
    ceiling(kernel32).kill()
    assert kernel32.calls[-1] == "TerminateJobObject"


@pytest.mark.parametrize(
    "refuses", ["CreateJobObjectW", "CreateIoCompletionPort", *(f"SetInformationJobObject({n})" for n in (7, 9, 12))]
)
def test_what_is_not_granted_is_said(refuses: str, kernel32: Kernel32) -> None:
    """The call and the system's words; no handle is left."""
    kernel32.refuses = refuses
    with pytest.raises(CeilingUnavailable) as caught:
        ceiling(kernel32)
    assert str(caught.value) == f"{refuses}: Windows says 5"
    assert kernel32.opened == set()


def test_figures_that_are_not_told_are_not_made_up(kernel32: Kernel32) -> None:
    """Before Windows 10 the use is not told; then no use ends a tree, only a message does."""
    made = ceiling(kernel32)
    kernel32.usage = None
    assert not made.reached()
    assert (made.peak(), made.kernel_kills(), made.killed_from_above()) == ((0, "job"), 0, False)


@pytest.mark.skipif(hasattr(ctypes, "WinDLL"), reason="this is Windows")
def test_elsewhere_there_are_no_jobs() -> None:
    """Said as every ceiling says it."""
    with pytest.raises(CeilingUnavailable, match="Windows"):
        JobObjectCeiling(100 * MIB)


def test_a_suspended_start_keeps_the_other_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """CREATE_SUSPENDED is added to what was asked for."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: asked.update(options, command=command))
    job_object.start_suspended(["x"], creationflags=0x200, cwd="c")
    assert asked == {"command": ["x"], "creationflags": 0x204, "cwd": "c"}
