"""Guards in any nesting, with errors in any place, against the simple sums that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwarden.actions.caches import Caches
from memwarden.errors import LimitExceeded
from memwarden.model.units import MIB
from support.guards import Scene


class Boom(Exception):
    """An error of the block's own."""


#: What a block does: takes or gives back so many MiB, checks, raises, enters a block with a budget, or one whose
#: memory error it swallows.
STEPS = st.recursive(
    st.one_of(
        st.tuples(st.just("take"), st.integers(-60, 120)),
        st.just(("check",)),
        st.just(("raise",)),
    ),
    lambda inner: st.tuples(
        st.sampled_from(["block", "swallow"]), st.integers(1, 200), st.booleans(), st.lists(inner, max_size=6)
    ),
    max_leaves=25,
)


class Model:
    """What ought to happen: each budget is held against the growth since its own beginning."""

    def __init__(self) -> None:
        self.size = 40
        self.open: list[tuple[int, int, bool]] = []

    def over(self, at: int) -> bool:
        budget, before, cached = self.open[at]
        if max(0, self.size - before) <= budget:
            return False
        if cached:
            self.size -= 30  # the cache that it clears
            return max(0, self.size - before) > budget
        return True


@given(st.lists(STEPS, max_size=8))
def test_any_nesting_raises_where_the_sums_say_and_leaves_nothing(steps: list[Any]) -> None:
    """Own errors come through unchanged, memory errors come at checkpoints and ends and only there, and afterwards
    no guard is monitored and nothing is open."""
    scene, model = Scene(), Model()

    def run(steps: list[Any]) -> None:
        for step in steps:
            if step[0] == "take":
                change = max(step[1], 1 - model.size)
                model.size += change
                scene.take(change)
            elif step[0] == "raise":
                raise Boom
            elif step[0] == "check":
                if guards:
                    checked(guards[-1].check)
            else:
                block(*step)

    def checked(act: Any) -> None:
        expected = model.over(len(guards) - 1)
        if expected:
            with pytest.raises(LimitExceeded):
                act()
            raise LimitExceeded("as the sums say", limit=1)
        act()
        assert scene.tree.sizes[100][0] - 10 == model.size

    def block(kind: str, budget: int, cached: bool, inner: list[Any]) -> None:
        caches = Caches()
        if cached:
            caches.register(lambda: scene.take(-30), "cache")
        guard = scene.guard(budget * MIB, caches=caches)
        guard.__enter__()
        guards.append(guard)
        model.open.append((budget, model.size, cached))
        try:
            try:
                run(inner)
            except BaseException as error:
                guard.__exit__(type(error), error, None)
                raise
            checked(lambda: guard.__exit__(None, None, None))
        except MemoryError:
            if kind != "swallow":
                raise
        finally:
            assert not guard.active
            guards.pop()
            model.open.pop()

    guards: list[Any] = []
    try:
        run(steps)
    except (Boom, LimitExceeded):
        pass
    assert scene.monitor.inside == []
    assert guards == []
