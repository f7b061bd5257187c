"""Helpers for testing code that uses memwarden, and memwarden itself.

:class:`FakeClock` controls time, :class:`ScriptedReader` the facts, :class:`ProcTree` is a ``/proc`` and a
``/sys/fs/cgroup`` made of plain files, and :data:`HOG` is a program that allocates memory on request.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memwarden.engine.sampler import SAMPLER
from memwarden.errors import ReadError
from memwarden.model.facts import SystemMemory
from memwarden.protocols import Waitable

PAGE = 4096

#: ``python -c HOG START RATE CAP``: allocates START MiB at once, then RATE MiB a second (0: as fast as it can) up to
#: CAP MiB, then prints "at cap" and waits for its standard input to close.
HOG = """
import sys, time
start, rate, cap = map(float, sys.argv[1:4])
kept, size, started = [b"x" * int(start * 1048576)], start, time.monotonic()
print("started", flush=True)
while size < cap:
    kept.append(b"x" * 1048576)
    size += 1
    if rate and (early := started + (size - start) / rate - time.monotonic()) > 0:
        time.sleep(early)
print("at cap", flush=True)
sys.stdin.read()
"""


class FakeClock:
    """A clock that moves only by ``advance``.

    ``advance`` moves it, and lets every thread that waits on it run when its time has come, until that thread waits
    again: a warden on this clock takes its samples inside ``advance``. A warden that was just started is waited for,
    too.
    """

    #: Real seconds after which a thread that does not wait again is left alone.
    PATIENCE = 5.0

    def __init__(self, wall: float = 1_700_000_000.0, monotonic: float = 1000.0) -> None:
        self._wall, self._now = wall, monotonic
        self._condition = threading.Condition()
        self._waiting: dict[threading.Thread, tuple[float, Waitable]] = {}
        self._under_way: set[threading.Thread] = set()  # threads that will wait on this clock again

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        me = threading.current_thread()
        if me.name == SAMPLER and me not in self._under_way:
            with self._condition:
                self._under_way.add(me)
        return self._now

    def set_wall(self, wall: float) -> None:
        """Set the wall clock; the monotonic one does not change."""
        self._wall = wall

    def wait(self, event: Waitable, timeout: float) -> bool:
        """Wait until the event is set or this clock has moved by ``timeout``."""
        me = threading.current_thread()
        with self._condition:
            deadline = self._now + timeout
            if timeout > 0:
                self._waiting[me] = deadline, event
                self._under_way.discard(me)
                self._condition.notify_all()
            while not event.is_set() and self._now < deadline:
                self._condition.wait(0.005)  # real time: any thread may set the event
            self._waiting.pop(me, None)
            if me.name == SAMPLER and event.is_set():  # it ends, or plans anew and waits again
                self._under_way.add(me)
            self._condition.notify_all()
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Move on, stopping at every moment that a thread waits for."""
        with self._condition:
            target = self._now + seconds
            while True:
                self._until_all_wait()
                due = [(when, thread) for thread, (when, _) in self._waiting.items() if when <= target]
                if not due:
                    break
                when, thread = min(due, key=lambda each: each[0])
                del self._waiting[thread]
                self._under_way.add(thread)
                self._step(when)
            self._step(target)

    def _step(self, moment: float) -> None:
        moment = max(moment, self._now)  # a sample may itself have moved the clock beyond
        self._wall += moment - self._now
        self._now = moment
        self._condition.notify_all()

    def _until_all_wait(self) -> None:
        patience = time.monotonic() + self.PATIENCE
        me = threading.current_thread()
        while True:
            self._under_way = {each for each in self._under_way if each.is_alive()}
            woken = any(event.is_set() for _, event in self._waiting.values())
            if self._under_way <= {me} and not woken:
                return
            if time.monotonic() > patience:
                self._under_way.clear()
                return
            self._condition.wait(0.005)


class ScriptedReader:
    """A reader that returns the entries of a script, one a sample; the last entry is repeated.

    An entry is a mapping of sample fields, or an exception to raise. ``used`` entries (a number of bytes)
    stand for a machine of ``total`` bytes of which that much is used.
    """

    name = "scripted"

    def __init__(self, script: Iterable[Mapping[str, Any] | BaseException | int], total: int = 1000) -> None:
        self._script = list(script)
        self._total = total
        self.reads = 0
        self.closed = False

    def read(self) -> Mapping[str, Any]:
        """The next entry."""
        entry = self._script[min(self.reads, len(self._script) - 1)]
        self.reads += 1
        if isinstance(entry, BaseException):
            raise entry
        if isinstance(entry, int):
            free = self._total - entry
            return {"system": SystemMemory(self._total, free, free, 0, 0, 0)}
        return entry

    def close(self) -> None:
        """Set ``closed``."""
        self.closed = True


def gone() -> ReadError:
    """Return the error that a reader raises when its process has ended."""
    return ReadError("process", "/proc/1", "gone")


class ProcTree:
    """A ``/proc`` (``.proc``) and a ``/sys/fs/cgroup`` (``.sys``) below a folder, made of plain files."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.proc, self.sys = str(self.folder / "proc"), str(self.folder / "sys")
        os.makedirs(self.proc, exist_ok=True)
        os.makedirs(self.sys, exist_ok=True)
        self.meminfo()

    def write(self, path: str, content: str | bytes) -> None:
        """Write a file below the folder, with its directories."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def meminfo(self, total: int = 8 << 30, available: int = 6 << 30, **lines: int) -> None:
        """The machine, in bytes; further lines by their name."""
        figures = {"MemTotal": total, "MemFree": available, "MemAvailable": available, "Buffers": 0, "Cached": 0}
        figures |= {"SwapTotal": 0, "SwapFree": 0, "Shmem": 0} | lines
        text = "".join(f"{key + ':':16}{value // 1024:>8} kB\n" for key, value in figures.items())
        self.write("proc/meminfo", text)

    def process(
        self,
        pid: int,
        *,
        ppid: int = 1,
        name: str | bytes = "worker",
        rss: int = 10 << 20,
        shared: int = 0,
        start: int = 100,
        state: str = "S",
        threads: Mapping[int, Sequence[int]] | None = None,
        children: Sequence[int] = (),
    ) -> None:
        """A process; ``threads`` maps each thread to the children that it forked."""
        comm = name if isinstance(name, bytes) else name.encode()
        fields = [state, str(ppid), *["0"] * 17, str(start), str(rss * 2), str(rss // PAGE), *["0"] * 28]
        self.write(f"proc/{pid}/stat", b"%d (%b) %b\n" % (pid, comm, " ".join(fields).encode()))
        dead = state == "Z"
        statm = "0 0 0 0 0 0 0\n" if dead else f"{rss * 2 // PAGE} {rss // PAGE} {shared // PAGE} 1 0 2 0\n"
        self.write(f"proc/{pid}/statm", statm)
        kib = 1024
        memory = (
            f"VmSize:\t{rss * 2 // kib:8} kB\nVmHWM:\t{rss // kib:8} kB\nVmRSS:\t{rss // kib:8} kB\n"
            f"RssAnon:\t{(rss - shared) // kib:8} kB\nRssFile:\t{shared // kib:8} kB\nRssShmem:\t       0 kB\n"
            f"VmSwap:\t       0 kB\n"
        )
        self.write(
            f"proc/{pid}/status",
            b"Name:\t%b\nState:\t%b (x)\nPid:\t%d\n"
            % (comm.replace(b"\\", b"\\\\").replace(b"\n", b"\\n"), state.encode(), pid)  # as the kernel escapes it
            + (b"" if dead else memory.encode()),
        )
        for tid, forked in (threads or {pid: children}).items():
            self.write(f"proc/{pid}/task/{tid}/children", "".join(f"{child} " for child in forked))

    def end(self, pid: int) -> None:
        """The process is gone."""
        shutil.rmtree(f"{self.proc}/{pid}")

    def mounted(self, pid: int | str, cgroup: str, mountinfo: str) -> None:
        """Write ``/proc/PID/cgroup`` and ``/proc/self/mountinfo``."""
        self.write(f"proc/{pid}/cgroup", cgroup)
        self.write("proc/self/mountinfo", mountinfo)

    def group(self, path: str, **files: int | str) -> None:
        """A group's files; ``__`` in a name stands for a dot (``memory__max="max"``)."""
        for name, content in files.items():
            self.write(f"sys/{path}/{name.replace('__', '.')}", f"{content}\n")
