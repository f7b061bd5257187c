"""Memory of a whole process tree: its members, and the resident and shared size of each.

Seen on Linux 6.18, and handled here:

* ``/proc/PID/task/TID/children`` lists the children that *this thread* forked, at most a page (some 680 pids) a read;
  every thread is read, until nothing comes.
* A member whose parent has ended gets another parent. It stays a member by its identity (pid and start time), and so
  do its children.
* The ``statm`` of a zombie reads zeros without an error.
* A kept descriptor uses about 6 KiB of kernel memory and one of perhaps 1024 file numbers, see
  :func:`~memwarden.readers.linux.files.most_kept`.

Members are found by a *walk* through the ``children`` files (14 µs a member), or by *joining*: listing ``/proc``
(0.25 µs a process of the machine) and reading the parents of new processes only. Both are needed after a fork only:
while the kernel's counter of process numbers (:class:`~memwarden.readers.linux.pid_counter.PidCounter`) stands still, a
sample is one ``pread`` a member and one of the counter. A process that a member forked before a sample starts is in
that sample. The samples 1, 2, 4, … 64 and every 64th after the counter moved join again, for a fork that was under way
and for a process that the counter did not count (a restored checkpoint); every 256th sample walks, for a number that
was reused after the counter went around. Without a counter every sample
walks. A process whose links to the tree all ended between two samples is found through ``adopter`` only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TreeMemory
from memwarden.readers.linux.files import most_kept, read_error, read_once
from memwarden.readers.linux.pid_counter import PidCounter
from memwarden.readers.linux.process import read_stat
from memwarden.readers.linux.statm import SIZE, StatmFile

#: Walks are made, and names are read again, at least this often (in samples).
_WALK_EVERY, _NAMES_EVERY = 256, 64
#: More new numbers than this (the counter may also have wrapped around) are not joined: walking is cheaper.
_MOST_NEW = 1000
#: Samples after the first in which a new member's name is read again: a launcher execs its command.
_YOUNG = 3

_LIVE, _ZOMBIE, _UNREADABLE = range(3)


class _Member(StatmFile):
    __slots__ = ("key", "name", "since", "state")
    key: ProcessKey
    name: str

    def __init__(self, path: str, since: int) -> None:
        super().__init__(path)
        self.since, self.state = since, _LIVE


class TreeReader:
    """Reads :class:`TreeMemory` of the process ``pid`` and everything that it started.

    ``adopter`` is a process that orphans of this tree are given to (a child subreaper, the init of a container); its
    children count as members, except those in ``strangers``. ``keep`` bounds the members with an open descriptor (one
    each), by default :func:`most_kept`.
    """

    name = "tree"

    def __init__(
        self,
        pid: int,
        proc: str = "/proc",
        *,
        adopter: int | None = None,
        strangers: Collection[int] = (),
        keep: int | None = None,
    ) -> None:
        self._proc, self._root_pid, self._adopter = proc, pid, adopter
        self._keep = most_kept() if keep is None else keep
        self._strangers = frozenset(strangers)
        self._members: dict[int, _Member] = {}
        self._root: ProcessKey | None = None
        self._has_children_files: bool | None = None
        self._samples = self._kept = 0
        self._counter = PidCounter(proc)
        self._last: int | None = None  # the counter at the last sample
        self._quiet = 0  # samples since it moved
        self._listed: set[str] = set()  # in /proc when members were last looked for
        self._walked = -_WALK_EVERY  # at which sample
        self._incomplete = False  # the last walk left gaps: walk until none is left
        self._young: list[_Member] = []
        # The members in columns while none comes or goes: first those with a descriptor.
        self._stale = True
        self._rows: list[_Member] = []
        self._aside: list[_Member] = []  # zombies, and those that cannot be read
        self._fds: list[int] = []
        self._before: list[bytes | None] = []
        self._rss: list[int] = []
        self._shared: list[int] = []
        self._keys: tuple[ProcessKey, ...] = ()
        self._names: tuple[str, ...] = ()
        self._tree: TreeMemory | None = None

    def read(self) -> dict[str, Any]:
        """Return ``{"tree": TreeMemory, "gaps": (…)}``; raises :class:`ReadError` (``gone``) without any member."""
        tree, gaps = self.sample()
        return {"tree": tree, "gaps": gaps}

    def sample(self) -> tuple[TreeMemory, tuple[Gap, ...]]:
        """Return the tree as it is now, and what could not be read of it."""
        gaps: list[Gap] = []
        zombies = self._step(gaps)
        if self._root is None and gaps:
            raise ReadError(*gaps[0])  # the root may run: not known is not "gone"
        if self._root is None or not (self._rows or zombies or gaps):
            raise ReadError("tree", f"{self._proc}/{self._root_pid}", "gone", "no process of the tree is left")
        tree = self._tree
        if tree is None or tree.zombies != zombies:
            tree = self._tree = TreeMemory(
                self._root, self._keys, self._names, tuple(self._rss), tuple(self._shared), zombies
            )
        return tree, tuple(gaps)

    @property
    def first_thread_ended(self) -> bool:
        """True if the root's first thread had ended at the last sample, and others run."""
        root = self._members.get(self._root_pid)
        return root is not None and root.first_thread_ended

    def members(self) -> list[ProcessKey]:
        """Return the members now, zombies included, after a walk."""
        self._step([], walk=True)
        return [member.key for member in self._members.values()]

    def _step(self, gaps: list[Gap], *, walk: bool = False) -> int:
        self._samples += 1
        last, before = self._counter.last(), self._last
        self._quiet = self._quiet + 1 if last == before else 0
        self._last, quiet = last, self._quiet
        due = quiet & (quiet - 1) == 0 or quiet % _NAMES_EVERY == 0
        must_walk = last is None or walk or self._incomplete or self._samples - self._walked >= _WALK_EVERY
        if must_walk or (due and not self._join(before, last)):
            self._walk(gaps)
        self._read_names()
        return self._measure(gaps)

    # --- members ------------------------------------------------------------------------------------

    def _join(self, before: int | None, last: int | None) -> bool:
        """Add new processes that have a member as parent; returns False where only a walk can tell."""
        members, listed = self._members, self._listed
        if before is None or last is None or not 0 <= last - before <= _MOST_NEW:
            return False
        try:
            self._listed = set(os.listdir(self._proc))
        except OSError:
            return False
        new = {name for name in self._listed - listed if name.isdecimal()}
        new.update(self._listed.intersection(map(str, range(before + 1, last + 1))))  # numbers that were reused
        if len(new) > 2 * len(members) + 8:
            return False
        parents: dict[int, int] = {}
        try:
            for stat in [read_stat(pid, self._proc) for pid in new]:
                member = members.get(stat.pid)
                if member is not None and member.key.start != stat.start:
                    self._drop(member)
                    member = None
                if member is None:
                    parents[stat.pid] = stat.ppid
            while found := [pid for pid, ppid in parents.items() if self._is_child(pid, ppid)]:
                for pid in found:
                    del parents[pid]
                    members[pid] = self._add(pid)
        except ReadError:  # ended meanwhile, or another user's behind hidepid
            return False
        return True

    def _is_child(self, pid: int, ppid: int) -> bool:
        parent = self._members.get(ppid)
        if parent is not None and not self._is_current(parent):  # another process has its number by now
            self._drop(parent)
            parent = None
        return parent is not None or (ppid == self._adopter and pid not in self._strangers)

    def _walk(self, gaps: list[Gap]) -> None:
        """Go from the root through the children of all members, and to known orphans."""
        known, found = self._members, {}
        gaps_before = len(gaps)
        self._walked = self._samples
        if self._last is not None:
            with contextlib.suppress(OSError):
                self._listed = set(os.listdir(self._proc))
        root = known.get(self._root_pid)
        if root is not None and not self._is_current(root):
            self._drop(root)
            root = None
        parents = None if self._children_files() else self._scan_parents()
        # Only its pid leads to the root: another process under that pid would bring in its own children.
        todo = [self._root_pid] if root is not None or self._root is None else []
        if self._adopter is not None:
            todo += self._adopted(parents, gaps)
        orphans = iter(list(known))
        while True:
            while todo:
                pid = todo.pop()
                if pid in found:
                    continue
                member = known.get(pid)
                try:
                    if member is None or not self._is_current(member):
                        member = self._add(pid)
                except ReadError as error:
                    if error.why != "gone":
                        gaps.append(Gap(error.what, error.where, error.why, error.detail))
                    continue
                found[pid] = member
                todo += self._children(pid, gaps) if parents is None else parents.get(pid, [])
            # Members that no living parent leads to: orphans, if they are still the same process.
            for pid in orphans:
                if pid not in found and self._is_current(known[pid]):
                    todo.append(pid)
                    break
            else:
                break
        self._incomplete = len(gaps) > gaps_before
        for pid, member in list(known.items()):
            if found.get(pid) is not member:
                self._drop(member)
        self._members = found

    def _add(self, pid: int) -> _Member:
        """Return a new member. Raises :class:`ReadError`."""
        member = _Member(f"{self._proc}/{pid}/statm", self._samples)
        kept = self._kept < self._keep and member.open()
        try:
            stat = read_stat(pid, self._proc)  # after opening: the descriptor answers for this process alone
        except ReadError:
            member.close()
            raise
        member.key, member.name, member.rss = ProcessKey(stat.pid, stat.start), stat.name, stat.rss
        self._kept += kept
        if pid == self._root_pid and self._root is None:
            self._root = member.key
        self._young.append(member)
        self._stale = True
        return member

    def _drop(self, member: _Member) -> None:
        self._kept -= member.close()
        if self._members.get(member.key.pid) is member:
            del self._members[member.key.pid]
        self._stale = True

    def _is_current(self, member: _Member) -> bool:
        """Return whether the pid still means this member; a kept descriptor answers for the price of one call."""
        if member.fd < 0:
            return self._is_same(member)
        try:
            member.fetch()
        except OSError as error:
            return read_error("statm", member.path, error).why not in ("gone", "absent")
        return True

    def _is_same(self, member: _Member) -> bool:
        try:
            return read_stat(member.key.pid, self._proc).start == member.key.start
        except ReadError:
            return False

    def _read_names(self) -> None:
        """Read names again, which change at exec: of new members, and now and then of all."""
        due = list(self._members.values()) if self._samples % _NAMES_EVERY == 0 else self._young
        self._young = [member for member in self._young if self._samples - member.since < _YOUNG]
        for member in due:
            if member.since == self._samples or self._members.get(member.key.pid) is not member:
                continue
            try:
                stat = read_stat(member.key.pid, self._proc)
            except ReadError as error:
                if error.why == "gone":
                    self._drop(member)
                continue  # a name is not worth a gap
            if stat.start != member.key.start:
                self._drop(member)
            elif stat.name != member.name:
                member.name, self._stale = stat.name, True

    # --- sizes --------------------------------------------------------------------------------------

    def _measure(self, gaps: list[Gap]) -> int:
        """Update the columns; return the number of zombies."""
        if self._stale:
            self._arrange()
        zombies = self._measure_aside(gaps) if self._aside else 0
        fds, pread = self._fds, os.pread
        try:
            now: list[bytes] = [pread(fd, SIZE, 0) for fd in fds]
        except OSError:  # one has ended: read one by one
            now = []
        if now != self._before[: len(now)]:
            for at, data in enumerate(now):
                if data != self._before[at]:
                    zombies += self._update(at, data, gaps)
        for at in range(len(now), len(self._rows)):
            member = self._rows[at]
            try:
                data = member.fetch()
            except OSError as error:
                self._fail(member, read_error("statm", member.path, error), gaps)
                continue
            if data != self._before[at]:
                zombies += self._update(at, data, gaps)
        if self._stale:
            self._arrange()
        return zombies

    def _update(self, at: int, data: bytes, gaps: list[Gap]) -> int:
        """Take in a member's changed ``statm``; return 1 for a zombie."""
        member = self._rows[at]
        try:
            alive = member.parse(data)
        except ReadError as error:
            self._fail(member, error, gaps)
            return 0
        if not alive:
            member.state, self._stale = _ZOMBIE, True
            return 1
        if member.data is not data:  # read of another thread, with another descriptor
            self._stale = True
        self._rss[at], self._shared[at], self._before[at], self._tree = member.rss, member.shared, data, None
        return 0

    def _fail(self, member: _Member, error: ReadError, gaps: list[Gap]) -> None:
        # Absent means that the process has ended, as long as there is a /proc at all.
        if error.why in ("gone", "absent"):
            self._drop(member)
        else:
            gaps.append(Gap(error.what, error.where, error.why, error.detail))
            member.state, self._stale = _UNREADABLE, True

    def _measure_aside(self, gaps: list[Gap]) -> int:
        """Read zombies until they are reaped, and members that could not be read; return the number of zombies."""
        zombies = 0
        for member in self._aside:
            try:
                alive = member.parse(member.fetch())
            except OSError as error:
                self._fail(member, read_error("statm", member.path, error), gaps)
            except ReadError as error:
                self._fail(member, error, gaps)
            else:
                if alive:
                    member.state, self._stale = _LIVE, True
                else:
                    member.state = _ZOMBIE
                    zombies += 1
        return zombies

    def _arrange(self) -> None:
        """Build the columns again, after a member came, went or changed its state."""
        members = list(self._members.values())
        for member in members if self._kept < min(self._keep, len(members)) else ():
            if member.fd < 0 and self._kept < self._keep and member.open():
                if self._is_same(member):  # asked after opening, as in _add
                    self._kept += 1
                else:
                    member.close()
        live = [member for member in members if member.state == _LIVE]
        kept = [member for member in live if member.fd >= 0]
        rows = self._rows = kept + [member for member in live if member.fd < 0]
        self._aside = [member for member in members if member.state != _LIVE]
        self._fds = [member.fd for member in kept]
        self._before = [member.data for member in rows]
        self._rss = [member.rss for member in rows]
        self._shared = [member.shared for member in rows]
        self._keys = tuple([member.key for member in rows])
        self._names = tuple([member.name for member in rows])
        self._tree, self._stale = None, False

    # --- children -----------------------------------------------------------------------------------

    def _children(self, pid: int, gaps: list[Gap]) -> list[int]:
        base = f"{self._proc}/{pid}/task"
        try:
            # A task directory has two links and one for each thread: one stat instead of a listing.
            single = os.stat(base).st_nlink == 3
            threads = [str(pid)] if single else os.listdir(base)
        except OSError as error:
            failed = read_error("task", base, error)
            if failed.why not in ("gone", "absent"):
                gaps.append(Gap("children", base, failed.why, failed.detail))
            return []
        children: list[int] = []
        for tid in threads:
            try:
                children += _read_pids(f"{base}/{tid}/children")
            except ReadError as error:
                if error.why not in ("gone", "absent"):
                    gaps.append(Gap("children", error.where, error.why, error.detail))
        return children

    def _adopted(self, parents: dict[int, list[int]] | None, gaps: list[Gap]) -> list[int]:
        assert self._adopter is not None
        if parents is not None:
            pids = parents.get(self._adopter, [])
        elif os.path.isdir(f"{self._proc}/{self._adopter}"):
            pids = self._children(self._adopter, gaps)
        else:
            gaps.append(Gap("adopter", f"{self._proc}/{self._adopter}", "absent", "no process has this pid"))
            return []
        return [pid for pid in pids if pid not in self._strangers]

    def _children_files(self) -> bool:
        """Return whether this kernel has ``children`` files (CONFIG_PROC_CHILDREN)."""
        if self._has_children_files is None:
            base = f"{self._proc}/{self._root_pid}/task"
            if not os.path.isdir(base):
                return True  # gone: the walk will show it
            self._has_children_files = os.path.exists(f"{base}/{self._root_pid}/children")
        return self._has_children_files

    def _scan_parents(self) -> dict[int, list[int]]:
        parents: dict[int, list[int]] = {}
        try:
            listed = os.listdir(self._proc)
        except OSError as error:
            raise read_error("processes", self._proc, error) from None
        for entry in listed:
            if entry.isdecimal():
                try:
                    parents.setdefault(read_stat(entry, self._proc).ppid, []).append(int(entry))
                except ReadError:
                    continue  # ended, or another user's behind hidepid: not a member
        return parents

    def close(self) -> None:
        """Close the descriptors; the members are remembered."""
        for member in self._members.values():
            member.close()
        self._kept, self._stale, self._last, self._walked = 0, True, None, -_WALK_EVERY
        self._counter.close()


def _read_pids(path: str) -> list[int]:
    data = read_once("children", path, 65536)
    try:
        return [int(pid) for pid in data.split()]
    except ValueError:
        raise ReadError("children", path, "malformed", f"{data[:40]!r}") from None
