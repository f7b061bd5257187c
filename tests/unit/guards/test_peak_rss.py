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
    board, outer, inner = kernel.board(), Owner(), Owner()
    first = board.open(outer)
    kernel.spike(500 * MIB)
    second = board.open(inner)
    kernel.spike(200 * MIB)
    assert board.close(second) == (200 * MIB, 100 * MIB)
    assert board.close(first) == (500 * MIB, 100 * MIB)
    assert first.rss == 100 * MIB


def test_an_inner_peak_belongs_to_the_outer_one_too(kernel):
    """What was seen inside was seen around it."""
    board, outer, inner = kernel.board(), Owner(), Owner()
    first = board.open(outer)
    second = board.open(inner)
    kernel.spike(700 * MIB)
    board.close(second)
    third = board.open(inner)
    board.close(third)
    assert board.close(first)[0] == 700 * MIB


def test_what_was_before_and_between_counts_for_nobody(kernel):
    """A peak of the past is not the next one's."""
    board, owner = kernel.board(), Owner()
    kernel.spike(900 * MIB)
    for _ in range(2):
        mark = board.open(owner)
        kernel.spike(150 * MIB)
        assert board.close(mark)[0] == 150 * MIB
        kernel.spike(800 * MIB)


def test_one_that_ends_before_an_inner_one_has_its_own_peak(kernel):
    """Threads and tasks end in any order."""
    board, one, other = kernel.board(), Owner(), Owner()
    first = board.open(one)
    second = board.open(other)
    kernel.spike(300 * MIB)
    third = board.open(other)
    assert board.close(first)[0] == 300 * MIB
    kernel.spike(600 * MIB)
    assert board.close(third)[0] == 600 * MIB
    assert board.close(second)[0] == 600 * MIB


def test_the_peak_can_be_asked_for_meanwhile(kernel):
    """Without ending anything, and without losing it."""
    board, owner = kernel.board(), Owner()
    mark = board.open(owner)
    kernel.spike(250 * MIB)
    assert board.peak(mark) == (250 * MIB, 100 * MIB)
    assert board.close(mark)[0] == 250 * MIB


def test_one_that_was_forgotten_closes_by_itself(kernel):
    """An owner that is gone leaves its peak to who is around it, and stands in nobody's way."""
    board, outer, inner = kernel.board(), Owner(), Owner()
    first = board.open(outer)
    board.open(inner)
    kernel.spike(400 * MIB)
    third = board.open(outer)
    del inner
    board.close(third)
    fourth = board.open(outer)
    assert len(board.marks) == 2
    board.close(fourth)
    assert board.close(first)[0] == 400 * MIB
    assert board.marks == []


def test_closing_twice_changes_nothing(kernel):
    """What is closed is not in the list, and takes nobody else out of it."""
    board, owner = kernel.board(), Owner()
    first = board.open(owner)
    second = board.open(owner)
    board.close(second)
    board.drop(second)
    assert board.marks == [first]


def test_what_cannot_be_read_is_said_and_nothing_stays_open(kernel):
    """At either end."""
    board, owner = kernel.board(), Owner()
    mark = board.open(owner)
    kernel.fails = unreadable()
    with pytest.raises(ReadError, match="absent"):
        board.open(owner)
    with pytest.raises(ReadError, match="absent"):
        board.close(mark)
    assert board.marks == []


def test_a_descriptor_that_was_lost_is_found_again(kernel):
    """A program that closes all descriptors: the first read says malformed, the second reads the file anew."""
    board, owner = kernel.board(), Owner()
    board.drop(board.open(owner))

    class Lost(Kernel):
        def read(self):
            if not self.reads:
                self.reads = 1
                raise ReadError("status", "/proc/self/status", "malformed")
            return super().read()

    lost = Lost()
    mark = lost.board().open(owner)
    assert (mark.rss, mark.exact) == (100 * MIB, True)


def test_own_work_can_be_left_out(kernel):
    """What is taken inside counts for nobody that measures; what was before still does."""
    board, owner = kernel.board(), Owner()
    mark = board.open(owner)
    kernel.spike(200 * MIB)
    with board.unseen():
        kernel.spike(900 * MIB)
    assert board.close(mark)[0] == 200 * MIB


def test_without_psutil_elsewhere_it_is_a_fact_that_cannot_be_read():
    """Another system than Linux and no psutil: a decorated program runs on, so this is no ImportError."""

    def missing():
        raise ExtraMissing("the portable reader", "portable")

    with pytest.raises(ReadError, match=r"pip install 'memwarden\[portable\]'"):
        module.PeakScopes(missing).open(Owner())


@pytest.fixture
def slow(monkeypatch):
    """The sampling thread looks once an hour: who looks in these tests is the test."""
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 3600.0)


@pytest.mark.usefixtures("slow")
def test_where_the_kernel_refuses_it_is_said_and_looked_at():
    """Peaks are those that were seen, and a new highest of the process is known all the same."""
    kernel = Kernel(grants=False)
    kernel.spike(900 * MIB)
    board, owner = kernel.board(), Owner()
    mark = board.open(owner)
    assert not mark.exact
    kernel.hold(300 * MIB)
    assert board.sample()
    kernel.hold(100 * MIB)
    assert board.close(mark)[0] == 300 * MIB
    mark = board.open(owner)
    kernel.spike(950 * MIB)
    assert board.close(mark)[0] == 950 * MIB


@pytest.mark.usefixtures("slow")
def test_the_thread_that_looks_lives_as_long_as_somebody_measures():
    """One thread for all, and none afterwards."""
    before = set(threading.enumerate())
    board, owner = Kernel(grants=False).board(), Owner()
    marks = [board.open(owner) for _ in range(3)]
    (sampler,) = set(threading.enumerate()) - before
    assert sampler.daemon
    for mark in marks:
        board.close(mark)
    assert not sampler.is_alive()


@pytest.mark.usefixtures("slow")
def test_the_thread_ends_when_all_are_forgotten():
    """A look finds nobody, and says so."""
    board, owner = Kernel(grants=False).board(), Owner()
    board.open(owner)
    assert board.sample()
    sampler = board._sampler
    del owner
    assert not board.sample()
    sampler.stop()


@pytest.mark.usefixtures("slow")
def test_a_kernel_that_only_says_it_did_is_found_out():
    """A sandbox takes the word and does nothing: from there on peaks are sampled."""
    kernel = Kernel()
    kernel.reset = lambda: True
    kernel.spike(900 * MIB)
    board, owner = kernel.board(), Owner()
    for _ in range(5):
        mark = board.open(owner)
        assert not mark.exact
        assert board.close(mark)[0] == 100 * MIB


@pytest.mark.usefixtures("slow")
def test_one_that_was_disturbed_is_believed_the_next_time(kernel):
    """Another thread took as much again just when the mark was set back."""
    board, owner, reset = kernel.board(), Owner(), kernel.reset
    kernel.spike(900 * MIB)
    board._reset = lambda: (reset(), kernel.spike(950 * MIB))[0]
    mark = board.open(owner)
    assert not mark.exact
    board.close(mark)
    board._reset = reset
    mark = board.open(owner)
    assert mark.exact
    board.close(mark)


def test_a_child_has_those_of_its_own_thread(kernel):
    """After a fork the others' are gone, no lock is held, and peaks count from the fork."""
    board, owner, other, background = kernel.board(), Owner(), Owner(), Owner()
    behind = board.open(background, background=True)
    elsewhere = threading.Thread(target=board.open, args=(other,))
    elsewhere.start()
    elsewhere.join()
    mine = board.open(owner)
    kernel.spike(500 * MIB)
    holder = threading.Thread(target=board.lock.acquire)
    holder.start()
    holder.join()
    kernel.mark = kernel.resident
    board.after_fork()
    assert board.marks == [behind, mine]
    assert board.background == 1
    kernel.spike(200 * MIB)
    assert board.close(mine)[0] == 200 * MIB
    assert board.close(behind)[0] == 200 * MIB
