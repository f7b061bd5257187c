"""psutil's readers against /proc's on this machine: the same processes, the same sizes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from memwarden.errors import ReadError
from memwarden.readers.collect import collect
from memwarden.readers.linux.identity import ProcProbe
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.readers.linux.process import ProcessReader
from memwarden.readers.linux.tree import TreeReader
from memwarden.readers.portable import (
    PortableMachine,
    PortableProbe,
    PortableReader,
    PortableTree,
)
from support.trees import descriptors

pytest.importorskip("psutil")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")

#: Holds 20 MiB, starts a child that holds 30 MiB and one that ends and is not reaped, and waits.
FAMILY = """
import os, signal, subprocess, sys
kept = b"x" * (20 << 20)
child = subprocess.Popen([sys.executable, "-c", "kept = b'x' * (30 << 20); print('up', flush=True); input()"],
                         stdout=subprocess.PIPE)
child.stdout.readline()
if os.fork() == 0:
    os._exit(0)
print(child.pid, flush=True)
while True:
    signal.pause()
"""

NEAR = 1 << 20


@pytest.fixture
def family() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A parent and the pid of its child; both are ended afterwards."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FAMILY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    yield parent, child
    try:
        os.killpg(parent.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    parent.communicate()


def _pids(reader: PortableTree | TreeReader) -> tuple[set[int], int]:
    memory, gaps = reader.sample()
    assert gaps == ()
    return {key.pid for key in memory.keys}, memory.zombies


def test_machine_and_process_agree() -> None:
    """Total to the byte, the rest to what moves between two samples."""
    portable = PortableReader().read()
    machine, own = MeminfoReader().read()["system"], ProcessReader().memory()
    assert portable["system"].total == machine.total
    assert abs(portable["system"].available - machine.available) < 128 * NEAR
    assert (portable["process"].key.pid, portable["process"].name) == (own.key.pid, own.name)
    assert abs(portable["process"].rss - own.rss) < NEAR
    assert abs(portable["process"].vms - own.vms) < NEAR
    assert portable["process"].peak >= portable["process"].rss


def test_a_tree_agrees_through_its_life(family: tuple["subprocess.Popen[str]", int]) -> None:
    """The same members, sizes and zombies; an orphan is kept; then none is left, and that is reported."""
    parent, child = family
    portable, proc = PortableTree(parent.pid), TreeReader(parent.pid)
    assert _pids(portable) == _pids(proc) == ({parent.pid, child}, 1)
    ours, theirs = portable.sample()[0], proc.sample()[0]
    assert abs(ours.total - theirs.total) < 2 * NEAR
    assert ours.anon is not None
    assert ours.anon > 50 * NEAR
    parent.kill()
    parent.wait()
    living, _ = _pids(portable)
    assert living == _pids(proc)[0] == {child}  # when its other child is reaped is pid 1's affair
    probe = PortableProbe()
    key = probe.key_of(child)
    assert key in ours.keys
    os.kill(child, signal.SIGKILL)
    until = time.monotonic() + 10
    while probe.alive(key) and time.monotonic() < until:
        time.sleep(0.005)
    facts = collect([portable])
    if "tree" in facts:
        assert facts["tree"].keys == ()  # pid 1 has not reaped it yet
    else:
        assert [gap.why for gap in facts["gaps"]] == ["gone"]
    proc.close()


def test_the_probes_agree(family: tuple["subprocess.Popen[str]", int]) -> None:
    """Live processes and their members; a zombie is not alive to either."""
    parent, child = family
    for probe in (PortableProbe(), ProcProbe()):
        key = probe.key_of(parent.pid)
        assert child in {each.pid for each in probe.children(key)}
        assert probe.alive(probe.key_of(child))
        assert probe.own().pid == os.getpid()
    portable, proc = PortableProbe(), ProcProbe()
    keys = portable.key_of(parent.pid), proc.key_of(parent.pid)
    parent.kill()
    os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
    assert (portable.alive(keys[0]), proc.alive(keys[1])) == (False, False)
    with pytest.raises(ReadError) as caught:
        PortableReader(parent.pid)._process()
    assert (caught.value.what, caught.value.why) == ("zombie", "gone")


def test_the_largest_are_the_largest(family: tuple["subprocess.Popen[str]", int]) -> None:
    """The ranks are those of a bare scan of /proc, largest first."""
    top = PortableMachine(top=3).read()["top"]
    sizes = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/statm", "rb") as file:
                    sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            except OSError:
                continue
    assert list(top.rss) == sorted(top.rss, reverse=True)
    for ours, theirs in zip(top.rss, sorted(sizes, reverse=True), strict=False):
        assert abs(ours - theirs) < 8 * NEAR
    assert abs(top[0] - len(sizes)) < 20


def test_nothing_is_left_open(family: tuple["subprocess.Popen[str]", int]) -> None:
    """However often the machine is looked through."""
    parent, _ = family
    readers = [PortableReader(), PortableTree(parent.pid), PortableMachine()]
    for reader in readers:
        reader.read()
    before = descriptors()
    for _ in range(20):
        for reader in readers:
            reader.read()
    assert descriptors() == before
