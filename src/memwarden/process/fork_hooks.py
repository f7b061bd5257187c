"""Fork hooks: one registration with Python, which calls the hooks of every package in a fixed order.

A child has one thread. A lock that another thread held would stay locked in it for ever, and descriptors are shared
with the parent; so each part that has either is renewed in the child before any other code runs there.
"""

from __future__ import annotations

import bisect
import os
import weakref
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

#: The order of the hooks in parent and child: a package comes after those that it uses. A fork is prepared in the
#: reverse order.
RECORDS, READERS, PARTS, ENGINE, GUARDS, COMPAT = range(6)


class ForkAware(Protocol):
    """A part with a lock, or with something that belongs to the parent alone."""

    def after_fork(self) -> None:
        """Renew it in the child."""
        ...


class _Hooks(NamedTuple):
    order: int
    number: int  # of the registration, which decides between two of one order
    before: Callable[[], object] | None
    parent: Callable[[], object] | None
    child: Callable[[], object] | None


_all: list[_Hooks] = []
_parts: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def at_fork(
    order: int,
    *,
    before: Callable[[], object] | None = None,
    parent: Callable[[], object] | None = None,
    child: Callable[[], object] | None = None,
) -> None:
    """Call these functions at every fork: in the parent before and after it, and in the child."""
    bisect.insort(_all, _Hooks(order, len(_all), before, parent, child))


def reset_after_fork(part: ForkAware) -> None:
    """Call ``part.after_fork()`` in every child that is forked while the part lives."""
    _parts.add(part)


def _call(hooks: Iterable[Callable[[], object] | None]) -> None:
    """Call each. Where one raises the others are called all the same; then Python reports the exception."""
    failed: BaseException | None = None
    for hook in hooks:
        if hook is not None:
            try:
                hook()
            except BaseException as error:  # noqa: BLE001 - also an interruption: the locks are to be released
                failed = error
    if failed is not None:
        raise failed


def _reset_parts() -> None:
    _call([part.after_fork for part in _parts])


at_fork(PARTS, child=_reset_parts)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _call([each.before for each in reversed(_all)]),
        after_in_parent=lambda: _call([each.parent for each in _all]),
        after_in_child=lambda: _call([each.child for each in _all]),
    )
