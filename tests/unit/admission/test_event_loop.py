"""Callbacks of descriptors, over pipes."""

import os

import pytest

from memwarden.admission.pool.event_loop import EVENT_READ, EVENT_WRITE, EventLoop


@pytest.fixture
def pipe():
    """The two ends of a pipe."""
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_callback_gets_the_events_that_are_ready(pipe):
    """And none while nothing is."""
    loop, seen = EventLoop(), []
    loop.register(pipe[0], seen.append)
    assert not loop.run_once(0)
    os.write(pipe[1], b"x")
    assert loop.run_once(1)
    assert seen == [EVENT_READ]
    loop.unregister(pipe[0])
    loop.unregister(pipe[0])
    assert not loop.run_once(0)


def test_the_events_of_a_descriptor_can_be_changed(pipe):
    """A pipe that can be written to is reported only while that is asked for."""
    loop, seen = EventLoop(), []
    loop.register(pipe[1], seen.append, EVENT_READ)
    assert not loop.run_once(0)
    loop.modify(pipe[1], EVENT_READ | EVENT_WRITE)
    assert loop.run_once(1)
    assert seen == [EVENT_WRITE]


def test_a_descriptor_that_is_reused_in_the_same_round_is_not_called():
    """One callback closes another's descriptor; a new file gets its number and is registered before its turn."""
    loop, seen = EventLoop(), []
    first, second = os.pipe(), os.pipe()
    for pipe in (first, second):
        os.write(pipe[1], b"x")

    def replace(_):
        seen.append("replace")
        loop.unregister(first[0])
        loop.unregister(second[0])
        os.close(second[0])
        assert os.dup(first[0]) == second[0]  # else this proves nothing
        loop.register(second[0], lambda _: seen.append("new"))

    loop.register(first[0], replace)
    loop.register(second[0], lambda _: seen.append("stale"))
    loop.run_once(1)
    assert seen == ["replace"]
    loop.run_once(1)
    assert seen == ["replace", "new"]
    for fd in (*first, *second):
        os.close(fd)
