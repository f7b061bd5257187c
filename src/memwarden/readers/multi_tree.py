"""Several process trees as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from memwarden.errors import ReadError
from memwarden.model.facts import Gap, ProcessKey, TreeMemory
from memwarden.protocols import Reader
from memwarden.readers.exit_status import Exit
from memwarden.readers.factory import tree_reader


class End(NamedTuple):
    """The root of a tree has ended."""

    key: ProcessKey
    name: str
    #: Processes of its tree that live on.
    left: int
    exit: Exit


class _Tree:
    """One of them."""

    def __init__(self, pid: int, reader: Reader) -> None:
        self.pid, self.reader = pid, reader
        self.exit: Exit | None = None
        self.root: ProcessKey | None = None
        self.name = ""
        #: Whether the root lives, and whether anybody of the tree does, as far as is known.
        self.stands = self.lives = True

    def read(self) -> Mapping[str, Any]:
        if self.exit is None:
            self.exit = Exit(self.pid)  # before the look: whoever that finds is the one that this answers for
        return self.reader.read()

    def close(self) -> None:
        self.reader.close()
        if self.exit is not None and self.stands:  # else whoever is told of the end asks, and closes
            self.exit.close()
            self.exit = None


class MultiTreeReader:
    """Reads the trees of these processes as one :class:`TreeMemory`; a process of several counts once.

    ``newcomers`` gives pids that are to be in it at a look. A tree leaves when nobody of it is left; ``ends`` collects
    the roots that have ended, until somebody takes them away. The result's root is the first tree's.
    """

    name = "forest"

    def __init__(
        self,
        pids: Iterable[int] = (),
        newcomers: Callable[[], Iterable[int]] | None = None,
        *,
        reader: Callable[[int], Reader] = tree_reader,
    ) -> None:
        self._reader = reader
        self._trees = {pid: _Tree(pid, reader(pid)) for pid in dict.fromkeys(pids)}
        self._newcomers = newcomers
        self.ends: list[End] = []
        #: What the last look saw; None where nobody is left.
        self.tree: TreeMemory | None = None

    @property
    def roots(self) -> tuple[ProcessKey, ...]:
        """The roots that live, in the order in which they came."""
        return tuple([tree.root for tree in self._trees.values() if tree.stands and tree.root is not None])

    def read(self) -> dict[str, Any]:
        """``{"tree": TreeMemory, "gaps": (…)}``, without a tree where nobody is left."""
        gaps: list[Gap] = []
        seen = self._look_at(list(self._trees), gaps)
        if self._newcomers is not None:
            seen += self._look_at(self._admit(seen, gaps), gaps)
        self.tree = seen[0] if len(seen) == 1 else _joined(seen)
        return {"gaps": tuple(gaps)} if self.tree is None else {"tree": self.tree, "gaps": tuple(gaps)}

    def _look_at(self, pids: list[int], gaps: list[Gap]) -> list[TreeMemory]:
        seen = []
        for pid in pids:
            each = self._trees[pid]
            tree = self._look(each, gaps)
            if tree is not None:
                seen.append(tree)
            elif not each.lives:
                del self._trees[pid]
                each.close()
        return seen

    def _admit(self, seen: list[TreeMemory], gaps: list[Gap]) -> list[int]:
        """Who comes and is no member of a tree that was just looked at."""
        assert self._newcomers is not None
        try:
            pids = self._newcomers()
        except ReadError as error:
            gaps.append(Gap(error.what, error.where, error.why, error.detail))
            return []
        members = {key.pid for tree in seen for key in tree.keys}
        came = [pid for pid in sorted(pids) if pid not in self._trees and pid not in members]
        self._trees.update({pid: _Tree(pid, self._reader(pid)) for pid in came})
        return came

    def _look(self, each: _Tree, gaps: list[Gap]) -> TreeMemory | None:
        """The tree; None where nobody of it is left, or nothing can be read now."""
        tree: TreeMemory | None = None
        try:
            facts = each.read()
            tree = facts["tree"]
            found = facts.get("gaps", ())
        except ReadError as error:
            found = () if error.why in ("gone", "absent") else (Gap(error.what, error.where, error.why, error.detail),)
        gaps += found
        if tree is not None:
            each.root = each.root or tree.root
            if tree.root in tree.keys:
                each.name = tree.names[tree.keys.index(tree.root)]
                return tree
        if found:  # whoever cannot be read may well live
            return tree
        left = 0 if tree is None else len(tree.keys)
        each.lives = left > 0
        if each.stands and each.name and each.root is not None and each.exit is not None:
            each.stands = False
            self.ends.append(End(each.root, each.name, left, each.exit))
        return tree if each.lives else None

    def close(self) -> None:
        """Give the descriptors back; who is in it is remembered, but how they end can be told no more."""
        for each in self._trees.values():
            each.close()
        for end in self.ends:
            end.exit.close()


def _joined(trees: list[TreeMemory]) -> TreeMemory | None:
    if not trees:
        return None
    rows: dict[ProcessKey, tuple[str, int, int | None]] = {}
    for tree in trees:
        shared = tree.shared if len(tree.shared) == len(tree.keys) else (None,) * len(tree.keys)
        rows.update(zip(tree.keys, zip(tree.names, tree.rss, shared, strict=True), strict=True))
    told = tuple([row[2] for row in rows.values() if row[2] is not None])
    return TreeMemory(
        trees[0].root,
        tuple(rows),
        tuple([row[0] for row in rows.values()]),
        tuple([row[1] for row in rows.values()]),
        told if len(told) == len(rows) else (),
        sum(tree.zombies for tree in trees),
    )
