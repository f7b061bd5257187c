"""The waker: wakes from threads, the kernel's wake-ups (pipes stand for them), and the descriptors behind them."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import memwarden.engine.waker as wakers
from memwarden.engine.waker import LONGEST_SECONDS, MERGE_SECONDS, Waker
from memwarden.model.facts import CgroupMemory
from support.engine import SOON
from support.trees import descriptors

LINUX = sys.platform == "linux"
KERNEL = pytest.mark.skipif(not LINUX, reason="only Linux has wake-ups for memory")


class Pipe:
    """A wake-up that a test fires; ``dead``: its group is gone."""

    events = getattr(select, "POLLIN", 1)

    def __init__(self, name: str = "pipe") -> None:
        self.name = name
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.dead, self.cleared, self.closed = False, 0, 0
        self.followed: list[object] = []

    def fire(self) -> None:
        """Something happened."""
        os.write(self._write, b"x")

    def fileno(self) -> int:
        """What to poll."""
        return self._read

    def clear(self) -> bool:
        """Take note."""
        self.cleared += 1
        os.read(self._read, 4096)
        return not self.dead

    def follow(self, groups: object) -> None:
        """Remembered in ``followed``."""
        self.followed.append(groups)

    def close(self) -> None:
        """Both ends."""
        self.closed += 1
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A wake-up."""
    made = Pipe()
    yield made
    made.close()


@pytest.fixture(params=["deaf to the kernel", pytest.param("listening", marks=KERNEL)])
def the_waker(request: pytest.FixtureRequest) -> Iterator[Waker]:
    """A waker; with a wake-up that never fires, and without."""
    made = Waker()
    if request.param == "listening":
        made.listen([Pipe()])  # type: ignore[list-item]
    yield made
    made.close()


def later(call: Callable[[], object]) -> threading.Thread:
    """Call on another thread, once this one had time to wait."""
    thread = threading.Timer(0.02, call)
    thread.start()
    return thread


def test_it_stays_set_until_it_is_cleared(the_waker: Waker) -> None:
    """Before the wait, during it, and at every wait until it is cleared; then a wait takes its time."""
    assert not the_waker.is_set()
    assert not the_waker.wait(0.001)
    the_waker.set()
    the_waker.set()
    assert the_waker.is_set()
    assert the_waker.wait(SOON)
    assert the_waker.wait(SOON)
    the_waker.clear()
    assert not the_waker.is_set()
    started = time.monotonic()
    assert not the_waker.wait(0.02)
    assert time.monotonic() - started >= 0.019
    ringing = later(the_waker.set)
    assert the_waker.wait(SOON)
    assert not the_waker.woken
    ringing.join()


def test_a_ring_ends_a_wait_of_a_year(the_waker: Waker) -> None:
    """However long the interval, stop() is prompt: a poll by itself takes no more than 24 days."""
    ringing = later(the_waker.set)
    started = time.monotonic()
    assert the_waker.wait(365 * 86400.0)
    assert time.monotonic() - started < SOON
    ringing.join()


@KERNEL
def test_a_poll_of_a_year_is_made_of_days(pipe: Pipe) -> None:
    """And together they take the year, not a day."""
    the_waker, asked = Waker(), []

    class Poll:
        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            asked.append(milliseconds)
            return []

    the_waker.listen([pipe])  # type: ignore[list-item]
    the_waker._poll = Poll()
    assert not the_waker.wait(2.5 * LONGEST_SECONDS)
    assert asked == [LONGEST_SECONDS * 1000, LONGEST_SECONDS * 1000, LONGEST_SECONDS * 500]
    the_waker.close()


def test_rings_from_many_threads_are_never_lost_and_break_nothing(the_waker: Waker) -> None:
    """What was rung for is seen after the clear, every wait ends, and none ends early without a ring."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    rung = [0, 0, 0]
    done = threading.Event()

    def ringer(number: int) -> None:
        for _ in range(2000):
            rung[number] += 1
            the_waker.set()
        done.set()

    threads = [threading.Thread(target=ringer, args=(number,)) for number in range(3)]
    try:
        for thread in threads:
            thread.start()
        seen: list[int] = []
        early = 0
        while seen != [2000, 2000, 2000]:
            before = time.monotonic()
            if the_waker.wait(SOON):
                the_waker.clear()
                seen = list(rung)  # as a warden reads the new interval
            elif time.monotonic() - before < SOON / 2:
                early += 1
            else:
                pytest.fail(f"a ring was lost: {seen}")
    finally:
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert early == 0
    if the_waker.is_set():
        the_waker.clear()
    while the_waker.wait(0.001):  # a wake during a clear wakes once more, and not for ever
        the_waker.clear()
    assert not the_waker.wait(0.001)


@KERNEL
def test_the_kernel_wakes_without_a_ring(pipe: Pipe) -> None:
    """The wait ends, says why, and takes note of the event so that the next one can wake."""
    the_waker = Waker()
    the_waker.listen([pipe])  # type: ignore[list-item]
    assert the_waker.listening == ("pipe",)
    firing = later(pipe.fire)
    assert not the_waker.wait(SOON)
    assert the_waker.woken
    assert pipe.cleared == 1
    firing.join()
    the_waker.close()


@KERNEL
def test_a_wake_up_and_a_ring_at_once_count_as_both(pipe: Pipe) -> None:
    """Neither hides the other."""
    the_waker = Waker()
    the_waker.listen([pipe])  # type: ignore[list-item]
    pipe.fire()
    later(the_waker.set).join()
    assert the_waker.wait(SOON)  # a ring is looked at first
    the_waker.clear()
    assert not the_waker.wait(SOON)
    assert the_waker.woken
    the_waker.close()


@KERNEL
def test_a_ring_from_before_it_listened_still_rings(pipe: Pipe) -> None:
    """A stop that comes while wake-ups are being registered is not forgotten."""
    the_waker = Waker()
    the_waker.set()
    the_waker.listen([pipe])  # type: ignore[list-item]
    assert the_waker.wait(SOON)
    the_waker.clear()
    assert not the_waker.wait(0.001)
    the_waker.close()


@KERNEL
def test_after_a_wake_up_it_is_deaf_for_a_moment(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that thrashes fires without end: at most a hundred samples a second, yet a wake is noticed."""
    the_waker = Waker()
    the_waker.listen([pipe])  # type: ignore[list-item]
    pipe.fire()
    assert not the_waker.wait(SOON)
    wakes = 0
    started = time.monotonic()
    while time.monotonic() - started < 10 * MERGE_SECONDS:
        pipe.fire()
        assert not the_waker.wait(SOON)
        wakes += the_waker.woken
    assert 1 <= wakes <= 11
    # A clock that stands still keeps it deaf: a ring ends the wait all the same, and a short time-out is kept.
    monkeypatch.setattr(wakers, "monotonic", lambda: the_waker._woken_at)
    pipe.fire()
    started = time.monotonic()
    assert not the_waker.wait(MERGE_SECONDS / 2)
    assert time.monotonic() - started >= MERGE_SECONDS / 2 - 0.001
    assert not the_waker.woken
    the_waker.set()
    assert the_waker.wait(MERGE_SECONDS / 2)
    the_waker.close()


@KERNEL
def test_a_wake_up_whose_group_is_gone_is_dropped(pipe: Pipe) -> None:
    """It wakes for the last time, is closed and reported no more; the others stay."""
    other = Pipe("other")
    the_waker = Waker()
    the_waker.listen([pipe, other])  # type: ignore[list-item]
    pipe.dead = True
    pipe.fire()
    assert not the_waker.wait(SOON)
    assert the_waker.woken
    assert (pipe.closed, the_waker.listening) == (1, ("other",))
    assert not the_waker.wait(3 * MERGE_SECONDS)
    assert not the_waker.woken
    other.fire()
    assert not the_waker.wait(SOON)
    assert the_waker.woken
    the_waker.close()
    assert other.closed == 1


@KERNEL
def test_wake_ups_get_the_state_of_the_groups(pipe: Pipe) -> None:
    """Thresholds are to follow the file cache."""
    the_waker = Waker()
    the_waker.listen([pipe])  # type: ignore[list-item]
    groups: list[CgroupMemory] = []
    the_waker.follow(groups)
    assert pipe.followed == [groups]
    the_waker.close()
    the_waker.follow(groups)
    assert len(pipe.followed) == 1


@KERNEL
def test_closing_gives_every_descriptor_back(pipe: Pipe) -> None:
    """Also twice; a wake or a wait afterwards does nothing."""
    before = descriptors()
    the_waker = Waker()
    the_waker.listen([pipe])  # type: ignore[list-item]
    assert descriptors() == before + 1
    the_waker.close()
    the_waker.close()
    assert descriptors() == before - 2
    assert the_waker.listening == ()
    the_waker.set()
    assert the_waker.wait(SOON)


@KERNEL
def test_a_ring_never_reaches_a_descriptor_that_is_anothers_by_now() -> None:
    """Closing waits for the ring that is under way: its number may be a file of the program right after."""
    ringing, go_on = threading.Event(), threading.Event()
    the_waker = Waker()
    the_waker.listen([Pipe()])  # type: ignore[list-item]
    write = os.eventfd_write

    def slow(fd: int, value: int) -> None:
        ringing.set()
        assert go_on.wait(SOON)
        write(fd, value)  # raises where it was closed meanwhile

    failed: list[BaseException] = []

    def ring() -> None:
        try:
            the_waker.set()
        except BaseException as error:
            failed.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "eventfd_write", slow)
        ringer, closer = threading.Thread(target=ring), threading.Thread(target=the_waker.close)
        ringer.start()
        assert ringing.wait(SOON)
        closer.start()
        closer.join(0.02)
        assert closer.is_alive()
        go_on.set()
        ringer.join(SOON)
        closer.join(SOON)
    assert not failed
    assert not closer.is_alive()


@KERNEL
def test_in_a_child_it_can_be_closed_during_a_wake_of_the_parent(pipe: Pipe) -> None:
    """A thread that set it during the fork does not exist there; the copies are closed, the parent's stay open."""
    before = set(os.listdir("/proc/self/fd"))
    the_waker = Waker()
    the_waker.listen([pipe])  # type: ignore[list-item]
    with the_waker._writing:
        pid = os.fork()
        if pid == 0:
            closing = threading.Thread(target=the_waker.after_fork, daemon=True)  # not the thread that holds the lock
            closing.start()
            closing.join(SOON)
            # Not their number: what others have open may close itself in a child, too.
            os._exit(0 if not closing.is_alive() and set(os.listdir("/proc/self/fd")) <= before else 1)
    assert os.waitpid(pid, 0)[1] == 0
    pipe.fire()
    assert not the_waker.wait(SOON)
    assert the_waker.woken
    the_waker.close()


@KERNEL
def test_without_a_descriptor_left_it_goes_on_by_time(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wake-ups are given back, nothing is claimed, and a ring still ends the wait at once."""

    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "eventfd", none_left)
    the_waker = Waker()
    with pytest.raises(OSError, match="open files"):
        the_waker.listen([pipe])  # type: ignore[list-item]
    assert (pipe.closed, the_waker.listening) == (1, ())
    ringing = later(the_waker.set)
    assert the_waker.wait(SOON)
    ringing.join()


def test_nothing_to_listen_to_costs_nothing() -> None:
    """Where the kernel refuses everything there is no descriptor, and no poll."""
    before = descriptors()
    the_waker = Waker()
    the_waker.listen([])
    assert descriptors() == before
    assert not the_waker.wait(0.001)


@KERNEL
def test_a_wake_while_it_is_closed_writes_into_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor stays open until the wake is over: its number may be another file's a moment later."""
    the_waker = Waker()
    the_waker.listen([Pipe()])
    closing = threading.Thread(target=the_waker.close)
    write = os.eventfd_write

    def slowly(fd: int, value: int) -> None:
        closing.start()
        closing.join(0.05)
        assert select.select([], [fd], [], 0)[1] == [fd]  # raises where it is closed
        write(fd, value)

    monkeypatch.setattr(os, "eventfd_write", slowly)
    the_waker.set()
    closing.join(SOON)
    assert not closing.is_alive()
    the_waker.set()  # and there is nothing left to write to
    assert the_waker.is_set()
