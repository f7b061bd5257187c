"""What the actions of an emergency really give back, on real memory and in their order."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memwarden
from memwarden.actions.caches import Caches
from memwarden.actions.collect import Collect
from memwarden.actions.gate import Gate
from memwarden.actions.registry import standard_actions
from memwarden.actions.targets import Targets
from memwarden.actions.trim import Trim
from memwarden.model.decisions import Decision
from memwarden.readers.linux.identity import ProcProbe
from memwarden.readers.linux.process import ProcessReader, read_stat
from memwarden.testing import HOG

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 1 << 20
ORDER = ("stop-admitting", "collect", "trim", "caches", "pause", "terminate")


def decide(action: str, **fields: object) -> Decision:
    """A decision of an emergency."""
    return Decision(rule="emergency", action=action, reason="CRITICAL", wall=0.0, monotonic=0.0, **fields)


def back(message: str) -> float:
    """The MiB that an outcome says came back."""
    found = re.search(r"([0-9.]+) MiB came back", message)
    return float(found[1]) if found else 0.0


class Knot:
    """Garbage that only the cycle collector finds."""

    def __init__(self, size: int) -> None:
        self.me, self.held = self, b"x" * size


def fragmented(size: int) -> list[bytes]:
    """One in a hundred blocks of the C library's heap: what was freed around it stays, unless it is trimmed."""
    block = 4000
    return [b"x" * block for _ in range(size // block)][::100]


@pytest.fixture(autouse=True, scope="module")
def large_blocks_leave_at_once() -> None:
    """glibc keeps them (up to 32 MiB) once a program has freed one of that size, which another test may have done."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(-3, 128 << 10)  # M_MMAP_THRESHOLD, at its default and for good


@pytest.fixture(autouse=True)
def only_the_action_collects() -> Iterator[None]:
    """The collector is on, as its action wants it, and never runs by itself: it would take the garbage before."""
    before = gc.get_threshold()
    gc.set_threshold(0)
    yield
    gc.set_threshold(*before)


@pytest.fixture
def resident() -> Iterator[Callable[[], int]]:
    """The resident size of this process."""
    reader = ProcessReader()
    yield reader.resident
    reader.close()


@pytest.mark.own_process
@pytest.mark.contract("V-10", "S1-29", "W1-12")
def test_what_collect_trim_and_caches_say_came_back_did(resident: Callable[[], int]) -> None:
    """Within a tenth of what was held, each; and a second time there is nothing, and nothing is claimed."""

    @functools.lru_cache
    def page(number: int) -> bytes:
        return b"x" * MIB

    caches = Caches(resident=resident)
    caches.register_lru(page, "pages")
    collect, trim = Collect(resident=resident, share=1.0), Trim(resident=resident)
    gc.collect()
    trim.run(decide("trim"))
    for _ in range(50):
        Knot(MIB)
    for number in range(40):
        page(number)
    keeper = fragmented(60 * MIB)
    assert back(collect.run(decide("collect")).message) == pytest.approx(50, rel=0.2)
    assert back(trim.run(decide("trim")).message) == pytest.approx(60, rel=0.2)
    outcome = caches.run(decide("caches"))
    assert outcome.message.startswith("cleared pages (40 entries)")
    assert back(outcome.message) == pytest.approx(40, rel=0.2)
    for action in (collect, trim):
        assert "nothing measurable came back" in action.run(decide(action.name)).message
    assert not caches.run(decide("caches")).done
    del keeper


def test_another_allocator_is_not_reported_as_trimmed(tmp_path: Path) -> None:
    """Where it took the place of glibc's the outcome says so."""
    library, source = str(tmp_path / "malloc.so"), tmp_path / "malloc.c"
    # Counts, and leaves the work to glibc: enough to be another function.
    source.write_text(
        "#include <stddef.h>\nextern void *__libc_malloc(size_t); int n;\n"
        "void *malloc(size_t size) { n++; return __libc_malloc(size); }\n"
    )
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, str(source)], check=True)
    program = """
from memwarden.actions.trim import Trim
from memwarden.model.decisions import Decision
outcome = Trim().run(Decision(rule="r", action="trim", reason="", wall=0.0, monotonic=0.0))
print(outcome.done, outcome.message)
"""
    environment = os.environ | {"LD_PRELOAD": library, "PYTHONPATH": str(Path(memwarden.__file__).parents[1])}
    reported = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert reported.stdout.startswith("False nothing to trim: another allocator replaces glibc's")


@pytest.mark.own_process
@pytest.mark.contract("V-11", "S1-34", "S1-35")
def test_an_emergency_is_relieved_step_by_step(resident: Callable[[], int]) -> None:
    """Each action in the order of an emergency does its part on its own, and all that can be is taken back."""
    hog = subprocess.Popen(
        [sys.executable, "-c", HOG, "20", "100", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert hog.stdout.readline() == "started\n"
        probe, gate, store = ProcProbe(), Gate(), [b"x" * MIB for _ in range(30)]
        targets, caches = Targets(probe), Caches(resident=resident)
        targets.track_process(hog.pid, "hog", essential=False)
        caches.register(store.clear, "store", size=store.__len__)
        actions = {action.name: action for action in standard_actions(targets, probe, caches, gate, resident)}
        assert tuple(actions)[1:] == ORDER
        gc.collect()
        Knot(30 * MIB)
        keeper = fragmented(30 * MIB)
        at_first = resident()

        reported = actions["stop-admitting"].run(decide("stop-admitting"))
        assert reported.done
        assert gate.closed
        for name in ("collect", "trim", "caches"):
            before = resident()
            reported = actions[name].run(decide(name))
            assert reported.done
            assert before - resident() > 20 * MIB, reported.message
            assert back(reported.message) > 20
        assert at_first - resident() > 70 * MIB

        def grows() -> bool:
            before = read_stat(hog.pid).rss
            time.sleep(0.15)
            return read_stat(hog.pid).rss > before

        assert grows()
        assert actions["pause"].run(decide("pause")).done
        assert not grows()
        assert read_stat(hog.pid).rss > 20 * MIB  # a pause gives nothing back
        assert actions["terminate"].run(decide("terminate")).message.startswith(f"terminated hog (pid {hog.pid})")
        assert not probe.alive(probe.own()._replace(pid=hog.pid))
        assert hog.wait(5) < 0

        assert actions["pause"].undo(decide("pause", undo=True)).done
        assert actions["stop-admitting"].undo(decide("stop-admitting", undo=True)).done
        assert not gate.closed
        del keeper
    finally:
        hog.kill()
        hog.communicate()
