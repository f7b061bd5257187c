"""Parts that must start anew in a child after fork: a lock may be held by a thread that did not come along."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """A part with a lock, or with something that belongs to the parent alone."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""
        ...


_parts: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def reset_after_fork(part: ForkAware) -> None:
    """Call ``part.after_fork()`` in every child that is forked while the part lives."""
    _parts.add(part)


def _child() -> None:
    for part in list(_parts):
        part.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
