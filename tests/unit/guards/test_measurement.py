"""One call: its figures, what runs beside it, and what becomes of it when anything fails."""

import contextvars
import threading

import pytest

from memwarden.errors import ReadError
from memwarden.guards.measure.call_stats import CallStats
from memwarden.guards.measure.measurement import Measurement
from support.kernel import MIB, Kernel, unreadable


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def scopes(kernel):
    return kernel.scopes()


def test_a_call_knows_peak_rise_and_growth(kernel, scopes):
    """While it runs and afterwards, in bytes."""
    with Measurement("load", scopes=scopes) as load:
        kernel.spike(300 * MIB)
        assert (load.peak, load.growth) == (300 * MIB, 0)
        kernel.hold(150 * MIB)
    kernel.hold(999 * MIB)
    assert (load.peak, load.rise, load.growth) == (300 * MIB, 200 * MIB, 50 * MIB)
    memory = load.memory
    assert (memory.before, memory.after, memory.method, memory.shared) == (100 * MIB, 150 * MIB, "kernel", ())
    assert memory.seconds == load.seconds > 0


def test_a_call_within_is_not_beside(scopes):
    """Nested ones share nothing."""
    with Measurement("outer", scopes=scopes) as outer, Measurement("inner", scopes=scopes) as inner:
        pass
    assert outer.memory.shared == inner.memory.shared == ()


def test_a_concurrent_call_is_reported_on_both_sides(scopes):
    """Of another thread, which is neither around nor within."""
    inside, done = threading.Event(), threading.Event()
    others = []

    def work():
        with Measurement("other", scopes=scopes) as other, Measurement("deeper", scopes=scopes):
            others.append(other)
            inside.set()
            assert done.wait(10)

    thread = threading.Thread(target=work)
    with Measurement("one", scopes=scopes) as one:
        thread.start()
        assert inside.wait(10)
    done.set()
    thread.join()
    assert one.memory.shared == ("deeper", "other")
    assert others[0].memory.shared == ("one",)


def test_siblings_in_contexts_of_their_own_are_beside_one_another(scopes):
    """As tasks are: each within the call that made it, and beside the other one."""
    with Measurement("parent", scopes=scopes) as parent:
        contexts = contextvars.copy_context(), contextvars.copy_context()
        one, two = Measurement("one", scopes=scopes), Measurement("two", scopes=scopes)
        contexts[0].run(one.__enter__)
        contexts[1].run(two.__enter__)
        contexts[0].run(one.__exit__, None, None, None)
        contexts[1].run(two.__exit__, None, None, None)
    assert (one.memory.shared, two.memory.shared) == (("two",), ("one",))
    assert parent.memory.shared == ()


def test_a_call_that_outlives_its_maker_has_no_maker(scopes):
    """A task that goes on after the call that started it: what comes then is not around it."""
    made = Measurement("task", scopes=scopes)
    with Measurement("maker", scopes=scopes):
        context = contextvars.copy_context()
    with Measurement("later", scopes=scopes) as later:
        context.run(made.__enter__)
    context.run(made.__exit__, None, None, None)
    assert later.memory.shared == ("task",)
    assert made.memory.shared == ("later",)


def test_names_of_others_are_not_gathered_without_end(scopes):
    """Sixteen are enough to say that it was not alone."""
    with Measurement("one", scopes=scopes) as one:
        for number in range(40):
            contextvars.Context().run(lambda number=number: Measurement(f"other {number}", scopes=scopes).__enter__())
    assert len(one.memory.shared) == 16


def test_a_background_mark_is_nobodys_neighbour(scopes):
    """A tracker that measures all day is not beside every call."""

    class Owner:
        pass

    owner = Owner()
    scopes.open(owner, background=True)
    with Measurement("one", scopes=scopes) as one:
        pass
    assert one.memory.shared == ()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError, GeneratorExit, SystemExit])
def test_an_exception_goes_on_and_is_named(scopes, error):
    """The call is over, its figures are there, and the exception is the caller's."""
    stats = CallStats("load")
    with pytest.raises(error), Measurement("load", stats, scopes=scopes) as load:
        raise error
    assert load.error == load.memory.error == error.__name__
    assert stats.summary().failed == 1
    assert scopes.open_scopes == []


def test_a_call_is_measured_once(scopes):
    """A second use would mix two calls; the message says what to do."""
    load = Measurement("load", scopes=scopes)
    with load, pytest.raises(RuntimeError, match="make another"):
        load.__enter__()
    with pytest.raises(RuntimeError, match="make another"):
        load.__enter__()
    assert scopes.open_scopes == []


def test_a_failed_reading_stops_no_block(kernel, scopes):
    """The block runs; asking for figures raises the reason, and the stats count a call without figures."""
    stats = CallStats("load")
    for at_the_end in (False, True):
        kernel.fails = None if at_the_end else unreadable()
        with Measurement("load", stats, scopes=scopes) as load:
            kernel.fails = unreadable()
        with pytest.raises(ReadError, match="absent"):
            load.memory  # noqa: B018 - asking is the test
    assert scopes.open_scopes == []
    summary = stats.summary()
    assert (summary.calls, summary.unread, summary.peak, summary.growth) == (2, 2, None, None)


def test_asking_before_the_start_is_a_read_error(scopes):
    """Nothing is made up."""
    with pytest.raises(ReadError, match="not started"):
        Measurement("load", scopes=scopes).peak  # noqa: B018


def test_an_interrupt_while_it_begins_leaves_nothing_open(scopes, monkeypatch):
    """Ctrl-C between opening the mark and the block's first line."""
    other, interrupted = Measurement("other", scopes=scopes), Measurement("interrupted", scopes=scopes)
    contextvars.Context().run(other.__enter__)
    monkeypatch.setattr(Measurement, "_note_concurrent", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        contextvars.Context().run(interrupted.__enter__)
    assert [mark.owner() for mark in scopes.open_scopes] == [other]


def test_an_interrupt_while_it_ends_leaves_nothing_open(kernel, scopes):
    """Ctrl-C while the last sample is made."""
    load = Measurement("load", scopes=scopes)
    load.__enter__()
    kernel.fails = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        load.__exit__(None, None, None)
    assert scopes.open_scopes == []


def test_the_same_name_within_itself_counts_growth_once(kernel, scopes):
    """A function that calls itself: two calls, and what stayed is counted by the outer one."""
    stats = CallStats("walk")
    with Measurement("walk", stats, scopes=scopes), Measurement("walk", stats, scopes=scopes):
        kernel.hold(150 * MIB)
    summary = stats.summary()
    assert (summary.calls, summary.growth, summary.rise) == (2, 50 * MIB, 50 * MIB)


def test_pieces_add_up_without_what_is_between(kernel, scopes):
    """A generator: two steps that each take 10 MiB, and a consumer that takes 500 in between."""
    steps = Measurement("steps", scopes=scopes)
    steps.resume()
    kernel.hold(110 * MIB)
    steps.suspend()
    kernel.hold(610 * MIB)
    steps.resume()
    kernel.spike(640 * MIB)
    kernel.hold(620 * MIB)
    steps.suspend()
    steps.end()
    memory = steps.memory
    assert (memory.growth, memory.rise, memory.peak) == (20 * MIB, 40 * MIB, 640 * MIB)
    assert (memory.before, memory.after) == (100 * MIB, 620 * MIB)


def test_a_listener_is_called_at_the_end_without_a_lock(scopes):
    """A listener may measure, too."""
    reported = []

    def listen(memory):
        with Measurement("listener", scopes=scopes):
            reported.append(memory.name)

    with Measurement("load", on_end=listen, scopes=scopes):
        pass
    assert reported == ["load"]
