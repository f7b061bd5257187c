"""What processes hold when shared pages are divided, on a budget of processor time.

For PSS and USS the kernel walks a process's page tables (``smaps_rollup``, Linux 4.14): 13 to 20 µs for each MB
in 4 KiB pages, and the process cannot change its mappings meanwhile. So they are not read on every look but on
1 % of a core, a process after another, and each figure has an age.

The budget is kept by measuring: what a look took of the thread's processor time, ``c``, is rested from for
``c / budget`` before the next walk, be it that a walk was made or only said how old the figures are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, ShareMemory, TreeMemory
from memwarden.readers.linux.files import read_error
from memwarden.readers.linux.process import read_stat

Keys = Iterable[ProcessKey | int] | TreeMemory

#: What a walk is reckoned to cost before it was measured: the dearest seen, and what opening and parsing cost.
SECONDS_PER_BYTE, SECONDS_AT_LEAST = 20e-12, 50e-6
#: Small processes are read several in a look, as long as they are reckoned to take no longer than this together.
_TOGETHER = 0.002
#: A process that nobody has measured yet comes before figures that are younger than this.
_HEAD_START = 60.0
#: The part of the budget for finding out who is there, and the least time between two such.
_CENSUS, _CENSUS_SECONDS = 0.1, 0.25
#: Looks that only tell put a walk off by no more than this part of the time: however many there are, walks go on.
_PUT_OFF = 0.5
#: The part of what a look takes that can be measured from inside of it.
_MEASURED = 0.9

_WAY_OUT = {
    "denied": "processes of other users can be read by root, or with CAP_SYS_PTRACE",
    "absent": "this kernel has no smaps_rollup (Linux 4.14 with CONFIG_PROC_PAGE_MONITOR has)",
    "slow": "a walk would take longer than `longest`; SharesReader(longest=…) allows more",
}


class _Member:
    """A process and its newest figures."""

    __slots__ = ("cost", "key", "measured", "pss", "rss", "since", "trouble", "uss", "walked")

    def __init__(self, key: ProcessKey, now: float) -> None:
        self.key = key
        self.rss = self.pss = self.uss = self.walked = 0
        #: When it was measured; None: never.
        self.measured: float | None = None
        #: What it is ranked by: the oldest comes first.
        self.since = now - _HEAD_START
        self.cost = 0.0
        self.trouble: ReadError | None = None

    def predicted(self) -> float:
        """Seconds that a walk will take: as the last one did, for the size that it has now."""
        if self.walked:
            return self.cost * max(1.0, self.rss / self.walked)
        return SECONDS_AT_LEAST + self.rss * SECONDS_PER_BYTE


class PssReader:
    """Reads :class:`ShareMemory` of the processes that ``keys`` names, this one where it is None.

    ``keys`` is a pid, some pids or :class:`ProcessKey`, or a function that gives such or a :class:`TreeMemory`
    (``TreeReader.members``, for one; None where it knows nobody yet) and is asked within the budget. ``budget``
    is a share of one core. A process that is reckoned to take longer than ``longest`` seconds at once is left out
    and told as a gap: the look would wait for it.
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
        #: When who is there is found out again, and when the next walk may be made.
        self._census_due = self._walk_due = self._looked = float("-inf")
        self._members: dict[ProcessKey, _Member] = {}
        self._trouble: ReadError | None = None  # of the last census
        self._told: tuple[list[_Member], tuple[Gap, ...]] | None = None

    def read(self) -> dict[str, Any]:
        """``{"shares": ShareMemory, "gaps": (…)}``; raises :class:`ReadError` when nobody could be measured."""
        now, begun = self._monotonic(), self._cpu()
        walks = False
        try:
            if now >= self._census_due:
                self._told = None
                self._count()
                cost = self._cpu() - begun
                self._census_due = now + max(_CENSUS_SECONDS, cost / (self._budget * _CENSUS))
            if walks := now >= self._walk_due and bool(self._members):
                self._told = None
                self._walk()
            return self._tell()
        finally:
            rest = (self._cpu() - begun) / (self._budget * _MEASURED)
            if walks:
                self._walk_due = self._monotonic() + rest
            else:
                self._walk_due += min(rest, (now - self._looked) * _PUT_OFF)
            self._looked = now

    def _tell(self) -> dict[str, Any]:
        if self._told is None:
            known = [each for each in self._members.values() if each.measured is not None]
            self._told = sorted(known, key=lambda each: -each.pss), self._gaps()
        measured, gaps = self._told
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

    # --- who is there ---------------------------------------------------------------------------------

    def _count(self) -> None:
        """Find out who is there: those who ended are forgotten, a later process with the same pid is another."""
        now = self._monotonic()
        self._trouble = None
        try:
            wanted = self._wanted()
        except ReadError as error:
            self._trouble = error
            if error.why != "gone":
                return  # they may well live: what was measured stands, with its age
            wanted = []
        found: dict[ProcessKey, _Member] = {}
        for who, size in wanted:
            try:
                key, rss = self._found(who) if size is None or isinstance(who, int) else (who, size)
            except ReadError as error:
                if error.why != "gone":
                    self._trouble = error
                continue
            member = found[key] = self._members.get(key) or _Member(key, now)
            member.rss = rss
        self._members = found

    def _wanted(self) -> list[tuple[ProcessKey | int, int | None]]:
        """Who is to be measured; with a size from a tree, which has just looked."""
        keys = self._keys() if callable(self._keys) else self._keys
        if keys is None:
            # Asked now: a child after a fork is another process. A function that knows nobody yet says None, too.
            return [] if callable(self._keys) else [(os.getpid(), None)]
        if isinstance(keys, TreeMemory):
            return list(zip(keys.keys, keys.rss, strict=True))
        return [(each, None) for each in ([keys] if isinstance(keys, int | ProcessKey) else keys)]

    def _found(self, who: ProcessKey | int) -> tuple[ProcessKey, int]:
        """A process and its size. Raises :class:`ReadError`."""
        pid = who.pid if isinstance(who, ProcessKey) else who
        stat = read_stat(pid, self._proc)
        key = ProcessKey(pid, stat.start)
        if stat.state in "ZX" or (isinstance(who, ProcessKey) and who != key):
            raise ReadError("shares", f"{self._proc}/{pid}", "gone", "it has ended")
        return key, stat.rss

    # --- what they hold -------------------------------------------------------------------------------

    def _walk(self) -> None:
        """Measure whose turn it is: one of any size, then small ones as long as all are cheap together."""
        spent = 0.0
        for member in sorted(self._members.values(), key=lambda each: (each.since, -each.rss)):
            predicted = member.predicted()
            if predicted > self._longest:
                member.since = self._monotonic()
                member.trouble = ReadError("shares", "", "slow")
                continue
            if spent and spent + predicted > _TOGETHER:
                break
            begun = self._cpu()
            self._measure(member)
            took = self._cpu() - begun
            if member.trouble is None:
                member.cost, member.walked = took, member.rss
            spent += max(took, 1e-9)

    def _measure(self, member: _Member) -> None:
        member.trouble = None
        path = f"{self._proc}/{member.key.pid}/smaps_rollup"
        try:
            data = self._rollup(member.key, path)
            if not data.endswith(b"\n"):  # cut: what is missing would count as nothing
                raise ValueError
            pss = _sum(data, b"\nPss:")
            uss = _sum(data, b"\nPrivate_Clean:", b"\nPrivate_Dirty:")
            if b"\nPrivate_Hugetlb:" in data:  # Linux 4.4 to now; PSS leaves these pages out
                uss += _sum(data, b"\nPrivate_Hugetlb:")
        except ReadError as error:
            if error.why == "gone":
                self._members.pop(member.key, None)
            member.trouble = error
        except ValueError:
            member.trouble = ReadError("shares", path, "malformed", f"{data[:60]!r}")
        member.since = self._monotonic()
        if member.trouble is None:
            member.pss, member.uss, member.measured = pss, uss, member.since

    def _rollup(self, key: ProcessKey, path: str) -> bytes:
        """The file's content. Raises :class:`ReadError` (``gone`` where the pid is another process's now)."""
        # Opened first and identified then: what is open belongs to whoever had the pid, and answers for nobody
        # else. Were it a later process's, the start time would say so.
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
        """One for each cause, however many processes it keeps from us."""
        causes: dict[str, list[_Member]] = {}
        for member in self._members.values():
            if member.trouble is not None:
                causes.setdefault(member.trouble.why, []).append(member)
        gaps = []
        for why, members in causes.items():
            first = members[0]
            assert first.trouble is not None
            which = f"pid {first.key.pid}" + (f" and {len(members) - 1} more" if len(members) > 1 else "")
            detail = f"{which}: {_WAY_OUT.get(why, first.trouble.detail)}"
            gaps.append(Gap("shares", f"{self._proc}/PID/smaps_rollup", why, detail))
        if (trouble := self._trouble) is not None:
            gaps.append(Gap(trouble.what, trouble.where, trouble.why, trouble.detail))
        return tuple(gaps)

    def close(self) -> None:
        """Forget what was measured; the next read begins anew (in a child after a fork: with the child)."""
        self._members, self._trouble, self._told = {}, None, None
        self._census_due = self._walk_due = self._looked = float("-inf")


def _sum(data: bytes, *keys: bytes) -> int:
    """The bytes behind these words. Raises ValueError where one is missing or no number stands there."""
    total = 0
    for key in keys:
        at = data.index(key) + len(key)
        kibibytes = int(data[at : data.index(b" kB\n", at)])
        if kibibytes < 0:
            raise ValueError
        total += kibibytes
    return total * 1024
