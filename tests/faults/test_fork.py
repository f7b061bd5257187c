"""A real fork at the worst moments: the child has a stopped, usable warden, and the parent goes on.

Every child runs under an alarm: one that waits for a lock whose holder is gone is killed by it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from memwarden.engine.clock import SystemClock
from memwarden.engine.warden import Warden
from memwarden.model.decisions import Decision
from memwarden.model.events import Event, EventKind
from memwarden.policy.rules import Rule
from memwarden.records.jsonl import JsonlRecorder, read_lines
from memwarden.testing import ScriptedReader
from support.engine import SOON, VAST, Keeper, no_thread_is_left, our_threads
from support.forked import ALARM, ended_well, run_in_child

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A thread that outlives its test would be forked in another one."""
    yield
    assert no_thread_is_left(), our_threads()


def usable(warden: Warden) -> None:
    """What a child may expect of a warden that came along."""
    assert not warden.running
    assert our_threads() == [] or threading.current_thread() in our_threads()
    keeper = Keeper()
    warden.subscribe(keeper)
    others = set(our_threads())
    for _ in range(2):
        warden.start()
        assert warden.running
        assert warden.flush()
        warden.stop()
        assert not warden.running
        assert set(our_threads()) == others
    kinds = [kind for kind in keeper.kinds() if kind in (EventKind.START, EventKind.STOP)]
    assert kinds == [EventKind.START, EventKind.STOP] * 2
    assert keeper.of(EventKind.TROUBLE) == []
    assert len(keeper.of(EventKind.SAMPLE)) >= 2
    assert warden.sample().sample.system is not None
    assert warden.status()["running"] is False


def seen(keeper: Keeper) -> int:
    """How many samples have come."""
    return len(keeper.of(EventKind.SAMPLE))


@pytest.mark.contract("WX-1")
def test_a_child_has_a_stopped_usable_warden() -> None:
    """And the parent goes on as if nothing had been."""
    keeper = Keeper()
    with Warden([ScriptedReader([0], VAST)], interval=0.01, recorders=[keeper]) as warden:
        pid = os.fork()
        if not pid:
            run_in_child(lambda: usable(warden))
        assert ended_well(pid)
        before = seen(keeper)
        assert keeper.wait_for(lambda: seen(keeper) > before + 5)
        assert warden.running
    assert keeper.of(EventKind.TROUBLE) == []


class Forks(ScriptedReader):
    """A reader that forks in the midst of its third sample; ``child`` is what the child does there."""

    def __init__(self, child: Callable[[], None]) -> None:
        super().__init__([0], VAST)
        self._child = child
        self.pid = 0
        self._forked = False  # remembered in the child, too, which reads as well

    def read(self) -> Mapping[str, Any]:
        """The third forks."""
        if self.reads == 2 and not self._forked:
            self._forked = True
            self.pid = os.fork()
            if not self.pid:
                self._child()
        return super().read()


@pytest.mark.contract("WX-1")
def test_a_fork_in_the_midst_of_a_tick() -> None:
    """On the very thread that samples: the child can start and stop the warden, the parent finishes its sample."""
    keeper = Keeper()
    reader = Forks(lambda: run_in_child(lambda: usable(warden)))
    warden = Warden([reader], interval=0.01, recorders=[keeper])
    with warden:
        assert keeper.wait_for(lambda: seen(keeper) > 10)
    assert ended_well(reader.pid)
    assert keeper.of(EventKind.GAP) == keeper.of(EventKind.TROUBLE) == []


def test_a_fork_in_the_midst_of_a_tick_that_returns(tmp_path: Path) -> None:
    """A child that continues in the sample of its fork neither samples again nor delivers: its thread ends."""
    record = tmp_path / "record.jsonl"

    def child() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(ALARM)

    keeper, reader = Keeper(), Forks(child)
    with Warden([reader], interval=0.01, recorders=[JsonlRecorder(record), keeper]):
        assert keeper.wait_for(lambda: seen(keeper) > 10)
        assert ended_well(reader.pid)
    moments = [event.monotonic for event in read_lines(record) if event.kind is EventKind.SAMPLE]
    assert moments == keeper.moments()


def test_a_fork_inside_a_callback() -> None:
    """On the delivering thread, while it is at work on an event."""
    pids, keeper = [], Keeper()

    def forks(event: Event) -> None:
        if event.kind is EventKind.SAMPLE and not pids:
            pid = os.fork()
            if not pid:
                pids.append(pid)
                run_in_child(lambda: usable(warden))
            pids.append(pid)

    warden = Warden([ScriptedReader([0], VAST)], interval=0.01)
    warden.subscribe(forks)
    warden.subscribe(keeper)
    with warden:
        assert keeper.wait_for(lambda: seen(keeper) > 10)
    assert ended_well(pids[0])
    assert keeper.of(EventKind.TROUBLE) == []


@pytest.mark.contract("WX-1")
def test_forks_at_any_moment_while_everything_is_busy() -> None:
    """Locks are taken all the time: forty children of four wardens, and none waits for a lock left locked."""
    stop, keeper = threading.Event(), Keeper()
    wardens = [Warden([ScriptedReader([0, 1], VAST)], interval=0.001) for _ in range(4)]
    for warden in wardens:
        warden.subscribe(lambda _: None)
        warden.start()
    wardens[0].subscribe(keeper)

    def chatter() -> None:
        while not stop.is_set():
            for warden in wardens:
                warden.publish(Event(kind=EventKind.EXIT, wall=0.0, monotonic=0.0))
                warden.subscribe(lambda _: None)()
                warden.status()

    threads = [threading.Thread(target=chatter) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            pids = []
            for warden in wardens:
                pid = os.fork()
                if not pid:
                    run_in_child(lambda warden=warden: usable(warden))  # type: ignore[misc]
                pids.append(pid)
            assert [ended_well(pid) for pid in pids] == [True] * len(pids)
    finally:
        stop.set()
        for thread in threads:
            thread.join(SOON)
        for warden in wardens:
            warden.stop()
    assert keeper.of(EventKind.TROUBLE) == []


def test_a_fork_while_a_lock_is_held() -> None:
    """The one that guards the queue: its holder stays with the parent, and the child does not wait for it."""
    entered, release, parent = threading.Event(), threading.Event(), os.getpid()

    class Held(SystemClock):
        """Asked by the delivering thread, which holds the lock meanwhile."""

        def monotonic(self) -> float:  # type: ignore[override]
            me = threading.current_thread().name
            if me == "memwarden-dispatcher" and os.getpid() == parent and not entered.is_set():
                entered.set()
                assert release.wait(2 * SOON)
            return time.monotonic()

    warden = Warden([ScriptedReader([0], VAST)], interval=0.01, clock=Held())
    starter = threading.Thread(target=warden.start)  # it may wait for the lock as well
    starter.start()
    try:
        assert entered.wait(SOON)
        pid = os.fork()
        if not pid:
            run_in_child(lambda: usable(warden))
        assert ended_well(pid)
    finally:
        release.set()
        starter.join(SOON)
        warden.stop()


def test_a_loop_over_readings_ends_in_the_child() -> None:
    """Its warden is stopped there, so that no reading will ever come."""
    warden = Warden([ScriptedReader([0], VAST)], interval=0.01)
    readings = warden.watch()
    next(readings)

    def check() -> None:
        for _ in readings:  # those that had come before the fork
            assert not warden.running
        usable(warden)

    pid = os.fork()
    if not pid:
        run_in_child(check)
    assert ended_well(pid)
    next(readings)
    readings.close()


def test_a_child_while_a_callback_hangs_in_the_parent() -> None:
    """The thread that it holds stayed with the parent; in the child the receiver is used again."""
    entered, release = threading.Event(), threading.Event()
    parent, got = os.getpid(), []

    def hangs(event: Event) -> None:
        got.append(event.kind)
        if os.getpid() == parent:
            entered.set()
            assert release.wait(2 * SOON)

    def check() -> None:
        assert warden.status()["stuck_receivers"] == []
        got.clear()
        usable(warden)
        assert EventKind.SAMPLE in got

    warden = Warden([ScriptedReader([0], VAST)], interval=0.01, patience=0.1)
    warden.subscribe(hangs)
    try:
        with warden:
            assert entered.wait(SOON)
            until = time.monotonic() + SOON
            while not warden.status()["stuck_receivers"] and time.monotonic() < until:
                time.sleep(0.01)
            assert warden.status()["stuck_receivers"]
            pid = os.fork()
            if not pid:
                run_in_child(check)
            assert ended_well(pid)
            release.set()
    finally:
        release.set()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="descriptors are counted in /proc/self/fd")
@pytest.mark.own_process  # guards that ran before keep readers open, which the child closes, too
def test_the_child_gives_its_copies_of_descriptors_back(tmp_path: Path) -> None:
    """Readers and recorders are closed in the child; the parent's record goes on in its own file."""
    record = tmp_path / "record.jsonl"
    before = len(os.listdir("/proc/self/fd"))

    def check() -> None:
        assert len(os.listdir("/proc/self/fd")) == before

    with Warden(interval=0.01, recorders=[JsonlRecorder(record)]) as warden:
        assert warden.flush()
        assert len(os.listdir("/proc/self/fd")) > before
        pid = os.fork()
        if not pid:
            run_in_child(check)
        assert ended_well(pid)
        lines = sum(1 for _ in read_lines(record))
        until = time.monotonic() + SOON
        while sum(1 for _ in read_lines(record)) < lines + 5 and time.monotonic() < until:
            time.sleep(0.01)
    assert sum(1 for _ in read_lines(record)) >= lines + 5


def test_one_warden_that_cannot_be_closed_does_not_spoil_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    """In the child every warden is put in order, whatever one of its readers does."""

    class Rude(ScriptedReader):
        def close(self) -> None:
            raise OSError("rude")

    wardens = [Warden([Rude([0], VAST)], interval=0.01), Warden([ScriptedReader([0], VAST)], interval=0.01)]
    for warden in wardens:
        warden.start()

    def check() -> None:
        for warden in wardens:
            usable(warden)

    pid = os.fork()
    if not pid:
        run_in_child(check)
    assert ended_well(pid)
    for warden in wardens:
        warden.stop()
    assert "Exception ignored" not in capfd.readouterr().err


pooled: Warden | None = None


def work(number: int) -> int:
    """What a worker of the pool does: it uses the warden that came along."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(ALARM)
    assert pooled is not None
    usable(pooled)
    signal.alarm(0)
    return number * number


@pytest.mark.contract("WX-1")
def test_a_pool_of_forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefork workers inherit no dead sampler: each finds a stopped warden and can run it."""
    keeper = Keeper()
    with Warden([ScriptedReader([0], VAST)], interval=0.01, recorders=[keeper]) as warden:
        monkeypatch.setattr(sys.modules[__name__], "pooled", warden)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map_async(work, range(6)).get(timeout=3 * ALARM) == [0, 1, 4, 9, 16, 25]
        before = seen(keeper)
        assert keeper.wait_for(lambda: seen(keeper) > before + 3)


@pytest.mark.skipif(sys.platform != "linux", reason="resident sizes are read from /proc")
def test_what_came_back_is_measured_on_the_child() -> None:
    """A cache that a child fills and clears counts in the child's own memory, though the parent measured before."""
    warden = Warden([ScriptedReader([0], VAST)], rules=[Rule(name="full", when="machine.used >= 1B", then="caches")])
    store: list[bytes] = []
    warden.caches.register(store.clear, "store", size=store.__len__)

    def cleared() -> float:
        store.extend(b"x" * (1 << 20) for _ in range(50))
        decision = Decision(rule="full", action="caches", reason="", wall=0.0, monotonic=0.0)
        message = warden.caches.run(decision).message
        assert "MiB came back" in message, message
        return float(message.partition("; ")[2].partition(" MiB")[0])

    assert 40 < cleared() < 60

    def check() -> None:
        assert 40 < cleared() < 60

    pid = os.fork()
    if pid == 0:
        run_in_child(check)
    assert ended_well(pid)
    warden.close()
