"""Jobs, nested in every way, with exceptions in every place: everything is let go of once, by its own job."""

import contextlib
import os

from hypothesis import given
from hypothesis import strategies as st

from memwarden.guards.resources.resource_scope import ResourceScope, current_scope, open_counts


class Trouble(Exception):
    """What blocks and things raise."""


#: A block: a fresh job or one of three that are entered again and again, what is done in it, and whether it raises.
#: What is done: a thing is held (True: it raises when it is let go of), a clean-up is forced (None), a block follows.
blocks = st.deferred(
    lambda: st.tuples(
        st.one_of(st.none(), st.integers(0, 2)), st.lists(st.one_of(st.booleans(), st.none(), blocks), max_size=4),
        st.booleans(),
    )
)  # fmt: skip


@given(block=blocks)
def test_each_thing_is_let_go_of_once_by_its_own_job(block):
    """At the outermost end of its job or at a clean-up within it, in the reverse order, and at no other moment."""
    known = [ResourceScope(f"known {number}") for number in range(3)]
    depth = dict.fromkeys(known, 0)
    holding: dict[ResourceScope, list[int]] = {}
    gone: list[int] = []
    number = 0

    def let_go(thing, raises):
        owner = next(job for job, things in holding.items() if thing in things)
        assert owner is ending[-1]
        assert holding[owner].pop() == thing  # the last one comes first
        gone.append(thing)
        if raises:
            raise Trouble

    ending: list[ResourceScope] = []

    def enter(block):
        nonlocal number
        which, steps, raises = block
        job = ResourceScope("fresh") if which is None else known[which]
        holding.setdefault(job, [])
        depth[job] = depth.get(job, 0) + 1
        with contextlib.suppress(Trouble):
            try:
                with job:
                    for step in steps:
                        assert current_scope() is job
                        if step is None:
                            ending.append(job)
                            job.release()
                            ending.pop()
                            assert holding[job] == []
                        elif isinstance(step, bool):
                            number += 1
                            holding[job].append(number)
                            job.add(None, lambda thing=number, raises=step: let_go(thing, raises))
                        else:
                            enter(step)
                    depth[job] -= 1
                    if depth[job] == 0:
                        ending.append(job)
                    if raises:
                        raise Trouble
            finally:
                if depth[job] == 0:
                    ending.pop()
                    assert holding[job] == []

    outside = current_scope()
    enter(block)
    assert current_scope() is outside
    assert sorted(gone) == list(range(1, number + 1))
    assert all(not job.counts for job in holding)


@given(names=st.lists(st.sampled_from("abc"), max_size=6), at=st.integers(0, 6))
def test_a_fork_in_any_place(names, at):
    """The child leaves all blocks without letting go of anything of its parent's; the parent lets go of all."""
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
