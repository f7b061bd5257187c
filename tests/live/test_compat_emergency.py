"""What the old pressure monitor does by level, with real processes, on a memory that the test sets and a fake clock."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from memwarden.compat.memory_manager import MemoryMonitor
from memwarden.model.events import EventKind
from memwarden.model.facts import SystemMemory
from memwarden.testing import FakeClock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are identified by /proc")

TOTAL = 1 << 40


class Dial:
    """A machine whose use a test sets."""

    name = "dial"

    def __init__(self) -> None:
        self.percent = 10.0
        self.reads = 0

    def read(self) -> dict[str, Any]:
        self.reads += 1
        free = TOTAL - round(TOTAL * self.percent / 100)
        return {"system": SystemMemory(TOTAL, free, free, 0, 0, 0)}

    def close(self) -> None:
        pass


class Scene:
    """A monitor at work, its dial, and what it decided and did, in order."""

    def __init__(self) -> None:
        self.dial, self.clock = Dial(), FakeClock()
        sources = lambda: [self.dial]  # noqa: E731
        self.monitor = MemoryMonitor(sources=sources, clock=self.clock)
        self.done: list[tuple[str, bool]] = []
        self.decided: list[str] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.monitor._shared.warden.subscribe(self._receive)

    def _receive(self, event: Any) -> None:
        if event.kind is EventKind.DECISION:
            self.decided.append(("undo " if event.value.undo else "") + event.value.action)
        elif event.kind is EventKind.OUTCOME and not event.value.decision.undo:
            self.done.append((event.value.decision.action, event.value.done))

    def child(self, name: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process that sleeps, tracked."""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.children.append(child)
        self.monitor.track_process(child.pid, name, is_ffmpeg=True, **options)
        return child

    def at(self, percent: float, seconds: int, until: Callable[[], bool] = lambda: False) -> None:
        """Time passes at this use of memory."""
        self.dial.percent = percent
        for _ in range(seconds):
            self.clock.advance(1)
            assert self.monitor.flush(20)
            if until():
                return


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.monitor.stop_monitoring()
    for child in made.children:
        child.kill()
        child.wait()


@pytest.mark.contract("S1-26")
def test_gently_at_moderate(scene: Scene) -> None:
    """At LOW nothing is done; at MODERATE garbage is collected, once a minute and not at each sample."""
    scene.monitor.start_monitoring()
    scene.at(60, 120)
    assert scene.decided == []
    scene.at(75, 120)
    assert set(scene.decided) == {"collect"}
    assert len(scene.decided) == 2


@pytest.mark.contract("S1-29", "X-25")
def test_aggressively_at_high_and_no_process_ends(scene: Scene) -> None:
    """Caches are really cleared and the allocator is trimmed; processes that are not essential continue."""

    @functools.lru_cache
    def square(number: int) -> int:
        return number * number

    square(3)
    scene.monitor.caches.register_lru(square)
    child = scene.child("preview", essential=False)
    scene.monitor.start_monitoring()
    scene.at(85, 120)
    assert {"collect", "trim", "caches"} == set(scene.decided)
    assert ("caches", True) in scene.done
    assert square.cache_info().currsize == 0
    assert child.poll() is None
    assert not scene.monitor.gate.closed


@pytest.mark.contract("S1-34", "S1-35", "W1-12", "V-12")
def test_step_by_step_at_critical(scene: Scene) -> None:
    """The order of the emergency, with a fresh sample before each step; when it helped no other process is killed."""
    older = scene.child("older", essential=False)
    newer = scene.child("newer", essential=False)
    essential = scene.child("encode")
    scene.monitor.start_monitoring()
    scene.at(97, 120, until=lambda: newer.poll() is not None)
    assert newer.returncode in (-signal.SIGTERM, -signal.SIGKILL)
    steps = [action for action in dict.fromkeys(scene.decided) if action != "notify"]
    ladder = ["stop-admitting", "collect", "trim", "caches", "pause", "terminate"]
    assert sorted(steps) == sorted(ladder)
    assert [step for step in scene.decided if step in ("stop-admitting", "pause", "terminate")][:3] == [
        "stop-admitting",
        "pause",
        "terminate",
    ]
    assert scene.monitor.gate.closed
    assert ("terminate", True) in scene.done
    scene.at(40, 120)
    assert (older.poll(), essential.poll()) == (None, None)
    assert not scene.monitor.gate.closed
    assert [each.name for each in scene.monitor.get_ffmpeg_processes()] == ["older", "encode"]


def test_what_was_paused_runs_on_when_watching_ends(scene: Scene) -> None:
    """Stopping the monitor leaves no process stopped and no gate shut."""
    child = scene.child("preview", essential=False)
    scene.monitor.start_monitoring()
    scene.at(97, 120, until=lambda: ("pause", True) in scene.done)
    assert _state(child) == "T"
    assert scene.monitor.gate.closed
    scene.monitor.stop_monitoring()
    assert _state(child) in "RS"
    assert not scene.monitor.gate.closed


def _state(child: subprocess.Popen[bytes]) -> str:
    with open(f"/proc/{child.pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]
