"""What the processes that a worker started hold, without the pages that they inherited.

A forked child shows every page of its parent as resident, and holds none of them until it writes there. Which pages are
its own takes the kernel a walk over the page tables; between two walks what was added counts whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey, TreeMemory
from memwarden.readers.linux.process import read_pss

#: A walk takes no more than this part of the time, and comes no more often.
_REST, _LEAST_SECONDS = 50, 0.5


class _Child:
    """One of them: bytes that it inherited, and when to ask again."""

    __slots__ = ("due", "inherited")

    def __init__(self) -> None:
        self.inherited: int | None = None
        self.due = 0.0


class ChildMemory:
    """Those of one worker."""

    def __init__(self, proc: str = "/proc", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._proc, self._monotonic = proc, monotonic
        self._heirs: dict[ProcessKey, _Child] = {}

    def bytes(self, tree: TreeMemory) -> int:
        """What all but the tree's root hold of their own.

        One that is seen for the first time counts nothing: between ``vfork`` and ``exec`` it has its parent's memory.
        """
        if len(tree.keys) < 2:
            self._heirs.clear()
            return 0
        heirs, total = {}, 0
        for key, rss, shared in zip(tree.keys, tree.rss, tree.shared, strict=True):
            if key != tree.root:
                heir = heirs[key] = self._heirs.get(key) or _Child()
                if key in self._heirs:
                    total += self._own(key, heir, rss - shared)
        self._heirs = heirs
        return total

    def _own(self, key: ProcessKey, heir: _Child, anonymous: int) -> int:
        now = self._monotonic()
        if heir.inherited is None or now >= heir.due or anonymous < heir.inherited:
            try:
                own = read_pss(key.pid, self._proc, field="Private_Dirty")
            except ReadError:
                own = anonymous  # gone, or nobody tells: an upper bound
            heir.inherited = max(0, anonymous - own)
            heir.due = now + max(_LEAST_SECONDS, (self._monotonic() - now) * _REST)
        return anonymous - heir.inherited
