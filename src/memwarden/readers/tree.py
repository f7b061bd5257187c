"""A whole process tree: who belongs to it, and what each member holds.

What it must not miss, each seen on Linux 6.18:

* ``/proc/PID/task/TID/children`` lists the children that *this thread* forked, and gives at most a page
  (some 680 pids) for one read; so every thread is read, until nothing comes.
* A member whose parent has ended hangs under another process. It stays a member by its identity (pid and
  start time), and so do its children.
* A zombie's ``statm`` reads zeros without an error.
* A kept descriptor costs some 6 KiB of kernel memory and one of perhaps 1024 file numbers: only the
  largest and active members have one.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TreeMemory
from memwarden.readers.files import KeptFile, read_error, read_once
from memwarden.readers.process import Stat, parse_statm, read_stat

#: A read of ``children`` this long may have been cut at the page.
_NEARLY_A_PAGE = 4096 - 32
#: A member's name changes at exec: it is read again at looks 1, 2, 4, … and then this often, and when the size
#: has halved or doubled since.
_RENAME_EVERY = 64


class _Member:
    __slots__ = ("children", "key", "looks", "name", "named", "ppid", "rss", "shared", "statm")

    def __init__(self, pid: int, stat: Stat) -> None:
        self.key = ProcessKey(pid, stat.start)
        self.name, self.ppid = stat.name, stat.ppid
        self.rss, self.shared, self.looks = stat.rss, 0, 0
        self.named = stat.rss  # its size when its name was read
        self.statm: KeptFile | None = None
        self.children: KeptFile | None = None

    def close(self) -> None:
        for file in (self.statm, self.children):
            if file is not None:
                file.close()
        self.statm = self.children = None


class TreeReader:
    """Reads :class:`TreeMemory` of the process ``pid`` and everything that it started.

    ``adopter`` is a process that orphans of this tree are given to (a child subreaper, the init of a
    container); its children count as members, except those in ``strangers``. ``keep`` bounds the members
    with open descriptors (two each).
    """

    name = "tree"

    def __init__(
        self,
        pid: int,
        proc: str = "/proc",
        *,
        adopter: int | None = None,
        strangers: Collection[int] = (),
        keep: int = 128,
    ) -> None:
        self._proc, self._root_pid, self._adopter, self._keep = proc, pid, adopter, keep
        self._strangers = frozenset(strangers)
        self._members: dict[int, _Member] = {}
        self._root: ProcessKey | None = None
        self._kept = self._reads = 0
        self._lists_children: bool | None = None
        self._adopter_file: KeptFile | None = None

    def read(self) -> dict[str, Any]:
        """``{"tree": TreeMemory, "gaps": (…)}``; raises :class:`ReadError` (``gone``) when no member is left."""
        tree, gaps = self.look()
        return {"tree": tree, "gaps": gaps}

    def look(self) -> tuple[TreeMemory, tuple[Gap, ...]]:
        """The tree as it is now, and what could not be read of it."""
        gaps: list[Gap] = []
        members = self._walk(gaps)
        self._reads += 1
        if self._kept > self._keep or (self._reads & 63) == 0:
            self._choose_kept(members)
        keys: list[ProcessKey] = []
        names: list[str] = []
        sizes: list[int] = []
        shares: list[int] = []
        zombies = 0
        for pid, member in members.items():
            try:
                self._measure(member)
            except ReadError as error:
                if error.why == "gone":
                    if error.what == "zombie":
                        zombies += 1
                    else:
                        self._drop(self._members.pop(pid, None))
                else:
                    gaps.append(Gap(error.what, error.where, error.why, error.detail))
                continue
            keys.append(member.key)
            names.append(member.name)
            sizes.append(member.rss)
            shares.append(member.shared)
        if self._root is None and gaps:
            raise ReadError(*gaps[0])  # it may well live: what we do not know is not "gone"
        if self._root is None or not (keys or zombies or gaps):
            raise ReadError("tree", f"{self._proc}/{self._root_pid}", "gone", "no process of the tree is left")
        return (
            TreeMemory(self._root, tuple(keys), tuple(names), tuple(sizes), tuple(shares), zombies),
            tuple(gaps),
        )

    def members(self) -> list[ProcessKey]:
        """Who belongs to the tree now, without measuring; zombies included."""
        return [member.key for member in self._walk([]).values()]

    def _walk(self, gaps: list[Gap]) -> dict[int, _Member]:
        known, found = self._members, {}
        root = known.get(self._root_pid)
        if root is not None and not self._stands(root):
            # Nothing but its pid leads to the root: another process under it would bring in its own children.
            self._drop(known.pop(self._root_pid))
        parents = self._scan_parents() if self._children_unlisted() else None
        todo = [self._root_pid]
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
                    children = self._children(member, gaps) if parents is None else parents.get(pid, [])
                except ReadError as error:
                    if error.why != "gone":
                        gaps.append(Gap(error.what, error.where, error.why, error.detail))
                    continue
                found[pid] = member
                todo += children
            # Members that no living parent leads to: orphans, if they are still the same process.
            for pid in lost:
                if pid not in found and self._is_same(known[pid]):
                    todo.append(pid)
                    break
            else:
                break
        for pid, member in known.items():
            if pid not in found:
                self._drop(member)
        self._members = found
        return dict(found)

    def _drop(self, member: _Member | None) -> None:
        if member is not None and member.statm is not None:
            self._kept -= 1
            member.close()

    def _meet(self, pid: int) -> _Member:
        stat = read_stat(pid, self._proc)
        member = _Member(pid, stat)
        if pid == self._root_pid:
            if self._root is None:
                self._root = member.key
            elif member.key != self._root:
                raise ReadError(
                    "process",
                    f"{self._proc}/{pid}",
                    "gone",
                    "the pid belongs to another process now",
                )
        if self._kept < self._keep:
            self._keep_open(member)
        return member

    def _stands(self, member: _Member) -> bool:
        """Whether the pid still means this member; a kept descriptor answers for the price of one call."""
        if member.statm is None:
            return self._is_same(member)
        try:
            member.statm.read()
        except ReadError as error:
            return error.why not in ("gone", "absent")
        return True

    def _is_same(self, member: _Member) -> bool:
        try:
            return read_stat(member.key.pid, self._proc).start == member.key.start
        except ReadError:
            return False

    def _measure(self, member: _Member) -> None:
        """Bring a member's figures up to date. Raises ReadError; ``what`` is ``"zombie"`` for one."""
        pid = member.key.pid
        looks = member.looks = member.looks + 1
        renew = looks & (looks - 1) == 0 if looks < _RENAME_EVERY else looks % _RENAME_EVERY == 0
        if member.statm is None or renew or not member.named / 2 <= member.rss <= member.named * 2:
            stat = read_stat(pid, self._proc)
            if stat.start != member.key.start:
                raise ReadError(
                    "process",
                    f"{self._proc}/{pid}",
                    "gone",
                    "the pid belongs to another process now",
                )
            member.name, member.rss = stat.name, stat.rss
            member.named = stat.rss
            if stat.state in "ZX":
                raise ReadError("zombie", f"{self._proc}/{pid}", "gone")
            if member.statm is None and not renew:
                member.shared = min(member.shared, member.rss)
                return
        file = member.statm or KeptFile("statm", f"{self._proc}/{pid}/statm", 128)
        try:
            virtual, member.rss, member.shared = parse_statm(file.read(), file.path)
        except ReadError as error:
            # Absent means that the process has ended, as long as there is a /proc at all.
            if error.why == "absent":
                raise ReadError("process", file.path, "gone") from None
            raise
        finally:
            if member.statm is None:
                file.close()
        if virtual == 0:
            raise ReadError("zombie", f"{self._proc}/{pid}", "gone")

    # --- children ---------------------------------------------------------------------------------

    def _children(self, member: _Member, gaps: list[Gap]) -> list[int]:
        pid = member.key.pid
        base = f"{self._proc}/{pid}/task"
        try:
            # A task directory has two links and one for each thread: one stat instead of a listing.
            single = os.stat(base).st_nlink == 3
            threads = [str(pid)] if single else os.listdir(base)
        except OSError as error:
            failed = read_error("task", base, error)
            if failed.why != "absent":
                gaps.append(Gap("children", base, failed.why, failed.detail))
            return []
        children: list[int] = []
        for tid in threads:
            kept = member.children if tid == str(pid) else None
            file = kept or KeptFile("children", f"{base}/{tid}/children", 8192)
            try:
                children += _parse_pids(file)
            except ReadError as error:
                if error.why not in ("gone", "absent"):
                    gaps.append(Gap("children", file.path, error.why, error.detail))
            finally:
                if kept is None:
                    file.close()
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
            for tid in threads:
                file = KeptFile("children", f"{base}/{tid}/children", 8192)
                try:
                    pids += _parse_pids(file)
                except ReadError:
                    continue  # a thread of the adopter that has just ended
                finally:
                    file.close()
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
        for entry in os.listdir(self._proc):
            if entry.isdecimal():
                try:
                    parents.setdefault(read_stat(entry, self._proc).ppid, []).append(int(entry))
                except ReadError:
                    continue  # ended, or another user's behind hidepid: not one of ours
        return parents

    # --- descriptors ------------------------------------------------------------------------------

    def _keep_open(self, member: _Member) -> None:
        base = f"{self._proc}/{member.key.pid}"
        member.statm = KeptFile("statm", f"{base}/statm", 128)
        member.children = KeptFile("children", f"{base}/task/{member.key.pid}/children", 8192)
        self._kept += 1

    def _choose_kept(self, members: dict[int, _Member]) -> None:
        """Descriptors for the largest, none for the rest."""
        ranked = sorted(members.values(), key=lambda member: -member.rss)
        for member in ranked[self._keep :]:
            member.close()
        for member in ranked[: self._keep]:
            if member.statm is None:
                self._keep_open(member)
        self._kept = min(self._keep, len(ranked))

    def close(self) -> None:
        """Give the descriptors back; the members are remembered."""
        for member in self._members.values():
            member.close()
        self._kept = 0


def _parse_pids(file: KeptFile) -> list[int]:
    data = file.read()
    if len(data) >= _NEARLY_A_PAGE:
        data = read_once("children", file.path, 65536)
    try:
        return [int(pid) for pid in data.split()]
    except ValueError:
        raise ReadError("children", file.path, "malformed", f"{data[:40]!r}") from None
