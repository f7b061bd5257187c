"""The kernel's wake-ups, for real: groups of the test's own, on this machine's version 1 and version 2."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memwarden.readers.linux.wakeups import GroupEvent, StallTrigger, UsageThresholds, own_wakeups
from memwarden.testing import HOG
from support.groups import remove_group
from support.guest import Guest
from support.trees import descriptors

MIB = 1 << 20
V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
NEEDS_V1 = pytest.mark.skipif(not os.access(V1 / "cgroup.event_control", os.W_OK), reason="needs groups of version 1")
NEEDS_V2 = pytest.mark.skipif(
    not os.access(V2 / "cgroup.procs", os.W_OK) or not os.path.exists(V2 / "memory.pressure"),
    reason="needs a version 2 hierarchy beside version 1, with stalls",
)
_number = itertools.count()


@pytest.fixture
def make() -> Iterator[Callable[[Path], Path]]:
    """Makes groups below a hierarchy, and removes them in the end."""
    made: list[Path] = []

    def group(hierarchy: Path) -> Path:
        path = hierarchy / f"mw-test-{os.getpid()}-{next(_number)}"
        path.mkdir()
        made.append(path)
        return path

    yield group
    for path in made:
        remove_group(path)


@contextlib.contextmanager
def running(code: str, *arguments: object, groups: tuple[Path, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A program of Python that was in these groups before its first line, ended with the block."""
    join = "".join(f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n" for group in groups)
    process = subprocess.Popen(
        [sys.executable, "-c", join + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


def woken(wakeup: object, seconds: float) -> float | None:
    """Seconds until it wakes."""
    poll, started = select.poll(), time.monotonic()
    poll.register(wakeup.fileno(), wakeup.events)  # type: ignore[attr-defined]
    return time.monotonic() - started if poll.poll(seconds * 1000) else None


def usage(group: Path) -> int:
    return int((group / "memory.usage_in_bytes").read_text())


@NEEDS_V1
def test_a_child_that_grows_past_a_threshold_wakes_us(make: Callable[[Path], Path]) -> None:
    """At 64 MiB and again at 96, within a few MiB, and not before; nothing in the group is changed."""
    group = make(V1)
    thresholds = UsageThresholds(str(group), [64 * MIB, 96 * MIB])
    with running(HOG, 1, 100, 120, groups=(group,)) as hog:
        assert woken(thresholds, 20) is not None
        assert 64 * MIB <= usage(group) < 80 * MIB
        assert thresholds.clear()
        assert woken(thresholds, 20) is not None
        assert 96 * MIB <= usage(group) < 112 * MIB
        assert thresholds.clear()
        assert hog.poll() is None
    assert (group / "memory.limit_in_bytes").read_text() == (V1 / "memory.limit_in_bytes").read_text()
    thresholds.close()


@NEEDS_V1
def test_thresholds_that_were_moved_wake_at_their_new_place_only(make: Callable[[Path], Path]) -> None:
    """The old registration is gone; a poll of the same number is woken by the new one."""
    group = make(V1)
    thresholds = UsageThresholds(str(group), [32 * MIB])
    number = thresholds.fileno()
    thresholds.move([80 * MIB])
    assert thresholds.fileno() == number
    with running(HOG, 1, 100, 100, groups=(group,)):
        assert woken(thresholds, 20) is not None
        assert usage(group) >= 79 * MIB
    thresholds.close()


@NEEDS_V1
def test_reclaim_and_the_limit_itself_wake_us(make: Callable[[Path], Path]) -> None:
    """A child that goes past the limit: hard reclaim first, and then the kernel's kill."""
    group = make(V1)
    (group / "memory.limit_in_bytes").write_text(str(48 * MIB))
    reclaim = GroupEvent(str(group), "memory.pressure_level", ("medium",))
    limit = GroupEvent(str(group), "memory.oom_control")
    with running(HOG, 1, 0, 200, groups=(group,)) as hog:
        assert woken(limit, 20) is not None
        assert limit.clear()
        assert hog.wait(20) == -9
    assert woken(reclaim, 1) is not None
    assert reclaim.clear()
    reclaim.close()
    limit.close()


@NEEDS_V1
def test_a_group_that_goes_away_wakes_us_for_the_last_time(make: Callable[[Path], Path]) -> None:
    """The kernel signals, and ``clear`` shows that nothing more will come."""
    group = make(V1)
    thresholds = UsageThresholds(str(group), [64 * MIB])
    assert thresholds.clear()
    group.rmdir()
    assert woken(thresholds, 5) is not None
    assert not thresholds.clear()
    thresholds.close()


@NEEDS_V1
def test_a_child_after_a_fork_closes_its_copy_only(make: Callable[[Path], Path]) -> None:
    """The parent's registration still wakes the parent."""
    group = make(V1)
    thresholds = UsageThresholds(str(group), [32 * MIB])
    pid = os.fork()
    if pid == 0:
        thresholds.close()
        os._exit(0)
    os.waitpid(pid, 0)
    with running(HOG, 1, 0, 64, groups=(group,)):
        assert woken(thresholds, 20) is not None
    assert thresholds.clear()
    thresholds.close()


THRASH = """
import mmap, os, sys, time
path = sys.argv[1]
with open(path, "wb") as file:
    for _ in range(64):
        file.write(os.urandom(1 << 20))
print("written", flush=True)
with open(path, "rb") as file:
    until = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        for at in range(0, 64 << 20, 4096):
            pages[at]
        pages.close()
"""


@NEEDS_V1
@NEEDS_V2
def test_a_group_that_thrashes_wakes_us_by_its_stalls(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """24 MiB for a file of 64: the group's own trigger fires; its end is noticed."""
    held, counted = make(V1), make(V2)
    (held / "memory.limit_in_bytes").write_text(str(24 * MIB))
    trigger = StallTrigger(str(counted / "memory.pressure"), stall=0.05)
    with running(THRASH, tmp_path / "file", 15, groups=(held, counted)):
        after = woken(trigger, 15)
    print(f"woken after {after} s")
    assert after is not None
    assert trigger.clear()
    until = time.monotonic() + 10
    while (counted / "cgroup.procs").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    counted.rmdir()
    assert not trigger.clear()
    trigger.close()


@pytest.mark.skipif(not os.path.exists("/proc/pressure/memory"), reason="the kernel counts no stalls")
def test_the_machines_stalls_can_be_waited_for_as_an_ordinary_user() -> None:
    """Linux 6.5 and later grant the window of 2 s to every process, and none is refused without a reason."""
    code = (
        "import os, json\n"
        "from memwarden.readers.linux.wakeups import own_wakeups\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "granted, refused = own_wakeups()\n"
        "print(json.dumps([[each.name for each in granted], refused]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    granted, refused = json.loads(done.stdout)
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert ("stalls of the machine" in granted) is (release >= (6, 5)), refused
    assert all(why in ("absent", "denied") and detail for _, _, why, detail in refused)


def test_asking_for_everything_leaves_nothing_when_closed() -> None:
    """Granted or refused, on whatever machine this is."""
    before = descriptors()
    for _ in range(3):
        granted, refused = own_wakeups()
        assert granted or refused
        assert all(each.clear() for each in granted)
        assert len({each.name for each in granted}) == len(granted)
        for each in granted:
            each.close()
    assert descriptors() == before


def test_version_2(guest: Guest) -> None:
    """In a kernel with the memory controller on version 2: see guest_wakeups2.py."""
    result = guest.pytest("tests/live/guest_wakeups2.py", "-p", "no:cacheprovider", timeout_s=115)
    assert result.returncode == 0, result.output[-6000:]
