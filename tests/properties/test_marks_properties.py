"""However calls begin, end, nest and cross: each knows the peak of its own time."""

from __future__ import annotations

import contextlib
import gc
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwarden.guards.measure.measurement import Measurement
from memwarden.guards.measure.peak_rss import PeakScopes
from memwarden.guards.measure.wrapping import wrap
from support.kernel import MIB, Kernel


class Owner:
    """Something that measures, and what it should know."""

    def __init__(self, resident: int) -> None:
        self.peak = resident


class Remembering(Kernel):
    """A kernel, and a list of the scopes that should have seen the resident size."""

    def __init__(self) -> None:
        super().__init__()
        self.watching: list[Owner] = []
        self.most = self.resident

    def saw(self, size: int) -> None:
        self.most = max(self.most, size)
        for owner in self.watching:
            owner.peak = max(owner.peak, size)

    def hold(self, size: int) -> None:
        super().hold(size)
        self.saw(size)

    def spike(self, size: int) -> None:
        size = max(size, self.resident)
        super().spike(size)
        self.saw(size)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(1, 1000)),
        st.tuples(st.just("spike"), st.integers(1, 1000)),
        st.tuples(st.just("open"), st.booleans()),
        st.tuples(st.just("close"), st.integers(0, 9)),
        st.tuples(st.just("ask"), st.integers(0, 9)),
        st.tuples(st.just("forget"), st.integers(0, 9)),
        st.tuples(st.just("unseen"), st.integers(1, 1000)),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_mark_knows_the_peak_of_its_own_time(steps: list[tuple[str, int]]) -> None:
    """Opened and closed in any order, forgotten, asked in between; and the process keeps its largest."""
    kernel = Remembering()
    reported: list[int] = []
    scopes = PeakScopes(lambda: kernel, kernel.reset)
    open_now = []
    for what, value in steps:
        if what in ("hold", "spike"):
            getattr(kernel, what)(value * MIB)
        elif what == "unseen":
            with scopes.excluded():
                kernel.mark = max(kernel.mark, value * MIB)
        elif what == "open":
            owner = Owner(kernel.resident)
            mark = scopes.open(owner, background=bool(value))
            assert mark.rss == kernel.resident
            kernel.watching.append(owner)
            open_now.append((owner, mark))
        elif open_now:
            at = value % len(open_now)
            owner, mark = open_now[at]
            if what == "ask":
                assert scopes.peak(mark) == (owner.peak, kernel.resident)
                continue
            del open_now[at]
            kernel.watching.remove(owner)
            if what == "close":
                assert scopes.close(mark) == (owner.peak, kernel.resident)
            del owner, mark
        reported.append(kernel.mark)
    for owner, mark in reversed(open_now):
        assert scopes.close(mark)[0] == owner.peak


@given(STEPS)
def test_a_kernel_that_refuses_makes_no_figure_wrong(steps: list[tuple[str, int]]) -> None:
    """A peak is never more than there was, and never less than what was held at either end."""
    kernel = Remembering()
    kernel.grants = False
    scopes = PeakScopes(lambda: kernel, kernel.reset)
    open_now = []
    for what, value in steps:
        if what in ("hold", "spike"):
            getattr(kernel, what)(value * MIB)
        elif what == "open":
            owner = Owner(kernel.resident)
            mark = scopes.open(owner)
            assert not mark.exact
            kernel.watching.append(owner)
            open_now.append((owner, mark))
        elif what == "close" and open_now:
            owner, mark = open_now.pop(value % len(open_now))
            kernel.watching.remove(owner)
            peak, after = scopes.close(mark)
            assert max(mark.rss, after) <= peak <= owner.peak
    for _, mark in open_now:
        scopes.drop(mark)


class Boom(BaseException):
    """What comes from anywhere."""


@given(st.integers(0, 400), st.sampled_from(["plain", "generator"]), st.integers(1, 4))
def test_an_exception_in_any_place_leaves_nothing_open(after: int, kind: str, depth: int) -> None:
    """Raised before any line of our own, wherever that is: what is open afterwards closes by itself."""
    kernel = Kernel()
    scopes = PeakScopes(lambda: kernel, kernel.reset)

    def work(level: int) -> int:
        return call(level - 1) if level else 1

    def rows(level: int):
        yield work(level - 1) if level else 1

    wrapped = wrap(work, lambda: Measurement("work", scopes=scopes), lambda: True)
    steps = wrap(rows, lambda: Measurement("rows", scopes=scopes), lambda: True)

    def call(level: int) -> int:
        return wrapped(level) if kind == "plain" else sum(steps(level))

    left = after

    def trace(frame, event, arg):
        nonlocal left
        if "memwarden" not in frame.f_code.co_filename:
            return trace
        if event == "line":
            left -= 1
            if left == 0:
                raise Boom
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.suppress(Boom):
            call(depth)
    finally:
        sys.settrace(before)
    gc.collect()
    with Measurement("next", scopes=scopes) as following:
        kernel.spike(300 * MIB)
    assert following.peak == 300 * MIB
    assert following.memory.shared == ()
    assert scopes.open_scopes == []


@pytest.mark.parametrize("seed", range(20))
def test_measuring_inside_measuring_is_harmless(seed: int) -> None:
    """A finalizer or a signal's handler measures in the middle of our own code, on the same thread."""
    chance = random.Random(seed)
    kernel = Remembering()
    scopes = PeakScopes(lambda: kernel, kernel.reset)
    kernel.spike(1000 * MIB)
    scopes.drop(scopes.open(scopes))
    busy = False
    original = kernel.read

    def read():
        nonlocal busy
        if not busy and chance.random() < 0.5:
            busy = True
            try:
                handler = Owner(kernel.resident)
                mark = scopes.open(handler)
                kernel.watching.append(handler)
                kernel.spike(chance.randrange(1, 1000) * MIB)
                kernel.watching.remove(handler)
                assert scopes.close(mark)[0] == handler.peak
            finally:
                busy = False
        return original()

    kernel.read = read  # type: ignore[method-assign]
    for _ in range(30):
        outer = Owner(kernel.resident)
        kernel.watching = []  # what a handler does while it begins is before it
        outer_mark = scopes.open(outer)
        kernel.watching = [outer]
        kernel.hold(chance.randrange(1, 1000) * MIB)
        inner = Owner(kernel.resident)
        inner_mark = scopes.open(inner)
        kernel.watching.append(inner)
        kernel.spike(chance.randrange(1, 1000) * MIB)
        kernel.watching.remove(inner)
        assert scopes.close(inner_mark)[0] >= inner.peak
        assert scopes.close(outer_mark)[0] >= outer.peak
    assert scopes.open_scopes == []
