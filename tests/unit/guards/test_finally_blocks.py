"""Which instructions clean up."""

import dis
import sys

import pytest

from memwarden.guards.limit.finally_blocks import in_finally


def plain(file):
    try:
        inside()
    finally:
        closing()
        closing_more()
    outside()


def with_a_return(file):
    for each in file:
        try:
            inside()
            return each
        finally:
            closing()
            try:
                closing_more()
            except ValueError:
                pass
    outside()
    return None


def with_a_block_in_it(file):
    try:
        inside()
    finally:
        with outside():
            outside()
            try:
                outside()
            finally:
                closing()
        outside()


def inside():
    """Only ever named."""


outside = closing = closing_more = inside


def places(function, name):
    """Return the offsets at which a function looks up a name."""
    return [each.offset for each in dis.get_instructions(function) if each.argval == name]


@pytest.mark.parametrize("function", [plain, with_a_return])
def test_the_body_of_a_finally_is_known(function):
    """On each way through it where nothing was raised; what stands in the try and behind it is none of it."""
    code = function.__code__
    for name in ("closing", "closing_more"):
        at = places(function, name)
        assert len(at) >= 2, "the compiler writes it more than once"
        # The last is the handler's copy, which is recognized by the exception that is handled.
        assert all(in_finally(code, offset) for offset in at[:-1])
    for name in ("inside", "outside"):
        assert not any(in_finally(code, offset) for offset in places(function, name))


def test_a_block_in_a_finally_is_a_place_like_any_other():
    """Seen from an instruction of that finally, only one further in cleans up."""
    code = with_a_block_in_it.__code__
    first = places(with_a_block_in_it, "outside")[0]
    assert in_finally(code, first)
    assert not any(in_finally(code, offset, first) for offset in places(with_a_block_in_it, "outside")[:3])
    assert in_finally(code, places(with_a_block_in_it, "closing")[0], first)


def test_a_frame_that_waits_for_a_call_cleans_up():
    """Wherever in its instruction it stands."""
    answers = []

    def ask():
        frame = sys._getframe(1)
        answers.append(in_finally(frame.f_code, frame.f_lasti))

    def work():
        ask()
        try:
            ask()
        finally:
            ask()
            ask()
        ask()

    work()
    assert answers == [False, False, True, True, False]


def test_a_function_without_a_finally():
    """There is nothing to find."""
    assert not any(in_finally(places.__code__, each.offset) for each in dis.get_instructions(places))
