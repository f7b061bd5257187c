"""A whole process tree: who belongs to it, and what each member holds.

What it must not miss, each seen on Linux 6.18:

* ``/proc/PID/task/TID/children`` lists the children that *this thread* forked, and gives at most a page
  (some 680 pids) for one read; so every thread is read, until nothing comes.
* A member whose parent has ended hangs under another process. It stays a member by its identity (pid and
  start time), and so do its children.
* A zombie's ``statm`` reads zeros without an error.
* A kept descriptor costs some 6 KiB of kernel memory and one of perhaps 1024 file numbers: only the
  largest members have one, see :func:`~memwarden.readers.linux.files.most_kept`.

**Who is new** is asked only when somebody can be: when the kernel's counter of process numbers
(:class:`~memwarden.readers.linux.new_pids.PidCounter`) has moved. Then there are two exact ways, and the cheaper one is
gone: to *walk* through the ``children`` files of all members (4 µs a thread), or to *list* ``/proc`` (0.25 µs
a process of the machine) and to ask those that are new, or have a number that was given out again, for their
parent. A look at a quiet tree is thus one system call a member and one more.

What is promised: whoever was forked by a member, or by the adopter, before a look begins is found by that look.
Later are found, at the latest after so many looks:

* 32 (the looks 1, 2, 4, … ask again after the counter moved): a fork that was under way, whose number was taken and
  who could not be seen yet; and a child whose parent ended while it was asked;
* 64: whom the counter does not tell, because a restored checkpoint chose its number (a counter that is caught
  standing still while somebody came is not believed again);
* 320, by a walk: who has a listed number again after all numbers were given out between two looks, and whom the
  adopter was given by a stranger.

Where the counter cannot be believed every look is a walk. A process whose every link to the tree ended before
anybody looked cannot be found by anybody; that is what the adopter is for.
:meth:`TreeReader.members` asks each time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TreeMemory
from memwarden.readers.linux.files import most_kept, read_error, read_once
from memwarden.readers.linux.new_pids import Numbers, PidCounter, PidList
from memwarden.readers.linux.process import PAGE, Stat, read_stat
from memwarden.readers.linux.statm import SIZE, StatmFile

#: A member's name changes at exec: it is read again at looks 1, 2, 4, … after it was met and then at least this
#: often, and when the size has halved or doubled since.
_RENAME_EVERY = 64
#: While the counter stands still, newcomers are looked for at least so often (in looks).
_ASK_EVERY = 64
#: And so often everything is asked again: the list, the walk, and who the members without descriptors are.
_AUDIT_EVERY = 256
#: A file of children costs as much as so many processes in the list.
_FILE_IN_LISTED = 20

_LIVE, _ZOMBIE, _UNREADABLE = range(3)


class _Member(StatmFile):
    __slots__ = ("key", "met", "name", "named", "state")

    def __init__(self, pid: int, proc: str, met: int) -> None:
        super().__init__(f"{proc}/{pid}/statm")
        self.met, self.state = met, _LIVE

    def known(self, stat: Stat) -> None:
        self.key, self.name = ProcessKey(stat.pid, stat.start), stat.name
        self.rss = self.named = stat.rss  # the size when its name was read


class TreeReader:
    """Reads :class:`TreeMemory` of the process ``pid`` and everything that it started.

    ``adopter`` is a process that orphans of this tree are given to (a child subreaper, the init of a
    container); its children count as members, except those in ``strangers``. ``keep`` bounds the members
    with an open descriptor (one each); without it :func:`most_kept` does.
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
        self._lists_children: bool | None = None
        self._looks = self._kept = 0
        # Who is new.
        self._counter, self._list = PidCounter(proc), PidList(proc)
        self._last: int | None = None  # the counter at the last look
        self._quiet = 0  # looks since it moved
        self._audited = -_AUDIT_EVERY
        self._files = 0  # children files that the last walk read
        self._troubled = False  # the last walk left gaps: they stand until a walk leaves none
        self._verify = True  # who a member without descriptor is must be asked at this look
        self._renewals: dict[int, list[_Member]] = {}
        # The members in columns, while nobody comes or goes: first those with a descriptor.
        self._stale = True
        self._rows: list[_Member] = []
        self._aside: list[_Member] = []  # zombies, and those that cannot be read
        self._fds: list[int] = []
        self._was: list[bytes | None] = []
        self._rss: list[int] = []
        self._shared: list[int] = []
        self._keys: tuple[ProcessKey, ...] = ()
        self._names: tuple[str, ...] = ()
        self._tree: TreeMemory | None = None

    def read(self) -> dict[str, Any]:
        """``{"tree": TreeMemory, "gaps": (…)}``; raises :class:`ReadError` (``gone``) when no member is left."""
        tree, gaps = self.look()
        return {"tree": tree, "gaps": gaps}

    def look(self) -> tuple[TreeMemory, tuple[Gap, ...]]:
        """The tree as it is now, and what could not be read of it."""
        gaps: list[Gap] = []
        zombies = self._step(gaps)
        if self._root is None and gaps:
            raise ReadError(*gaps[0])  # it may well live: what we do not know is not "gone"
        if self._root is None or not (self._rows or zombies or gaps):
            raise ReadError("tree", f"{self._proc}/{self._root_pid}", "gone", "no process of the tree is left")
        tree = self._tree
        if tree is None or tree.zombies != zombies:
            tree = self._tree = TreeMemory(
                self._root, self._keys, self._names, tuple(self._rss), tuple(self._shared), zombies
            )
        return tree, tuple(gaps)

    def members(self) -> list[ProcessKey]:
        """Who belongs to the tree now, zombies included."""
        self._step([], ask=True)
        return [member.key for member in self._members.values()]

    def _step(self, gaps: list[Gap], *, ask: bool = False) -> int:
        self._looks += 1
        self._discover(gaps, ask=ask)
        if self._looks in self._renewals:
            self._renew()
        return self._measure(gaps)

    # --- who belongs to it --------------------------------------------------------------------------

    def _discover(self, gaps: list[Gap], *, ask: bool = False) -> None:
        last, before = self._counter.last(), self._last
        self._last = last
        self._verify = last is None or before is None
        if last is None:
            self._walk(gaps)
            return
        if last != before:
            self._quiet = 0
            if before is not None:
                self._recheck(Numbers(before, last))
        else:
            self._quiet += 1
        quiet = self._quiet
        if not (ask or self._troubled or quiet & (quiet - 1) == 0 or quiet % _ASK_EVERY == 0):
            return
        known = len(self._members)
        listed = len(self._list.names)
        if self._looks > 1 and self._looks - self._audited >= _AUDIT_EVERY:
            self._audited, self._verify = self._looks, True
            with contextlib.suppress(ReadError):  # the walk will say why
                self._list.renew(last)
            self._walk(gaps)
        elif self._troubled or not listed or (_FILE_IN_LISTED * self._files < listed and self._lists_children):
            self._walk(gaps)
        else:
            self._join(last, gaps)
        came = len(self._members) > known and self._adopter is None  # who is adopted has his number already
        if came and quiet >= _ASK_EVERY and self._counter.last() == last:
            self._counter.doubt()  # it stood still all the while

    def _recheck(self, given: Numbers) -> None:
        """Members whose number was given out again."""
        members = self._members
        few = len(given) < len(members)
        for pid in [pid for pid in given if pid in members] if few else [pid for pid in members if pid in given]:
            if not self._is_same(members[pid]):
                self._drop(members[pid])

    def _join(self, last: int, gaps: list[Gap]) -> None:
        """Who is new in the list, and hangs under a member."""
        members = self._members
        try:
            fresh, _ = self._list.renew(last)
        except ReadError:
            self._list = PidList(self._proc)
            fresh = None
        if fresh is None or len(fresh) > len(members) + self._files:  # asking so many costs more than a walk
            self._walk(gaps)
            return
        parents: dict[int, int] = {}
        ended: set[int] = set()
        for pid in map(int, fresh):
            try:
                stat = read_stat(pid, self._proc)
            except ReadError as error:
                ended.add(pid)
                if error.why == "gone":
                    continue
                self._walk(gaps)  # another user's, perhaps: only who forked it tells whether it is ours
                return
            if pid not in members:  # found by a walk since the last list
                parents[pid] = stat.ppid
        found = True
        while found:
            found = False
            for pid, ppid in list(parents.items()):
                if ppid in members or (ppid == self._adopter and pid not in self._strangers):
                    del parents[pid]
                    try:
                        members[pid] = self._meet(pid)
                    except ReadError as error:
                        ended.add(pid)
                        if error.why != "gone":
                            self._walk(gaps)
                            return
                    else:
                        self._stale = found = True
        # Whose parent ended while we asked, and who hangs below: whose they are is asked again next time.
        while lost := [pid for pid, ppid in parents.items() if ppid in ended]:
            self._quiet = 0
            ended.update(lost)
            for pid in lost:
                del parents[pid]
                self._list.forget(pid)

    def _walk(self, gaps: list[Gap]) -> None:
        """From the root through the children of all, and to the orphans that we know."""
        known, found = self._members, {}
        told, self._files = len(gaps), 0
        root = known.get(self._root_pid)
        if root is not None and not self._stands(root):
            self._drop(root)
            root = None
        parents = self._scan_parents() if self._children_unlisted() else None
        # Nothing but its pid leads to the root: another process under it would bring in its own children.
        todo = [self._root_pid] if root is not None or self._root is None else []
        if self._adopter is not None:
            todo += self._adopted(parents, gaps)
        lost = iter(list(known))
        while True:
            while todo:
                pid = todo.pop()
                if pid in found:
                    continue
                try:
                    member = known.get(pid) or self._meet(pid)
                except ReadError as error:
                    if error.why != "gone":
                        gaps.append(Gap(error.what, error.where, error.why, error.detail))
                    continue
                found[pid] = member
                todo += self._children(pid, gaps) if parents is None else parents.get(pid, [])
            # Members that no living parent leads to: orphans, if they are still the same process.
            for pid in lost:
                if pid not in found and self._stands(known[pid]):
                    todo.append(pid)
                    break
            else:
                break
        self._troubled = len(gaps) > told
        if found.keys() != known.keys():
            for pid, member in list(known.items()):
                if pid not in found:
                    self._drop(member)
            self._members, self._stale = found, True

    def _meet(self, pid: int) -> _Member:
        member = _Member(pid, self._proc, self._looks)
        kept = self._kept < self._keep and member.open()
        try:
            # After opening: while the descriptor answers, it is this process that it answers for.
            stat = read_stat(pid, self._proc)
        except ReadError:
            member.close()
            raise
        member.known(stat)
        self._kept += kept
        if pid == self._root_pid and self._root is None:
            self._root = member.key
        self._renewals.setdefault(self._looks + 1, []).append(member)
        return member

    def _drop(self, member: _Member) -> None:
        self._kept -= member.close()
        if self._members.get(member.key.pid) is member:
            del self._members[member.key.pid]
        self._stale = True

    def _stands(self, member: _Member) -> bool:
        """Whether the pid still means this member; a kept descriptor answers for the price of one call."""
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

    # --- what they hold -----------------------------------------------------------------------------

    def _measure(self, gaps: list[Gap]) -> int:
        """Bring the columns up to date; how many zombies there are."""
        if self._stale or not self._looks % _RENAME_EVERY:
            self._arrange()
        zombies = self._measure_aside(gaps) if self._aside else 0
        fds, was, pread = self._fds, self._was, os.pread
        try:
            now = [pread(fd, SIZE, 0) for fd in fds]
        except OSError:  # somebody has ended: one by one
            for at in range(len(fds)):
                zombies += self._measure_one(at, gaps)
        else:
            if now != was:
                zombies += self._take_all(now, gaps)
        for at in range(len(fds), len(self._rows)):
            zombies += self._measure_one(at, gaps)
        if self._stale:
            self._arrange()
        return zombies

    def _measure_one(self, at: int, gaps: list[Gap]) -> int:
        member = self._rows[at]
        try:
            data = member.fetch()
        except OSError as error:
            return self._fail(member, read_error("statm", member.path, error), gaps)
        if self._verify and member.fd < 0 and not self._is_same(member):
            self._drop(member)
            return 0
        return self._take(at, data, gaps) if data != self._was[at] else 0

    def _take_all(self, now: list[bytes], gaps: list[Gap]) -> int:
        """As :meth:`_take` for each that has changed, with nothing called where all is as usual."""
        zombies = 0
        rows, was, sizes, shares = self._rows, self._was, self._rss, self._shared
        for at, data in enumerate(now):
            if data == was[at]:
                continue
            member = rows[at]
            try:
                virtual, resident, shared, _ = data.split(None, 3)
                rss = int(resident) * PAGE
                if virtual.isdigit() and virtual != b"0" and member.named <= 2 * rss <= 4 * member.named:
                    sizes[at] = member.rss = rss
                    shares[at] = member.shared = int(shared) * PAGE
                    was[at] = member.data = data
                    continue
            except ValueError:
                pass
            zombies += self._take(at, data, gaps)
        self._tree = None
        return zombies

    def _take(self, at: int, data: bytes, gaps: list[Gap]) -> int:
        """What the kernel says of a member has changed. Gives 1 for a zombie."""
        member = self._rows[at]
        try:
            alive = member.take(data)
        except ReadError as error:
            return self._fail(member, error, gaps)
        if not alive:
            member.state, self._stale = _ZOMBIE, True
            return 1
        rss = self._rss[at] = member.rss
        self._shared[at], self._was[at], self._tree = member.shared, data, None
        if not member.named / 2 <= rss <= member.named * 2:
            self._rename(member)
        return 0

    def _fail(self, member: _Member, error: ReadError, gaps: list[Gap]) -> int:
        # Absent means that the process has ended, as long as there is a /proc at all.
        if error.why in ("gone", "absent"):
            self._drop(member)
        else:
            gaps.append(Gap(error.what, error.where, error.why, error.detail))
            member.state, self._stale = _UNREADABLE, True
        return 0

    def _measure_aside(self, gaps: list[Gap]) -> int:
        """Zombies, until they are reaped; and who could not be read, and perhaps can be now."""
        zombies = 0
        for member in self._aside:
            try:
                alive = member.take(member.fetch())
            except OSError as error:
                self._fail(member, read_error("statm", member.path, error), gaps)
            except ReadError as error:
                self._fail(member, error, gaps)
            else:
                if self._verify and member.fd < 0 and not self._is_same(member):
                    self._drop(member)
                elif alive:
                    member.state, self._stale = _LIVE, True
                else:
                    member.state = _ZOMBIE
                    zombies += 1
        return zombies

    def _arrange(self) -> None:
        """The columns anew, after somebody came, went, or changed what he is."""
        if self._kept < min(self._keep, len(self._members)) or not self._looks % _RENAME_EVERY:
            self._choose_kept()
        members = self._members.values()
        kept = [member for member in members if member.state == _LIVE and member.fd >= 0]
        rows = kept + [member for member in members if member.state == _LIVE and member.fd < 0]
        self._rows = rows
        self._aside = [member for member in members if member.state != _LIVE]
        self._fds = [member.fd for member in kept]
        self._was = [member.data for member in rows]
        self._rss = [member.rss for member in rows]
        self._shared = [member.shared for member in rows]
        self._keys = tuple([member.key for member in rows])
        self._names = tuple([member.name for member in rows])
        self._tree, self._stale = None, False

    # --- names --------------------------------------------------------------------------------------

    def _renew(self) -> None:
        for member in self._renewals.pop(self._looks, ()):
            if self._members.get(member.key.pid) is member and self._rename(member):
                # Those that were met together drift apart, so that no look has to ask them all.
                longest = _RENAME_EVERY // 2 + 1 + member.key.pid % (_RENAME_EVERY // 2)
                again = self._looks + min(self._looks - member.met, longest)
                self._renewals.setdefault(again, []).append(member)

    def _rename(self, member: _Member) -> bool:
        """Read its name again; False when it has ended."""
        try:
            stat = read_stat(member.key.pid, self._proc)
        except ReadError as error:
            if error.why != "gone":
                return True  # the name is not worth a gap
            stat = None
        if stat is None or stat.start != member.key.start:
            self._drop(member)
            return False
        member.named = stat.rss
        if stat.name != member.name:
            member.name, self._stale = stat.name, True
        return True

    # --- children ---------------------------------------------------------------------------------

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
        self._files += len(threads)
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
        else:
            pids = []
            base = f"{self._proc}/{self._adopter}/task"
            try:
                threads = os.listdir(base)
            except OSError as error:
                failed = read_error("adopter", base, error)
                gaps.append(Gap("adopter", base, failed.why, failed.detail))
                return []
            self._files += len(threads)
            for tid in threads:
                try:
                    pids += _read_pids(f"{base}/{tid}/children")
                except ReadError:
                    continue  # a thread of the adopter that has just ended
        return [pid for pid in pids if pid not in self._strangers]

    def _children_unlisted(self) -> bool:
        """Whether this kernel was built without ``children`` files (CONFIG_PROC_CHILDREN)."""
        if self._lists_children is None:
            base = f"{self._proc}/{self._root_pid}/task"
            if not os.path.isdir(base):
                return False  # gone: the walk will say so
            self._lists_children = os.path.exists(f"{base}/{self._root_pid}/children")
        return not self._lists_children

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
                    continue  # ended, or another user's behind hidepid: not one of ours
        return parents

    # --- descriptors ------------------------------------------------------------------------------

    def _choose_kept(self) -> None:
        """Descriptors for the largest, none for the rest."""
        ranked = sorted(self._members.values(), key=lambda member: -member.rss)
        for member in ranked[self._keep :]:
            self._kept -= member.close()
        for member in ranked[: self._keep]:
            if member.fd < 0 and member.open():
                self._kept += 1
                if not self._is_same(member):  # asked after opening, as in _meet
                    self._drop(member)

    def close(self) -> None:
        """Give the descriptors back; the members are remembered."""
        for member in self._members.values():
            member.close()
        self._kept, self._stale = 0, True
        self._counter.close()
        self._audited = -_AUDIT_EVERY  # who knows how long nobody looked


def _read_pids(path: str) -> list[int]:
    data = read_once("children", path, 65536)
    try:
        return [int(pid) for pid in data.split()]
    except ValueError:
        raise ReadError("children", path, "malformed", f"{data[:40]!r}") from None
