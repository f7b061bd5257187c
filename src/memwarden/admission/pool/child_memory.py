"""Memory of the processes that a worker started, without inherited pages.

All pages of its parent are resident in a forked child, which owns only those that it has written. To find these, the
kernel walks over the page tables; between two walks growth counts whole. Between ``vfork`` and ``exec`` a child uses
its parent's memory itself; under memory pressure that may last for many samples, in which it must not count twice.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.readers.linux.process import read_pss

#: A walk is followed by a pause of so many times its duration, and at least so many seconds.
_REST, _LEAST_SECONDS = 50, 0.5
#: Kernel functions in which a thread waits for its vforked child (6.18; before 5.10).
_VFORK_WAITS = ("kernel_clone", "_do_fork")


class _Child:
    """Inherited bytes of one child, and when to walk again."""

    __slots__ = ("due", "inherited")

    def __init__(self) -> None:
        self.inherited: int | None = None
        self.due = 0.0


class ChildMemory:
    """Memory of the children of one worker."""

    def __init__(self, proc: str = "/proc", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._proc, self._monotonic = proc, monotonic
        self._children: dict[ProcessKey, _Child] = {}

    def bytes(self, tree: TreeMemory) -> int:
        """Return the bytes that all processes but the tree's root own."""
        if len(tree.keys) < 2:
            self._children.clear()
            return 0
        children, total = {}, 0
        sizes = {key: (rss, shared) for key, rss, shared in zip(tree.keys, tree.rss, tree.shared, strict=True)}
        for key, (rss, shared) in sizes.items():
            if key == tree.root:
                continue
            child = children[key] = self._children.get(key) or _Child()
            # The first sample counts nothing: most vforked children are gone by the second.
            if key in self._children and not (
                child.inherited is None and sizes.get(tree.root) == (rss, shared) and self._waits_for_vfork(tree.root)
            ):
                total += self._own(key, child, rss - shared)
        self._children = children
        return total

    def _own(self, key: ProcessKey, child: _Child, anonymous: int) -> int:
        now = self._monotonic()
        if child.inherited is None or now >= child.due or anonymous < child.inherited:
            try:
                own = read_pss(key.pid, self._proc, field="Private_Dirty")
            except ReadError:
                own = anonymous  # gone, or not permitted: an upper bound
            child.inherited = max(0, anonymous - own)
            child.due = now + max(_LEAST_SECONDS, (self._monotonic() - now) * _REST)
        return anonymous - child.inherited

    def _waits_for_vfork(self, key: ProcessKey) -> bool:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"{self._proc}/{key.pid}/task"):
                with open(f"{self._proc}/{key.pid}/task/{thread}/wchan", "rb", buffering=0) as file:
                    if file.read(64).decode("ascii", "replace") in _VFORK_WAITS:
                        return True
        return False
