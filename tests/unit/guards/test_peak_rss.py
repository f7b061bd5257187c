"""Many measure with one kernel mark: each has the peak of its own time."""

import threading

import pytest

from memwarden.errors import ExtraMissing, ReadError
from memwarden.guards.measure import peak_rss as module
from support.kernel import MIB, Kernel, unreadable


class Owner:
    """Something that measures."""


@pytest.fixture
def kernel():
    return Kernel()


def test_an_inner_one_hides_nothing_of_the_outer_one(kernel):
    """The inner begins after the outer's peak, sets the mark back, and the outer still knows."""
    scopes, outer, inner = kernel.scopes(), Owner(), Owner()
    first = scopes.open(outer)
    kernel.spike(500 * MIB)
    second = scopes.open(inner)
    kernel.spike(200 * MIB)
    assert scopes.close(second) == (200 * MIB, 100 * MIB)
    assert scopes.close(first) == (500 * MIB, 100 * MIB)
    assert first.rss == 100 * MIB


def test_an_inner_peak_belongs_to_the_outer_one_too(kernel):
    """What was seen inside was seen around it."""
    scopes, outer, inner = kernel.scopes(), Owner(), Owner()
    first = scopes.open(outer)
    second = scopes.open(inner)
    kernel.spike(700 * MIB)
    scopes.close(second)
    third = scopes.open(inner)
    scopes.close(third)
    assert scopes.close(first)[0] == 700 * MIB


def test_use_before_and_between_counts_for_no_scope(kernel):
    """A peak of the past is not the next one's."""
    scopes, owner = kernel.scopes(), Owner()
    kernel.spike(900 * MIB)
    for _ in range(2):
        mark = scopes.open(owner)
        kernel.spike(150 * MIB)
        assert scopes.close(mark)[0] == 150 * MIB
        kernel.spike(800 * MIB)


def test_one_that_ends_before_an_inner_one_has_its_own_peak(kernel):
    """Threads and tasks end in any order."""
    scopes, one, other = kernel.scopes(), Owner(), Owner()
    first = scopes.open(one)
    second = scopes.open(other)
    kernel.spike(300 * MIB)
    third = scopes.open(other)
    assert scopes.close(first)[0] == 300 * MIB
    kernel.spike(600 * MIB)
    assert scopes.close(third)[0] == 600 * MIB
    assert scopes.close(second)[0] == 600 * MIB


def test_the_peak_can_be_asked_for_meanwhile(kernel):
    """Without ending anything, and without losing it."""
    scopes, owner = kernel.scopes(), Owner()
    mark = scopes.open(owner)
    kernel.spike(250 * MIB)
    assert scopes.peak(mark) == (250 * MIB, 100 * MIB)
    assert scopes.close(mark)[0] == 250 * MIB


def test_one_that_was_forgotten_closes_by_itself(kernel):
    """An owner that is gone leaves its peak to the outer scope, and blocks no other."""
    scopes, outer, inner = kernel.scopes(), Owner(), Owner()
    first = scopes.open(outer)
    scopes.open(inner)
    kernel.spike(400 * MIB)
    third = scopes.open(outer)
    del inner
    scopes.close(third)
    fourth = scopes.open(outer)
    assert len(scopes.open_scopes) == 2
    scopes.close(fourth)
    assert scopes.close(first)[0] == 400 * MIB
    assert scopes.open_scopes == []


def test_closing_twice_changes_nothing(kernel):
    """What is closed is not in the list, and takes no other out of it."""
    scopes, owner = kernel.scopes(), Owner()
    first = scopes.open(owner)
    second = scopes.open(owner)
    scopes.close(second)
    scopes.drop(second)
    assert scopes.open_scopes == [first]


def test_what_cannot_be_read_is_reported_and_nothing_stays_open(kernel):
    """At either end."""
    scopes, owner = kernel.scopes(), Owner()
    mark = scopes.open(owner)
    kernel.fails = unreadable()
    with pytest.raises(ReadError, match="absent"):
        scopes.open(owner)
    with pytest.raises(ReadError, match="absent"):
        scopes.close(mark)
    assert scopes.open_scopes == []


def test_a_descriptor_that_was_lost_is_found_again(kernel):
    """A program that closes all descriptors: the first read says malformed, the second reads the file anew."""
    scopes, owner = kernel.scopes(), Owner()
    scopes.drop(scopes.open(owner))

    class Lost(Kernel):
        def read(self):
            if not self.reads:
                self.reads = 1
                raise ReadError("status", "/proc/self/status", "malformed")
            return super().read()

    lost = Lost()
    mark = lost.scopes().open(owner)
    assert (mark.rss, mark.exact) == (100 * MIB, True)


def test_own_work_can_be_left_out(kernel):
    """Memory used inside counts for no scope; what was used before still does."""
    scopes, owner = kernel.scopes(), Owner()
    mark = scopes.open(owner)
    kernel.spike(200 * MIB)
    with scopes.excluded():
        kernel.spike(900 * MIB)
    assert scopes.close(mark)[0] == 200 * MIB


def test_without_psutil_elsewhere_it_is_a_fact_that_cannot_be_read():
    """Another system than Linux and no psutil: a decorated program runs on, so this is no ImportError."""

    def missing():
        raise ExtraMissing("the portable reader", "portable")

    with pytest.raises(ReadError, match=r"pip install 'memwarden\[portable\]'"):
        module.PeakScopes(missing).open(Owner())


@pytest.fixture
def slow(monkeypatch):
    """The sampling thread samples once an hour: in these tests the test does."""
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 3600.0)


@pytest.mark.usefixtures("slow")
def test_where_the_kernel_refuses_it_is_reported_and_sampled():
    """Peaks are those that were seen, and a new highest of the process is known all the same."""
    kernel = Kernel(grants=False)
    kernel.spike(900 * MIB)
    scopes, owner = kernel.scopes(), Owner()
    mark = scopes.open(owner)
    assert not mark.exact
    kernel.hold(300 * MIB)
    assert scopes.sample()
    kernel.hold(100 * MIB)
    assert scopes.close(mark)[0] == 300 * MIB
    mark = scopes.open(owner)
    kernel.spike(950 * MIB)
    assert scopes.close(mark)[0] == 950 * MIB


@pytest.mark.usefixtures("slow")
def test_the_sampling_thread_lives_as_long_as_a_measurement():
    """One thread for all, and none afterwards."""
    before = set(threading.enumerate())
    scopes, owner = Kernel(grants=False).scopes(), Owner()
    marks = [scopes.open(owner) for _ in range(3)]
    (sampler,) = set(threading.enumerate()) - before
    assert sampler.daemon
    for mark in marks:
        assert sampler.is_alive()
        scopes.close(mark)
    sampler.join(10)
    assert not sampler.is_alive()


@pytest.mark.usefixtures("slow")
def test_the_thread_ends_when_all_are_forgotten():
    """A sample finds no owner left, and stops the thread."""
    before = set(threading.enumerate())
    scopes, owner = Kernel(grants=False).scopes(), Owner()
    scopes.open(owner)
    assert scopes.sample()
    (sampler,) = set(threading.enumerate()) - before
    del owner
    assert not scopes.sample()
    sampler.join(10)
    assert not sampler.is_alive()


@pytest.mark.usefixtures("slow")
def test_a_kernel_that_only_claims_it_did_is_detected():
    """A sandbox takes the word and does nothing: from there on peaks are sampled."""
    kernel = Kernel()
    kernel.reset = lambda: True
    kernel.spike(900 * MIB)
    scopes, owner = kernel.scopes(), Owner()
    for _ in range(5):
        mark = scopes.open(owner)
        assert not mark.exact
        assert scopes.close(mark)[0] == 100 * MIB


@pytest.mark.usefixtures("slow")
def test_one_that_was_disturbed_is_believed_the_next_time(kernel):
    """Another thread took as much again just when the mark was set back."""
    scopes, owner, reset = kernel.scopes(), Owner(), kernel.reset
    kernel.spike(900 * MIB)
    scopes._reset = lambda: (reset(), kernel.spike(950 * MIB))[0]
    mark = scopes.open(owner)
    assert not mark.exact
    scopes.close(mark)
    scopes._reset = reset
    mark = scopes.open(owner)
    assert mark.exact
    scopes.close(mark)


def test_a_child_has_those_of_its_own_thread(kernel):
    """After a fork the others' are gone, no lock is held, and peaks count from the fork."""
    scopes, owner, other, background = kernel.scopes(), Owner(), Owner(), Owner()
    behind = scopes.open(background, background=True)
    elsewhere = threading.Thread(target=scopes.open, args=(other,))
    elsewhere.start()
    elsewhere.join()
    mine = scopes.open(owner)
    kernel.spike(500 * MIB)
    holder = threading.Thread(target=scopes.lock.acquire)
    holder.start()
    holder.join()
    kernel.mark = kernel.resident
    scopes.after_fork()
    assert scopes.open_scopes == [behind, mine]
    kernel.spike(200 * MIB)
    assert scopes.close(mine)[0] == 200 * MIB
    assert scopes.close(behind)[0] == 200 * MIB
