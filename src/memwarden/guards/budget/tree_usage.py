"""Memory that a block takes: private memory of this process and its descendants, above that at its start.

As in the ledger, the resident size less files and shared segments counts: the kernel can drop the former, and the
latter are not the block's alone. Swapped memory is not counted. Memory of other threads is.

Each process counts by itself, and never less than zero: memory from before that is freed is no credit. A child that
existed before counts with its growth, a new one with all that it uses. A forked child seems to use the pages that it
shares with its parent, so the sum is an upper bound; :meth:`TreeUsage.confirm` has the kernel walk the page tables (13
to 20 µs for each MB) and counts each page once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.model.units import KIB
from memwarden.protocols import Reader
from memwarden.readers.linux.process import read_pss

#: A new child of its parent's size is not counted for so long: after ``vfork`` (``subprocess`` uses it) a child shows
#: its parent's memory as its own until it calls ``exec``, some 1 ms later, more on a busy machine.
DOUBLE_SECONDS = 1.0
#: Sizes that differ by less are equal.
_SAME = 256 * KIB

#: Returns the proportional share of a process's anonymous memory; may raise :class:`ReadError`.
Proportional = Callable[[int], int]
_proportional = partial(read_pss, field="Pss_Anon")


class TreeUsage:
    """Use of one block, which starts now. ``tree`` reads this process and its descendants.

    For one thread at a time. Where the tree cannot be read the last figure is returned.
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
        self._first_seen: dict[ProcessKey, float] = {}
        self._last: TreeMemory | None = None
        self._own = 0
        #: Sizes at the start of the block.
        self._before: dict[ProcessKey, int] = {}
        self._read()
        self._before = self._sizes()
        self._first_seen.clear()

    def measure(self) -> int:
        """Return the bytes taken, as an upper bound."""
        self._read()
        return sum(self._grown(key, size) for key, size in self._sizes().items())

    def confirm(self) -> int:
        """Return the bytes taken at the last measurement, with shared pages counted once; at most its figure."""
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
        # A page shared with n children is missing from our share and counts n/(n+1) in theirs, and our size has it in
        # full. The rest of the children's shares is their own.
        theirs = parts - min(shared, max(0, self._own - own))
        ours = sum(self._grown(key, size) for key, size in sizes.items() if key not in came)
        return min(bound, ours + max(0, theirs))

    def close(self) -> None:
        """Close the reader's descriptors."""
        self._tree.close()

    def _read(self) -> None:
        try:
            self._last = self._tree.read()["tree"]
        except ReadError:
            return
        now = self._monotonic()
        assert self._last is not None
        for key in self._last.keys:
            if key not in self._first_seen:
                self._first_seen[key] = now
        if len(self._first_seen) > 2 * len(self._last.keys) + 64:
            alive = set(self._last.keys)
            self._first_seen = {key: when for key, when in self._first_seen.items() if key in alive}

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
        """Return True for a process that started after the block, and is not this one shown twice by ``vfork``."""
        if key in self._before:
            return False
        return abs(size - self._own) >= _SAME or self._monotonic() - self._first_seen.get(key, 0.0) >= DOUBLE_SECONDS

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
