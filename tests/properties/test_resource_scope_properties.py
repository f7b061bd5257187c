"""Scopes, nested in every way, with exceptions in every place: each thing is released once, by its own scope."""

import contextlib
import os

from hypothesis import given
from hypothesis import strategies as st

from memwarden.guards.resources.resource_scope import ResourceScope, current_scope, open_counts


class Trouble(Exception):
    """What blocks and things raise."""


#: A block: a fresh scope or one of three that are entered again and again, what is done in it, and whether it raises.
#: What is done: a thing is held (True: its release raises), a clean-up is forced (None), a block follows.
blocks = st.deferred(
    lambda: st.tuples(
        st.one_of(st.none(), st.integers(0, 2)), st.lists(st.one_of(st.booleans(), st.none(), blocks), max_size=4),
        st.booleans(),
    )
)  # fmt: skip


@given(block=blocks)
def test_each_thing_is_released_once_by_its_own_scope(block):
    """At the outermost end of its scope or at a clean-up within it, in the reverse order, and at no other moment."""
    known = [ResourceScope(f"known {number}") for number in range(3)]
    depth = dict.fromkeys(known, 0)
    holding: dict[ResourceScope, list[int]] = {}
    gone: list[int] = []
    number = 0

    def release(thing, raises):
        owner = next(scope for scope, things in holding.items() if thing in things)
        assert owner is ending[-1]
        assert holding[owner].pop() == thing  # the last one comes first
        gone.append(thing)
        if raises:
            raise Trouble

    ending: list[ResourceScope] = []

    def enter(block):
        nonlocal number
        which, steps, raises = block
        scope = ResourceScope("fresh") if which is None else known[which]
        holding.setdefault(scope, [])
        depth[scope] = depth.get(scope, 0) + 1
        with contextlib.suppress(Trouble):
            try:
                with scope:
                    for step in steps:
                        assert current_scope() is scope
                        if step is None:
                            ending.append(scope)
                            scope.release()
                            ending.pop()
                            assert holding[scope] == []
                        elif isinstance(step, bool):
                            number += 1
                            holding[scope].append(number)
                            scope.add(None, lambda thing=number, raises=step: release(thing, raises))
                        else:
                            enter(step)
                    depth[scope] -= 1
                    if depth[scope] == 0:
                        ending.append(scope)
                    if raises:
                        raise Trouble
            finally:
                if depth[scope] == 0:
                    ending.pop()
                    assert holding[scope] == []

    outside = current_scope()
    enter(block)
    assert current_scope() is outside
    assert sorted(gone) == list(range(1, number + 1))
    assert all(not scope.counts for scope in holding)


@given(names=st.lists(st.sampled_from("abc"), max_size=6), at=st.integers(0, 6))
def test_a_fork_in_any_place(names, at):
    """The child leaves all blocks and releases nothing of its parent's; the parent releases all."""
    if not hasattr(os, "fork"):
        return
    gone = []
    before = open_counts()
    child = -1
    with contextlib.ExitStack() as stack:
        for place, name in enumerate(names):
            if place == at and child != 0:
                child = os.fork()
            stack.enter_context(ResourceScope(name))
            current_scope().add(None, lambda place=place: gone.append(place))
        if child == 0:
            try:
                stack.close()
                os._exit(0 if gone == list(range(len(names)))[at:][::-1] else 1)
            finally:
                os._exit(2)
    if child > 0:
        assert os.waitpid(child, 0)[1] == 0
    assert gone == list(range(len(names)))[::-1]
    assert open_counts() == before
