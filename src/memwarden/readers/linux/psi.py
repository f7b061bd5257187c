"""Memory stalls counted by the kernel (pressure stall information, Linux 4.20).

A stall is time in which a task could not run because it waited for memory: reclaim, refaults, compaction. The kernel
counts stalls for every control group of version 2 and for the whole machine.
"""

from __future__ import annotations

import os
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import PsiLine, PsiStats
from memwarden.readers.linux.cgroup import locate_unified
from memwarden.readers.linux.files import KeptFile

_OFF = "the kernel counts no stalls (Linux 4.20 with CONFIG_PSI does; where it is built in but off, boot with psi=1)"


class PsiReader:
    """Reads :class:`PsiStats`: of the process's own version 2 group where it has one, else of the machine.

    ``pid`` is this process by default. Two reads of kept descriptors: 12 µs (Linux 6.18).
    """

    name = "psi"

    def __init__(self, pid: int | None = None, proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup") -> None:
        self._pid, self._proc, self._sys = pid, proc, sys_fs_cgroup
        self._file: KeptFile | None = None
        self._membership: KeptFile | None = None
        self._membership_data: bytes | None = None  # the membership that the file was chosen by
        self._process: int | str = "self"
        self._source = ""

    def read(self) -> dict[str, Any]:
        """Return ``{"psi": PsiStats}``; raises :class:`ReadError` (absent: the kernel does not count here)."""
        return {"psi": self.stats()}

    def stats(self) -> PsiStats:
        """Return the fact alone. Raises :class:`ReadError`."""
        file = self._follow()
        try:
            data = file.read()
        except ReadError as error:
            machine = self._source == "machine"
            self.close()  # a removed group, or its count was turned off: choose again next time
            if error.why == "absent" and machine:
                raise ReadError("psi", error.where, "absent", _OFF) from None
            raise ReadError("psi", error.where, error.why, error.detail) from None
        return parse_psi(data, self._source, file.path)

    def _follow(self) -> KeptFile:
        """Return the file, another one when the process was moved."""
        if self._membership is None:
            # "self" is resolved now: a kept /proc/self would show the parent after a fork.
            own = os.getpid() if self._pid is None and self._proc == "/proc" else self._pid
            self._process = "self" if own is None else own
            self._membership = KeptFile("cgroup", f"{self._proc}/{self._process}/cgroup", 2048)
        seen = None
        try:
            seen = self._membership.read()
        except ReadError as error:
            if error.why != "absent":
                raise
            if self._pid is not None and not os.path.isdir(f"{self._proc}/{self._pid}"):
                raise ReadError("process", f"{self._proc}/{self._pid}", "gone", "no process has this pid") from None
        if self._file is None or seen != self._membership_data:
            self._close_file()
            self._file, self._membership_data = KeptFile("psi", self._choose(), 512), seen
        return self._file

    def _choose(self) -> str:
        try:
            location = locate_unified(self._process, self._proc, self._sys)
        except ReadError as error:
            if error.why != "absent":
                raise
        else:
            # Absent where the group's count is turned off (cgroup.pressure), and where no group's is kept.
            if os.path.exists(f"{location.directory}/memory.pressure"):
                self._source = location.path
                return f"{location.directory}/memory.pressure"
        self._source = "machine"
        return f"{self._proc}/pressure/memory"

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Close the descriptors; the next read resolves the group again."""
        self._close_file()
        if self._membership is not None:
            self._membership.close()
            self._membership = None


def parse_psi(data: bytes, source: str, where: str) -> PsiStats:
    """Parse a pressure file: percentages become ratios, microseconds become seconds.

    Raises :class:`ReadError` (malformed). Unknown lines and fields are skipped.
    """
    some = full = None
    try:
        if not data.endswith(b"\n"):  # cut: a part of a number is another number
            raise ValueError
        for line in data.splitlines():
            kind, *fields = line.split()
            if kind == b"some":
                some = _line(fields)
            elif kind == b"full":
                full = _line(fields)
        if some is None:
            raise ValueError
    except (KeyError, ValueError):
        raise ReadError("psi", where, "malformed", f"{data[:80]!r}") from None
    return PsiStats(source, some, full)


def _line(fields: list[bytes]) -> PsiLine:
    values = dict(field.split(b"=", 1) for field in fields)
    shares = [round(float(values[key]) / 100, 4) for key in (b"avg10", b"avg60", b"avg300")]
    total = int(values[b"total"])
    if total < 0 or not all(0 <= share <= 1 for share in shares):  # not a number is neither
        raise ValueError
    return PsiLine(shares[0], shares[1], shares[2], total / 1e6)
