"""PSS and USS of processes (resident size with shared pages divided, and private pages), on a CPU budget.

For them the kernel walks a process's page tables (``smaps_rollup``, Linux 4.14), 13 to 20 µs for each MB in 4 KiB
pages, and the process cannot change its mappings meanwhile. So they are measured on 1 % of a core, one process after
another, and each figure has an age.

The budget is kept by measuring: after ``c`` seconds of CPU time the next walk waits for ``c / budget``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, ShareMemory, TreeMemory
from memwarden.readers.collect import gap_of
from memwarden.readers.linux.files import kilobytes, read_error
from memwarden.readers.linux.process import in_living_thread, read_stat

Keys = Iterable[ProcessKey | int] | TreeMemory

#: Predicted cost of a walk that was never measured: the highest seen, and the cost of opening and parsing.
SECONDS_PER_BYTE, MIN_SECONDS = 20e-12, 50e-6
#: Small processes are measured in one sample as long as their predicted costs sum up to less than this.
_BATCH_SECONDS = 0.002
#: A process that was never measured comes before figures that are younger than this.
_HEAD_START = 60.0
#: Share of the budget for listing the processes, and the least time between two listings.
_LIST_SHARE, _LIST_SECONDS = 0.1, 0.25
#: Samples without a walk delay the next one by at most this share of the time, so that walks go on.
_MAX_DELAY_SHARE = 0.5
#: Share of a sample's cost that can be measured from inside of it.
_MEASURED = 0.9

_WAY_OUT = {
    "denied": "processes of other users can be read by root, or with CAP_SYS_PTRACE",
    "absent": "this kernel has no smaps_rollup (Linux 4.14 with CONFIG_PROC_PAGE_MONITOR has)",
    "slow": "the predicted time exceeds `longest`; raise it with PssReader(longest=…)",
}


class _Member:
    """A process and its newest figures."""

    __slots__ = ("cost", "error", "key", "measured", "pss", "rank", "rss", "uss", "walked")

    def __init__(self, key: ProcessKey, now: float) -> None:
        self.key = key
        self.rss = self.pss = self.uss = self.walked = 0
        #: When it was measured; None: never.
        self.measured: float | None = None
        #: Time that it is ranked by: the oldest is measured first.
        self.rank = now - _HEAD_START
        self.cost = 0.0
        self.error: ReadError | None = None

    def predicted(self) -> float:
        """Return the seconds that a walk will take: as the last one did, scaled to the present size."""
        if self.walked:
            return self.cost * max(1.0, self.rss / self.walked)
        return MIN_SECONDS + self.rss * SECONDS_PER_BYTE


class PssReader:
    """Reads :class:`ShareMemory` of the processes in ``keys``, by default of this process.

    ``keys`` is a pid, some pids or :class:`ProcessKey`, or a function that returns such or a :class:`TreeMemory`
    (``TreeReader.members``; None while no process is known); its cost is on the budget. ``budget`` is a share of one
    core. A process whose walk is predicted to take longer than ``longest`` seconds is left out, with a gap.
    """

    name = "shares"

    def __init__(
        self,
        keys: int | Keys | Callable[[], Keys | None] | None = None,
        *,
        budget: float = 0.01,
        longest: float = 0.1,
        proc: str = "/proc",
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._keys, self._proc, self._longest = keys, proc, longest
        self._monotonic, self._cpu = monotonic, cpu
        self._budget = budget
        #: When the processes are listed again, and when the next walk may be made.
        self._list_due = self._walk_due = self._sampled = float("-inf")
        self._members: dict[ProcessKey, _Member] = {}
        self._list_error: ReadError | None = None

    def read(self) -> dict[str, Any]:
        """Return ``{"shares": ShareMemory, "gaps": (…)}``; raises :class:`ReadError` when none could be measured."""
        now, start = self._monotonic(), self._cpu()
        if now >= self._list_due:
            self._list()
            cost = self._cpu() - start
            self._list_due = now + max(_LIST_SECONDS, cost / (self._budget * _LIST_SHARE))
        walks = now >= self._walk_due and bool(self._members)
        if walks:
            self._walk()
        try:
            return self._facts()
        finally:
            rest = (self._cpu() - start) / (self._budget * _MEASURED)
            if walks:
                self._walk_due = self._monotonic() + rest
            else:
                self._walk_due += min(rest, (now - self._sampled) * _MAX_DELAY_SHARE)
            self._sampled = now

    def _facts(self) -> dict[str, Any]:
        measured = sorted(
            [each for each in self._members.values() if each.measured is not None], key=lambda each: -each.pss
        )
        gaps = self._gaps()
        if not measured and gaps:
            raise ReadError(*gaps[0])
        if not self._members:
            raise ReadError("shares", self._proc, "gone", "no process is left")
        now = self._monotonic()
        shares = ShareMemory(
            tuple([each.key for each in measured]),
            tuple([each.pss for each in measured]),
            tuple([each.uss for each in measured]),
            tuple([now - (each.measured or now) for each in measured]),
        )
        return {"shares": shares, "gaps": gaps}

    # --- members --------------------------------------------------------------------------------------

    def _list(self) -> None:
        """List the processes: ended ones are forgotten, a later process with the same pid is another one."""
        now = self._monotonic()
        self._list_error = None
        try:
            wanted = self._wanted()
        except ReadError as error:
            self._list_error = error
            if error.why != "gone":
                return  # they may still run: the last figures stay, with their ages
            wanted = []
        found: dict[ProcessKey, _Member] = {}
        for process, size in wanted:
            try:
                key, rss = self._found(process) if size is None or isinstance(process, int) else (process, size)
            except ReadError as error:
                if error.why != "gone":
                    self._list_error = error
                continue
            member = found[key] = self._members.get(key) or _Member(key, now)
            member.rss = rss
        self._members = found

    def _wanted(self) -> list[tuple[ProcessKey | int, int | None]]:
        """Return the processes to measure; with their sizes if a tree has just read them."""
        keys = self._keys() if callable(self._keys) else self._keys
        if keys is None:
            # Evaluated now: a child after fork is another process.
            return [] if callable(self._keys) else [(os.getpid(), None)]
        if isinstance(keys, TreeMemory):
            return list(zip(keys.keys, keys.rss, strict=True))
        return [(each, None) for each in ([keys] if isinstance(keys, int | ProcessKey) else keys)]

    def _found(self, process: ProcessKey | int) -> tuple[ProcessKey, int]:
        """Return the key and size of a process. Raises :class:`ReadError`."""
        pid = process.pid if isinstance(process, ProcessKey) else process
        stat = read_stat(pid, self._proc)
        key = ProcessKey(pid, stat.start)
        if stat.state in "ZX" or (isinstance(process, ProcessKey) and process != key):
            raise ReadError("shares", f"{self._proc}/{pid}", "gone", "it has ended")
        return key, stat.rss

    # --- sizes ----------------------------------------------------------------------------------------

    def _walk(self) -> None:
        """Measure the oldest figure of any size, and then further ones while they are cheap together."""
        spent = 0.0
        for member in sorted(self._members.values(), key=lambda each: (each.rank, -each.rss)):
            predicted = member.predicted()
            if predicted > self._longest:
                member.rank = self._monotonic()
                member.error = ReadError("shares", "", "slow")
                continue
            if spent and spent + predicted > _BATCH_SECONDS:
                break
            start = self._cpu()
            self._measure(member)
            cost = self._cpu() - start
            if member.error is None:
                member.cost, member.walked = cost, member.rss
            spent += max(cost, 1e-9)

    def _measure(self, member: _Member) -> None:
        member.error = None
        path = f"{self._proc}/{member.key.pid}/smaps_rollup"
        try:
            data = in_living_thread(
                os.path.dirname(path), lambda folder: self._rollup(member.key, f"{folder}/smaps_rollup")
            )
            if not data.endswith(b"\n"):  # truncated: missing lines would count as 0
                raise ValueError
            sizes = [kilobytes(data, key) for key in (b"\nPss:", b"\nPrivate_Clean:", b"\nPrivate_Dirty:")]
            # Linux 4.4 to now; PSS leaves these pages out.
            sizes.append(kilobytes(data, b"\nPrivate_Hugetlb:") or 0)
            pss, *private = [-1 if size is None else size for size in sizes]
            if min(pss, *private) < 0:
                raise ValueError
        except ReadError as error:
            if error.why == "gone":
                self._members.pop(member.key, None)
            member.error = error
        except ValueError:
            member.error = ReadError("shares", path, "malformed", f"{data[:60]!r}")
        member.rank = self._monotonic()
        if member.error is None:
            member.pss, member.uss, member.measured = pss, sum(private), member.rank

    def _rollup(self, key: ProcessKey, path: str) -> bytes:
        """Read the file. Raises :class:`ReadError` (``gone`` where the pid is another process's now)."""
        # Opened first and identified then: an open file answers for the process that had the pid at that moment.
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            failed = read_error("shares", path, error)
            if failed.why == "absent":
                self._identify(key)
            raise failed from None
        try:
            self._identify(key)
            data = b""
            while part := os.read(fd, 4096):
                data += part
            return data
        except OSError as error:
            raise read_error("shares", path, error) from None
        finally:
            os.close(fd)

    def _identify(self, key: ProcessKey) -> None:
        if read_stat(key.pid, self._proc).start != key.start:
            raise ReadError("shares", f"{self._proc}/{key.pid}", "gone", "the pid belongs to another process now")

    def _gaps(self) -> tuple[Gap, ...]:
        """Return one gap for each cause, whatever the number of processes."""
        causes: dict[str, list[tuple[_Member, ReadError]]] = {}
        for member in self._members.values():
            if member.error is not None:
                causes.setdefault(member.error.why, []).append((member, member.error))
        gaps = []
        for why, members in causes.items():
            member, error = members[0]
            which = f"pid {member.key.pid}" + (f" and {len(members) - 1} more" if len(members) > 1 else "")
            detail = f"{which}: {_WAY_OUT.get(why, error.detail)}"
            gaps.append(Gap("shares", f"{self._proc}/PID/smaps_rollup", why, detail))
        if self._list_error is not None:
            gaps.append(gap_of(self._list_error))
        return tuple(gaps)

    def close(self) -> None:
        """Forget the figures; the next read starts afresh (in a child after fork: with the child)."""
        self._members, self._list_error = {}, None
        self._list_due = self._walk_due = self._sampled = float("-inf")
