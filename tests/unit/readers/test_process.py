"""One process, from files that a test owns."""

import os
from pathlib import Path

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.process import PAGE, ProcessReader, Stat, parse_statm, read_pss, read_stat
from memwarden.testing import ProcTree
from support.trees import HOSTILE_NAMES, MIB, own_process

STAT = (
    b"4242 (%b) S 17 4242 4242 0 -1 4194304 100 0 0 0 5 2 0 0 20 0 3 0 987654 12345678 2500"
    b" 18446744073709551615 1 1 0 0 0 0 0 16781312 134217730 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


def test_statm_is_pages() -> None:
    """Virtual, resident and shared size, in bytes."""
    assert parse_statm(b"765 397 369 5 0 123 0\n", "statm") == (765 * PAGE, 397 * PAGE, 369 * PAGE)


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_stat_is_not_misled_by_a_name(name: bytes) -> None:
    """A name may hold any byte but NUL; the fields behind it stay what they are."""
    stat = Stat(STAT % name, "stat")
    assert (stat.pid, stat.state, stat.ppid, stat.start, stat.rss) == (4242, "S", 17, 987654, 2500 * PAGE)
    assert stat.name == name.decode("utf-8", "replace")


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_a_reader_is_not_misled_by_a_name(tree: ProcTree, name: bytes) -> None:
    """Nor are the figures of status."""
    tree.process(5, name=name, rss=3 * MIB, shared=MIB, start=77)
    process = ProcessReader(5, tree.proc).memory()
    assert (process.key, process.rss, process.shared) == (ProcessKey(5, 77), 3 * MIB, MIB)
    assert process.name == name.decode("utf-8", "replace")


@pytest.mark.contract("S3-45")
def test_status_shows_size_kinds_and_peak(tree: ProcTree) -> None:
    """Resident, virtual, anonymous, shared, swapped and the highest so far, each from its line, in bytes."""
    tree.process(5)
    tree.write(
        "proc/5/status",
        "Name:\tworker\nState:\tS (sleeping)\nVmPeak:\t 9 kB\nVmSize:\t 8 kB\nVmHWM:\t 7 kB\nVmRSS:\t 6 kB\n"
        "RssAnon:\t 3 kB\nRssFile:\t 2 kB\nRssShmem:\t 1 kB\nVmSwap:\t 5 kB\nHugetlbPages:\t 0 kB\nThreads:\t1\n",
    )
    process = ProcessReader(5, tree.proc).memory()
    kib = 1024
    assert (process.vms, process.peak, process.rss, process.anon) == (8 * kib, 7 * kib, 6 * kib, 3 * kib)
    assert (process.shared, process.swap, process.vms_limit) == (3 * kib, 5 * kib, None)


@pytest.mark.contract("W1-10")
def test_a_kind_that_an_old_kernel_does_not_show_is_none(tree: ProcTree) -> None:
    """Before Linux 4.5 there was no RssAnon: None, not 0."""
    tree.process(5)
    tree.write("proc/5/status", "Name:\tworker\nVmRSS:\t 6 kB\n")
    process = ProcessReader(5, tree.proc).memory()
    assert process[2:] == (6 * 1024, None, None, None, None, None, None)


def test_the_resident_size_alone(tree: ProcTree) -> None:
    """What a guard asks for often."""
    tree.process(5, rss=8 * PAGE)
    assert ProcessReader(5, tree.proc).resident() == 8 * PAGE


def test_the_own_process_is_found_through_self(tree: ProcTree) -> None:
    """Its real pid comes out of stat."""
    own_process(tree, 4242)
    assert ProcessReader(proc=tree.proc).memory().key.pid == 4242


def test_a_zombie_is_gone(tree: ProcTree) -> None:
    """It has ended and holds no memory; that is no malformed file."""
    tree.process(5, state="Z")
    with pytest.raises(ReadError) as caught:
        ProcessReader(5, tree.proc).read()
    assert caught.value.why == "gone"


def test_a_living_process_without_a_size_is_malformed(tree: ProcTree) -> None:
    """No VmRSS is never taken for zero."""
    tree.process(5)
    tree.write("proc/5/status", "Name:\tworker\nState:\tS (sleeping)\n")
    with pytest.raises(ReadError, match="VmRSS") as caught:
        ProcessReader(5, tree.proc).read()
    assert caught.value.why == "malformed"


def test_a_name_changes_at_exec(tree: ProcTree) -> None:
    """The same process under a new name is shown under it at the next sample."""
    tree.process(5, name="launcher", start=7)
    reader = ProcessReader(5, tree.proc)
    assert reader.memory().name == "launcher"
    tree.process(5, name="ffmpeg", start=7)
    assert (reader.memory().name, reader.memory().key) == ("ffmpeg", ProcessKey(5, 7))


def test_no_process_is_gone_but_no_proc_is_absent(tree: ProcTree) -> None:
    """A process that has ended is reported from where nothing can be seen."""
    for proc, why in ((tree.proc, "gone"), (str(tree.folder / "nowhere"), "absent")):
        with pytest.raises(ReadError) as caught:
            read_stat(5, proc)
        assert caught.value.why == why


def test_the_own_limit_on_address_space_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_AS is asked of the process that is watched, and none is None."""
    resource = pytest.importorskip("resource")
    asked = []

    def prlimit(pid: int, which: int) -> tuple[int, int]:
        asked.append((pid, which))
        return (5 << 30, resource.RLIM_INFINITY) if pid == 0 else (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    monkeypatch.setattr(resource, "prlimit", prlimit)
    assert ProcessReader().memory().vms_limit == 5 << 30
    assert ProcessReader(os.getpid()).memory().vms_limit is None
    assert asked == [(0, resource.RLIMIT_AS), (os.getpid(), resource.RLIMIT_AS)]


def test_a_limit_that_may_not_be_asked_for_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process: the rest is still read."""
    resource = pytest.importorskip("resource")

    def prlimit(pid: int, which: int) -> tuple[int, int]:
        raise PermissionError(1, "no")

    monkeypatch.setattr(resource, "prlimit", prlimit)
    process = ProcessReader().memory()
    assert process.vms_limit is None
    assert process.rss > 0


def test_the_proportional_share(tree: ProcTree) -> None:
    """Pss, not Pss_Anon nor SwapPss."""
    tree.write(
        "proc/5/smaps_rollup",
        "5566-7788 ---p 00000000 00:00 0    [rollup]\nRss:  1588 kB\nPss:  174 kB\nPss_Dirty: 9 kB\nSwapPss: 3 kB\n",
    )
    assert read_pss(5, tree.proc) == 174 * 1024


@pytest.mark.parametrize("content", ["", "Rss: 5 kB\n", "x\nPss:  17", "x\nPss: many kB\n"])
def test_a_share_that_is_not_there_is_not_zero(tree: ProcTree, content: str) -> None:
    """Zero would let a tree pass its ceiling."""
    tree.write("proc/5/smaps_rollup", content)
    with pytest.raises(ReadError) as caught:
        read_pss(5, tree.proc)
    assert caught.value.why == "malformed"
