"""Shared memory of a worker, from files of the test's own."""

import os

import pytest

from memwarden.admission.pool.shared_memory import SharedMemory
from memwarden.testing import FakeClock

MIB = 1 << 20


class Files:
    """A /proc with the two files that are read."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder / "7")
        self.walks = 0

    def put(self, mapped, share):
        (self.folder / "7" / "status").write_text(f"Name:\tx\nRssShmem:\t{mapped >> 10} kB\n")
        (self.folder / "7" / "smaps_rollup").write_text(
            f"00-ff ---p 00:00 0 [rollup]\nRss: 1 kB\nPss: 9 kB\nPss_Shmem: {share >> 10} kB\n"
        )


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path / "proc")


@pytest.fixture
def clock():
    return FakeClock()


def make(files, clock, shared):
    return SharedMemory(7, shared, str(files.folder), clock.monotonic)


def test_what_only_this_one_maps_counts_whole(files, clock):
    """Python's own mmap is shared memory."""
    files.put(0, 0)
    memory = make(files, clock, 10 * MIB)
    files.put(64 * MIB, 64 * MIB)
    assert memory.bytes(74 * MIB) == 64 * MIB


def test_what_was_there_before_does_not_count(files, clock):
    """A data set in shared memory that every worker has from the start."""
    files.put(500 * MIB, 100 * MIB)
    memory = make(files, clock, 510 * MIB)
    assert memory.bytes(510 * MIB) == 0
    assert memory.bytes(512 * MIB) == 0


def test_what_several_map_is_divided(files, clock):
    """Four workers that map 400 MiB hold 100 each."""
    files.put(0, 0)
    memory = make(files, clock, 0)
    files.put(400 * MIB, 100 * MIB)
    assert memory.bytes(400 * MIB) == 100 * MIB


def test_files_are_not_shared_memory(files, clock):
    """Pages of files can be dropped: a worker that maps a large file holds nothing by that."""
    files.put(0, 0)
    memory = make(files, clock, 0)
    assert memory.bytes(2000 * MIB) == 0


def test_between_two_walks_what_came_counts_whole(files, clock):
    """A walk takes long in a large process, so the next one waits; nothing is missed meanwhile."""
    files.put(0, 0)
    slow = iter([0.0, 0.5, 1.0, 2.0, 60.0, 60.5, 61.0])  # a walk takes half a second
    memory = SharedMemory(7, 0, str(files.folder), lambda: next(slow))
    files.put(40 * MIB, 10 * MIB)
    assert memory.bytes(40 * MIB) == 10 * MIB  # walked
    files.put(80 * MIB, 20 * MIB)
    assert memory.bytes(80 * MIB) == 50 * MIB  # not yet walked again: the 40 that came count whole
    files.put(84 * MIB, 21 * MIB)
    assert memory.bytes(84 * MIB) == 21 * MIB


def test_a_process_that_is_gone_holds_nothing(files, clock):
    """Its files are not there any more."""
    files.put(0, 0)
    memory = make(files, clock, 0)
    for name in ("status", "smaps_rollup"):
        os.unlink(files.folder / "7" / name)
    assert memory.bytes(100 * MIB) == 0
