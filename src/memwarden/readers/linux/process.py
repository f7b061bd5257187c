"""One process, from ``/proc/PID``.

``statm`` gives resident and shared size for 1.4 µs; ``status`` also the peak and the swapped part for 9 µs, so it is
read less often (``max_age``). On Linux 6.2 and later (until the fix of 2025) both may be off by some pages for each
processor; near a limit :mod:`memwarden.contain` confirms with an exact counter.

A process whose first thread has ended while others run shows as a zombie without memory in ``/proc/PID``; the files of
its other threads, in ``/proc/PID/task/TID``, have the true figures. They are read only where a zombie was read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, ProcessMemory
from memwarden.readers.linux.files import KeptFile, kilobytes, pread, read_once
from memwarden.readers.peak import recorded_peak

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def parse_statm(data: bytes, where: str) -> tuple[int, int, int]:
    """Return virtual, resident and shared size in bytes from ``statm``. Raises :class:`ReadError`."""
    try:
        # Unpacking asks for a fourth field: without one the third may have been cut.
        virtual, resident, shared, _ = data.split(None, 3)
        return int(virtual) * PAGE, int(resident) * PAGE, int(shared) * PAGE
    except ValueError:
        raise ReadError("statm", where, "malformed", f"{data[:40]!r}") from None


class Stat:
    """The fields of ``/proc/PID/stat`` that identify a process."""

    __slots__ = ("name", "pid", "ppid", "rss", "start", "state")

    def __init__(self, data: bytes, where: str) -> None:
        # The name stands in parentheses and may hold any byte, parentheses and line ends included,
        # so the fields are counted from the last closing one.
        opened, closed = data.find(b"("), data.rfind(b")")
        fields = data[closed + 2 :].split(None, 22)
        try:
            if opened < 0 or closed < opened or len(fields) < 23:  # without a next field the last may be cut
                raise ValueError
            self.pid = int(data[:opened])
            self.name = data[opened + 1 : closed].decode("utf-8", "replace")
            self.state = fields[0].decode()
            self.ppid = int(fields[1])
            self.start = int(fields[19])
            self.rss = int(fields[21]) * PAGE
        except (IndexError, ValueError):
            raise ReadError("stat", where, "malformed", f"{data[:60]!r}") from None


def read_stat(pid: int | str, proc: str = "/proc") -> Stat:
    """Return the process with this pid now. Raises :class:`ReadError` (``gone`` when there is no such process)."""
    path = f"{proc}/{pid}/stat"
    try:
        stat = Stat(read_once("stat", path, 1024), path)
    except ReadError as error:
        if error.why == "absent" and os.path.isdir(proc):
            raise ReadError("process", f"{proc}/{pid}", "gone", "no process has this pid") from None
        raise
    if stat.state == "Z" and (thread := living_thread(f"{proc}/{pid}")) is not None:
        with contextlib.suppress(ReadError):  # ended since
            other = Stat(read_once("stat", f"{thread}/stat", 1024), path)
            stat.state, stat.rss = other.state, other.rss
    return stat


def living_thread(process: str) -> str | None:
    """Return the folder ``/proc/PID/task/TID`` of a thread that has memory; ``process`` is ``/proc/PID``."""
    try:
        threads = os.listdir(f"{process}/task")
    except OSError:
        return None
    for thread in threads:
        path = f"{process}/task/{thread}"
        with contextlib.suppress(ReadError):
            if not read_once("statm", f"{path}/statm", 128).startswith(b"0 "):
                return path
    return None


def read_pss(pid: int, proc: str = "/proc", *, field: str = "Pss") -> int:
    """Return the proportional set size in bytes: each page is divided by the number of processes that map it.

    ``field`` selects a part: ``Pss_Anon``, ``Pss_File`` or ``Pss_Shmem`` (Linux 5.4; all of it where there is none).
    The kernel walks the page tables, 13 to 20 µs for each MB in 4 KiB pages: never on a hot path. Raises
    :class:`ReadError`.
    """
    path = f"{proc}/{pid}/smaps_rollup"
    data = in_living_thread(f"{proc}/{pid}", lambda folder: read_once("smaps_rollup", f"{folder}/smaps_rollup"))
    return _size("smaps_rollup", path, data, field if b"\n%b:" % field.encode() in data else "Pss")


def in_living_thread(process: str, read: Callable[[str], bytes]) -> bytes:
    """Return what ``read`` finds in the folder of a process, or of a living thread. Raises :class:`ReadError`."""
    try:
        return read(process)
    except ReadError as error:
        thread = living_thread(process) if error.why == "gone" else None
        if thread is None:
            raise
    return read(thread)


def read_shmem(pid: int, proc: str = "/proc") -> int:
    """Return the resident bytes in shared anonymous maps and files in ``tmpfs`` (Linux 4.5). 15 µs.

    Raises :class:`ReadError`.
    """
    path = f"{proc}/{pid}/status"
    return _size("status", path, read_once("status", path), "RssShmem")


def _size(what: str, path: str, data: bytes, field: str) -> int:
    try:
        size = kilobytes(data, f"\n{field}:".encode())
    except ValueError:
        size = None
    if size is None:
        raise ReadError(what, path, "malformed", f"{data[:60]!r}")
    return size


class ProcessReader:
    """Reads :class:`ProcessMemory` of one process, by default of this one.

    Sizes are read each time. The swapped part, the name, the limit and the kernel's peak may be ``max_age`` seconds
    old.
    """

    name = "process"

    def __init__(self, pid: int | None = None, proc: str = "/proc", *, max_age: float = 0.0) -> None:
        self._proc, self._max_age = proc, max_age
        self._full: ProcessMemory | None = None
        self._due = 0.0
        self._pid: int | str = "self" if pid is None else pid
        self._files: tuple[KeptFile, KeptFile] | None = None
        self._key: ProcessKey | None = None
        self._name = ""
        self._comm = b""

    def read(self) -> dict[str, Any]:
        """Return ``{"process": ProcessMemory}``; raises :class:`ReadError`."""
        full = self._full
        if full is None or self._files is None or monotonic() >= self._due:
            full = self._status()
            if self._max_age > 0:
                self._open()[0].read()  # opens it
                self._full, self._due = full, monotonic() + self._max_age
            return {"process": full}
        file = self._files[0]
        try:
            data = pread(file.fd, 128, 0)
        except OSError:
            self._full = None
            return {"process": self._status()}  # raises the typed error
        key, name, _, _, _, _, swap, peak, vms_limit = full
        virtual, resident, shared = parse_statm(data, file.path)
        if not virtual:
            self._full = None
            return {"process": self._status()}
        if peak is None or resident > peak:
            peak = resident
        shown = ProcessMemory(key, name, resident, virtual, resident - shared, shared, swap, peak, vms_limit)
        return {"process": shown}

    def memory(self) -> ProcessMemory:
        """Return the fact alone. Raises :class:`ReadError`."""
        process: ProcessMemory = self.read()["process"]
        return process

    def resident(self) -> int:
        """Return the resident size in bytes, at the cost of one system call."""
        file = self._files[0] if self._files is not None else self._open()[0]
        try:
            _, pages, _ = pread(file.fd, 128, 0).split(None, 2)
            return int(pages) * PAGE
        except (OSError, ValueError):
            return parse_statm(file.read(), file.path)[1]  # raises the typed error

    def _status(self) -> ProcessMemory:
        """Return all figures of ``status``."""
        file = self._open()[1]
        assert self._key is not None
        process = f"{self._proc}/{self._key.pid}"
        try:
            data = file.read()
        except ReadError:
            if file.path == f"{process}/status":
                raise
            self._identify()  # the other thread has ended, and perhaps the process
            self._read_in(process)
            return self._status()
        number = self._number
        rss = number(data, b"\nVmRSS:")
        if rss is None:
            if b"\nState:\tZ" in data:
                thread = living_thread(process)
                if thread is None:
                    raise ReadError("process", file.path, "gone", "it has ended and waits to be reaped")
                self._read_in(thread)
                return self._status()
            raise ReadError("status", file.path, "malformed", "no VmRSS line")
        shown = data[: data.find(b"\n")]
        if shown != self._comm:  # it changes at exec; stat alone shows it without escapes
            self._name, self._comm = self._identify().name, shown
        files, shmem = number(data, b"\nRssFile:"), number(data, b"\nRssShmem:")
        peak = number(data, b"\nVmHWM:")
        if peak is not None and self._proc == "/proc" and self._key.pid == os.getpid():
            peak = max(peak, recorded_peak())
        return ProcessMemory(
            self._key,
            self._name,
            rss,
            number(data, b"\nVmSize:"),
            number(data, b"\nRssAnon:"),
            None if files is None or shmem is None else files + shmem,
            number(data, b"\nVmSwap:"),
            peak,
            self._vms_limit(),
        )

    def _vms_limit(self) -> int | None:
        if self._proc != "/proc" or not hasattr(resource, "prlimit"):
            return None  # a recorded tree: the limits of this machine's processes are not its own
        try:
            soft, _ = resource.prlimit(0 if self._pid == "self" else int(self._pid), resource.RLIMIT_AS)
        except OSError:
            return None  # another user's process; the limit then is simply not known
        return None if soft == resource.RLIM_INFINITY else soft

    def _open(self) -> tuple[KeptFile, KeptFile]:
        if self._files is None:
            # "self" is resolved now: a kept /proc/self would go on showing the parent after a fork.
            if self._pid == "self":
                self._key = None
            stat = self._identify()
            self._key, self._name, self._comm = ProcessKey(stat.pid, stat.start), stat.name, b""
            self._read_in(f"{self._proc}/{stat.pid}")
        assert self._files is not None
        return self._files

    def _read_in(self, folder: str) -> None:
        """Read the files of a process, or of one of its threads, from now on."""
        for file in self._files or ():
            file.close()
        self._files = KeptFile("statm", f"{folder}/statm", 128), KeptFile("status", f"{folder}/status")

    def _identify(self) -> Stat:
        """Return the present identity. Raises :class:`ReadError` (``gone``) for a later process with the same pid."""
        stat = read_stat(self._pid, self._proc)
        if self._key is not None and stat.start != self._key.start:
            raise ReadError("process", f"{self._proc}/{stat.pid}", "gone", "the pid belongs to another process now")
        return stat

    def _number(self, data: bytes, key: bytes) -> int | None:
        try:
            return kilobytes(data, key)
        except ValueError:
            where, line = f"{self._proc}/{self._pid}/status", key.strip().decode()
            raise ReadError("status", where, "malformed", f"no number after {line}") from None

    def close(self) -> None:
        """Close the descriptors; the next read resolves the process again."""
        for file in self._files or ():
            file.close()
        self._files = self._full = None
