"""One warden for several monitors: one sampler thread, each monitor at its own interval; on a fake clock."""

import gc
import json
import os
import signal
import threading

import pytest

from memwarden.compat.memory_manager import MemoryMonitor
from memwarden.compat.simple_memory_monitor import SimpleMemoryMonitor
from memwarden.compat.support import checks
from memwarden.compat.support.shared import shared
from memwarden.model.events import EventKind
from memwarden.testing import FakeClock, ScriptedReader

#: So large that headroom never makes the pace shorter than the interval.
TOTAL = 1 << 50


@pytest.fixture
def clock():
    return FakeClock(monotonic=1000.0)


@pytest.fixture
def reader():
    return ScriptedReader([1 << 20], total=TOTAL)


@pytest.fixture
def sources(reader):
    return lambda: [reader]


class Diary:
    """A member: when it got samples, counted from 1000, and ``"stop"`` once it has left."""

    def __init__(self, here, interval):
        self.reported = []
        self.context, self.interval = here, interval

    def receive(self, event):
        if event.kind is EventKind.SAMPLE:
            self.reported.append(round(event.monotonic - 1000, 3))

    def join(self):
        return self.context.join(self, self.interval, [self.receive], stop=lambda: self.reported.append("stop"))

    @property
    def samples(self):
        return [each for each in self.reported if not isinstance(each, str)]

    def __enter__(self):
        assert self.join()
        return self

    def __exit__(self, *_):
        self.context.leave(self)


@pytest.fixture
def here(sources, clock):
    return shared(sources, clock)


def our_threads():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("memwarden"))


@pytest.mark.contract("X-6", "S2-6")
def test_two_monitors_use_the_threads_of_one(sources, clock, reader, tmp_path):
    """However many monitors watch, one thread samples and one delivers; the last to leave takes both along."""
    simple = SimpleMemoryMonitor(300, log_file=tmp_path / "a.log", sources=sources, clock=clock)
    second = SimpleMemoryMonitor(300, log_file=tmp_path / "b.log", sources=sources, clock=clock)
    pressure = MemoryMonitor(sources=sources, clock=clock)
    simple.start()
    one = our_threads()
    assert one == ["memwarden-dispatcher", "memwarden-sampler"]
    pressure.start_monitoring()
    second.start()
    assert our_threads() == one
    reader.reads = 0
    clock.advance(20)
    assert reader.reads == 10  # once every two seconds, not once more for the others
    assert len(simple.metrics.memory_readings) == 1
    simple.stop()
    second.stop()
    assert our_threads() == one
    pressure.stop_monitoring()
    assert our_threads() == []


def test_everybody_of_the_process_shares(monkeypatch, tmp_path):
    """Monitors made by default share one warden; one with its own readers has its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monitors = [SimpleMemoryMonitor(), MemoryMonitor(), MemoryMonitor(5.0)]
    assert len({id(each._shared) for each in monitors}) == 1
    assert SimpleMemoryMonitor(sources=lambda: [])._shared is not monitors[0]._shared


def test_alone_the_interval_is_kept_exactly(here, clock):
    """A sample at once and one at each interval; then, once it has left, its call."""
    with Diary(here, 7) as diary:
        clock.advance(30)
    assert diary.reported == [0, 7, 14, 21, 28, "stop"]


def test_a_longer_interval_gets_every_so_many_th_sample(here, clock):
    """The first at once when it joins; then at its own interval, without the samples of others in between."""
    with Diary(here, 2) as quick:
        clock.advance(5)
        with Diary(here, 300) as slow:
            clock.advance(1000)
            assert here.warden.flush()
        assert here.warden.interval == 2
    assert slow.samples == [5, 305, 605, 905]
    gaps = {after - before for before, after in zip(quick.samples, quick.samples[1:], strict=False)}
    assert gaps <= {1, 2}  # the grid starts anew when another one joins
    assert quick.samples[:4] == [0, 2, 4, 5]


def test_a_shorter_interval_does_not_shorten_another(here, clock):
    """A member that samples every second joins and leaves: the other one's samples stay five minutes apart."""
    with Diary(here, 300) as slow:
        clock.advance(100)
        with Diary(here, 1) as quick:
            clock.advance(50)
        clock.advance(500)
        assert here.warden.flush()
    assert slow.samples == [0, 300, 600]
    assert quick.samples == list(range(100, 151))


@pytest.mark.parametrize(("first", "second"), [(300, 300), (10, 25), (10, 19), (60, 900), (7, 30)])
@pytest.mark.parametrize("later", [1, 0.5, 149, 151])
def test_no_interval_is_overdrawn(here, clock, first, second, later):
    """In whatever order they join: a gap is never longer than asked by more than a quarter of the least interval."""
    with Diary(here, first) as one:
        clock.advance(later)
        with Diary(here, second) as other:
            for _ in range(40):
                clock.advance(100)
            assert here.warden.flush()
    for diary, interval in ((one, first), (other, second)):
        gaps = [after - before for before, after in zip(diary.samples, diary.samples[1:], strict=False)]
        assert max(gaps) <= interval + min(first, second) / 4 + 0.01
        assert len(gaps) <= 2 * (4000 + later) / interval + 2


def test_an_owner_joins_once(here, clock):
    """A second time changes nothing, and one that left cannot leave again."""
    with Diary(here, 10) as diary:
        assert not diary.join()
    assert not here.leave(diary)
    assert diary.reported == [0, "stop"]


def test_many_threads_come_and_go(here, clock):
    """In the end no member is left, and no thread; the call of each comes last."""
    diaries, failures = [Diary(here, 10 + number) for number in range(12)], []

    def use(diary):
        try:
            with diary:
                assert here.has(diary)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(diary,)) for diary in diaries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert our_threads() == []
    for diary in diaries:
        assert diary.reported.index("stop") == len(diary.reported) - 1


def test_a_receiver_that_hangs_delays_no_other(here, clock):
    """It is set aside; the others go on, and it can still leave."""
    release, left = threading.Event(), threading.Event()
    with Diary(here, 100) as diary:
        try:
            here.join("hung", 100, [lambda event: release.wait(20)], stop=left.set)
            clock.advance(60)
            for _ in range(20):
                clock.advance(20)
            assert here.warden.flush()
            assert len(diary.samples) >= 4
            here.leave("hung")
            assert left.is_set()
        finally:
            release.set()


def test_the_log_of_a_monitor_stopped_while_its_disk_hangs_is_closed_later(sources, clock, tmp_path, monkeypatch):
    """The stop returns; the descriptor is closed when the write returns."""
    monkeypatch.setattr(checks, "STOP_PATIENCE_SECONDS", 0.05)
    monitor = SimpleMemoryMonitor(10, log_file=tmp_path / "m.log", sources=sources, clock=clock)
    monitor.start()
    (found,) = [each for each in gc.get_objects() if isinstance(each, checks.Checks) and each._file._fd >= 0]
    hanging, release, write = threading.Event(), threading.Event(), found._write

    def hang(*arguments):
        hanging.set()
        release.wait(20)
        write(*arguments)

    monkeypatch.setattr(found, "_write", hang)
    with Diary(monitor._shared, 1000):  # the threads stay
        clock.advance(10)
        assert hanging.wait(10)
        monitor.stop()
        assert not monitor.running
        assert found._file._fd >= 0
        release.set()
        for _ in range(200):
            if found._file._fd < 0:
                break
            threading.Event().wait(0.02)
        assert found._file._fd < 0


def test_a_callback_may_stop_its_own_monitor(sources, clock, tmp_path):
    """STOP is still written, behind the alert that led to it, and no thread stays."""
    log = tmp_path / "m.log"
    monitor = SimpleMemoryMonitor(
        10,
        10.0,
        log,
        alert_callback=lambda percent: monitor.stop(),
        sources=lambda: [ScriptedReader([900])],
        clock=clock,
    )
    monitor.start()
    for thread in threading.enumerate():
        if thread.name.startswith("memwarden"):
            thread.join(5)
    assert not monitor.running
    kinds = [json.loads(line).get("event_type") for line in log.read_text().splitlines()]
    assert kinds == ["START", None, "ALERT", "STOP"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_no_member_is_left_in_a_forked_child(here, clock):
    """The child starts without members, and its samples go to its own alone."""
    with Diary(here, 10) as diary:
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(20)
                assert not here.has(diary)
                before = len(diary.reported)
                with Diary(here, 10) as own:
                    assert here.warden.flush()
                assert own.samples == [0]
                assert len(diary.reported) == before
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert "stop" not in diary.reported


def test_a_warden_that_cannot_start_keeps_no_member(here, monkeypatch):
    """Where no thread can be started no member is left behind, and its call is made."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(type(here.warden), "start", refuse)
    diary = Diary(here, 10)
    with pytest.raises(RuntimeError):
        diary.join()
    assert not here.has(diary)
    assert diary.reported == ["stop"]
