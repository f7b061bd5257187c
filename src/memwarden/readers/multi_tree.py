"""Several process trees as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TreeMemory
from memwarden.protocols import Reader
from memwarden.readers.collect import gap_of
from memwarden.readers.exit_status import ExitStatus
from memwarden.readers.factory import tree_reader


class EndedTree(NamedTuple):
    """A tree after the end of its root process. Its reader of the exit status is to be closed by the caller."""

    key: ProcessKey
    name: str
    #: Processes of its tree that still run.
    left: int
    exit: ExitStatus


class _Tree:
    """One of the trees."""

    def __init__(self, pid: int, reader: Reader) -> None:
        self.pid, self.reader = pid, reader
        self.exit: ExitStatus | None = None
        self.root: ProcessKey | None = None
        self.name = ""
        #: True while the root runs, and while any process of the tree does, as far as is known.
        self.root_runs = self.runs = True

    def close(self) -> None:
        self.reader.close()
        if self.exit is not None and self.root_runs:  # otherwise the receiver of the EndedTree closes it
            self.exit.close()
            self.exit = None


class MultiTreeReader:
    """Reads the trees of these processes as one :class:`TreeMemory`; a process of several counts once.

    ``find_pids`` returns further pids to include at each sample. A tree is dropped when no process of it is left;
    ``ended`` collects the roots that have ended, for the caller to take. The result's root is the first tree's.
    """

    name = "trees"

    def __init__(
        self,
        pids: Iterable[int] = (),
        find_pids: Callable[[], Iterable[int]] | None = None,
        *,
        reader: Callable[[int], Reader] = tree_reader,
    ) -> None:
        self._reader = reader
        self._trees = {pid: _Tree(pid, reader(pid)) for pid in dict.fromkeys(pids)}
        self._find_pids = find_pids
        self.ended: list[EndedTree] = []
        #: The result of the last sample; None where no process is left.
        self.tree: TreeMemory | None = None

    @property
    def roots(self) -> tuple[ProcessKey, ...]:
        """The roots that run, in the order in which they were added."""
        return tuple([tree.root for tree in self._trees.values() if tree.root_runs and tree.root is not None])

    def read(self) -> dict[str, Any]:
        """Return ``{"tree": TreeMemory, "gaps": (…)}``, without a tree where no process is left."""
        gaps: list[Gap] = []
        found = self._read_trees(list(self._trees), gaps)
        if self._find_pids is not None:
            found += self._read_trees(self._add(found, gaps), gaps)
        self.tree = found[0] if len(found) == 1 else _joined(found)
        return {"gaps": tuple(gaps)} if self.tree is None else {"tree": self.tree, "gaps": tuple(gaps)}

    def _read_trees(self, pids: list[int], gaps: list[Gap]) -> list[TreeMemory]:
        found = []
        for pid in pids:
            each = self._trees[pid]
            tree = self._read_tree(each, gaps)
            if tree is not None:
                found.append(tree)
            elif not each.runs:
                del self._trees[pid]
                each.close()
        return found

    def _add(self, found: list[TreeMemory], gaps: list[Gap]) -> list[int]:
        """Add a tree for each further pid that is no member of a tree that was just read."""
        assert self._find_pids is not None
        try:
            pids = self._find_pids()
        except ReadError as error:
            gaps.append(gap_of(error))
            return []
        members = {key.pid for tree in found for key in tree.keys}
        added = [pid for pid in sorted(pids) if pid not in self._trees and pid not in members]
        self._trees.update({pid: _Tree(pid, self._reader(pid)) for pid in added})
        return added

    def _read_tree(self, each: _Tree, gaps: list[Gap]) -> TreeMemory | None:
        """Return the tree; None where no process of it is left, or nothing can be read now."""
        if each.exit is None:
            each.exit = ExitStatus(each.pid)  # before reading: it then belongs to the process that is read
        tree: TreeMemory | None = None
        try:
            facts = each.reader.read()
            tree = facts["tree"]
            found = facts.get("gaps", ())
        except ReadError as error:
            found = () if error.why in ("gone", "absent") else (gap_of(error),)
        gaps += found
        if tree is not None:
            each.root = each.root or tree.root
            if tree.root in tree.keys:
                each.name = tree.names[tree.keys.index(tree.root)]
                return tree
        if found:  # a process that cannot be read may still run
            return tree
        left = 0 if tree is None else len(tree.keys)
        each.runs = left > 0
        if each.root_runs and each.name and each.root is not None:
            each.root_runs = False
            self.ended.append(EndedTree(each.root, each.name, left, each.exit))
        return tree if each.runs else None

    def close(self) -> None:
        """Close the descriptors; the trees are remembered, their exit statuses are not."""
        for each in self._trees.values():
            each.close()
        for ended in self.ended:
            ended.exit.close()


def _joined(trees: list[TreeMemory]) -> TreeMemory | None:
    if not trees:
        return None
    rows: dict[ProcessKey, tuple[str, int, int | None]] = {}
    for tree in trees:
        shared = tree.shared if len(tree.shared) == len(tree.keys) else (None,) * len(tree.keys)
        rows.update(zip(tree.keys, zip(tree.names, tree.rss, shared, strict=True), strict=True))
    known = tuple([row[2] for row in rows.values() if row[2] is not None])
    return TreeMemory(
        trees[0].root,
        tuple(rows),
        tuple([row[0] for row in rows.values()]),
        tuple([row[1] for row in rows.values()]),
        known if len(known) == len(rows) else (),
        sum(tree.zombies for tree in trees),
    )
