"""``memory_limit``: nesting, exceptions in every place, being entered again."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwarden import LimitExceeded, memory_limit
from memwarden.guards.limit.limit_monitor import monitor
from memwarden.model.units import GIB

resource = pytest.importorskip("resource", reason="this system has no resource limits")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are held on Linux alone")


class Own(Exception):
    """The program's own."""


#: A tree of blocks: how each is made, whether it raises behind what is inside it, and whether that is caught there.
TREES = st.recursive(
    st.tuples(st.sampled_from(["with", "call", "again"]), st.booleans(), st.booleans(), st.just(())),
    lambda inner: st.tuples(
        st.sampled_from(["with", "call", "again"]), st.booleans(), st.booleans(), st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)
AGAIN = memory_limit(GIB)


def run(tree: Any, limits: list[int]) -> None:
    """Run a tree; the soft limit of the system only ever gets lower inwards, and is back behind each block."""
    way, raises, catches, inner = tree
    before = resource.getrlimit(resource.RLIMIT_DATA)

    def body() -> None:
        now = resource.getrlimit(resource.RLIMIT_DATA)[0]
        assert now != resource.RLIM_INFINITY
        assert now <= limits[-1]
        for each in inner:
            run(each, [*limits, now])
        if raises:
            raise Own

    try:
        if way == "call":
            memory_limit(GIB)(body)()
        else:
            with AGAIN if way == "again" else memory_limit(GIB):
                body()
    except Own:
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
        if not catches:
            raise
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@given(TREES)
def test_blocks_in_blocks_leave_nothing_behind(tree: Any) -> None:
    """Whatever is raised and caught where: exceptions come out unchanged, and limits, thread and blocks are gone."""
    before = resource.getrlimit(resource.RLIMIT_DATA), threading.active_count()
    with contextlib.suppress(Own):
        run(tree, [1 << 62])
    assert (resource.getrlimit(resource.RLIMIT_DATA), threading.active_count()) == before
    assert not monitor._regions
    assert monitor._poll_thread is None
    assert not AGAIN._entered


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40))
def test_generators_may_be_left_in_any_order(steps: list[tuple[int, bool]]) -> None:
    """Blocks that do not end in the order in which they began: each gives back its own part of the limit."""
    before = resource.getrlimit(resource.RLIMIT_DATA)

    @memory_limit(GIB)
    def numbers() -> Any:
        number = 0
        while True:
            number += 1
            yield number

    def with_a_block() -> Any:
        with memory_limit(GIB):
            yield from range(10**6)

    open_ones: dict[int, Any] = {}
    for slot, close in steps:
        generator = open_ones.get(slot)
        if generator is None:
            open_ones[slot] = numbers() if slot % 2 else with_a_block()
            next(open_ones[slot])
        elif close:
            open_ones.pop(slot).close()
        else:
            next(generator)
        assert resource.getrlimit(resource.RLIMIT_DATA) == before, "a suspended block must not hold others"
    for generator in open_ones.values():
        generator.close()
    assert not monitor._regions


@given(st.integers(1, 1 << 62), st.booleans())
def test_the_error_has_limit_and_use(limit: int, absolute: bool) -> None:
    """Limit and use in bytes, as attributes; the function by its name; also after pickling."""
    import pickle

    from memwarden.guards.limit.limit_scope import LimitScope

    error = LimitScope("work()", limit, absolute=absolute)._error(limit + 1)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, LimitExceeded)
    assert (again.limit, again.used, str(again)) == (limit, limit + 1, str(error))
    assert "limit of work() (" in str(error)
