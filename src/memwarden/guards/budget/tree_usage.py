"""What a block has taken: private memory of this process and of all below it, over what there was when it began.

Counted is what the ledger counts: resident size minus files and shared segments, because the kernel can drop the
former, and the latter are not the block's alone. What was swapped out is not counted. Memory is the process's and not
a thread's, so what other threads take meanwhile counts, too.

Each member of the tree counts by itself, and never less than zero: what is freed of the memory of before is no credit.
A child that was there before counts with what it has grown by, one that came later with all that it has. A forked
child seems to hold what it only shares with its parent. So the sum is an upper bound; :meth:`Taken.confirm` has the
kernel walk the page tables (13 to 20 µs for each MB) and counts each page once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.model.units import KIB
from memwarden.protocols import Reader
from memwarden.readers.linux.process import read_pss

#: For so long a new child that is as large as its parent does not count: one that ``vfork`` made (``subprocess`` does)
#: shows its parent's whole memory as its own until it calls ``exec``, some 1 ms later, more on a busy machine.
DOUBLE_SECONDS = 1.0
#: Two sizes that differ by less are the same.
_SAME = 256 * KIB

#: Gives the proportional part of a process's anonymous memory; may raise :class:`ReadError`.
Proportional = Callable[[int], int]


def _proportional(pid: int) -> int:
    return read_pss(pid, field="Pss_Anon")


class TreeUsage:
    """The measure of one block, which begins now. ``tree`` reads this process and what is below it.

    For one thread at a time. Where the tree cannot be read, it says what it said last.
    """

    def __init__(
        self,
        tree: Reader | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        proportional: Proportional = _proportional,
    ) -> None:
        if tree is None:
            from memwarden.readers.factory import tree_reader

            tree = tree_reader(os.getpid())
        self._tree, self._monotonic, self._proportional = tree, monotonic, proportional
        self._met: dict[ProcessKey, float] = {}
        self._last: TreeMemory | None = None
        self._own = 0
        #: What each member had before the block began.
        self._before: dict[ProcessKey, int] = {}
        self._read()
        self._before = self._sizes()
        self._met.clear()

    def look(self) -> int:
        """Bytes taken, as an upper bound."""
        self._read()
        return sum(self._grown(key, size) for key, size in self._sizes().items())

    def confirm(self) -> int:
        """Bytes taken by what was seen last, with shared pages counted once; never more than :meth:`look` gave."""
        sizes = self._sizes()
        bound = sum(self._grown(key, size) for key, size in sizes.items())
        if self._last is None or not self._last.shared:
            return bound
        root = self._last.root
        came = {key: size for key, size in sizes.items() if self._counts_whole(key, size)}
        if not came:
            return bound
        own = self._part(root, self._own)
        parts = shared = 0
        for key, size in came.items():
            part = self._part(key, size)
            parts += part
            shared += size - part
        # A page that we share with n children is missing from our part and stands in theirs n/(n+1) times, and we
        # have counted it whole. What none of them shares with us is theirs.
        theirs = parts - min(shared, max(0, self._own - own))
        ours = sum(self._grown(key, size) for key, size in sizes.items() if key not in came)
        return min(bound, ours + max(0, theirs))

    def close(self) -> None:
        """Give the descriptors back; nothing is measured any more."""
        self._tree.close()

    def _read(self) -> None:
        try:
            self._last = self._tree.read()["tree"]
        except ReadError:
            return
        now = self._monotonic()
        assert self._last is not None
        for key in self._last.keys:
            if key not in self._met:
                self._met[key] = now
        if len(self._met) > 2 * len(self._last.keys) + 64:
            alive = set(self._last.keys)
            self._met = {key: when for key, when in self._met.items() if key in alive}

    def _sizes(self) -> dict[ProcessKey, int]:
        tree = self._last
        if tree is None:
            return {}
        if len(tree.shared) != len(tree.rss):
            sizes = dict(zip(tree.keys, tree.rss, strict=True))
        else:
            sizes = {key: rss - shared for key, rss, shared in zip(tree.keys, tree.rss, tree.shared, strict=True)}
        self._own = sizes.get(tree.root, 0)
        return sizes

    def _counts_whole(self, key: ProcessKey, size: int) -> bool:
        """Whether it came after the block began, and is not this very process seen twice."""
        if key in self._before:
            return False
        return abs(size - self._own) >= _SAME or self._monotonic() - self._met.get(key, 0.0) >= DOUBLE_SECONDS

    def _grown(self, key: ProcessKey, size: int) -> int:
        before = self._before.get(key)
        if before is None:
            return size if self._counts_whole(key, size) else 0
        return max(0, size - before)

    def _part(self, key: ProcessKey, size: int) -> int:
        try:
            return min(size, self._proportional(key.pid))
        except ReadError as error:
            return 0 if error.why == "gone" else size
