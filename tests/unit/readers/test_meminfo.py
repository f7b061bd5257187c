"""The machine's memory."""

from pathlib import Path

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import SystemMemory
from memwarden.readers.linux.meminfo import MeminfoReader
from memwarden.testing import ProcTree
from support.trees import GIB, MIB, bare_metal, container_v2

#: The first lines of a real file (Linux 6.18), where names start alike.
REAL = b"""MemTotal:       24684096 kB
MemFree:        24239024 kB
MemAvailable:   24299476 kB
Buffers:            1524 kB
Cached:           110608 kB
SwapCached:           77 kB
Active:            43516 kB
Active(anon):       1548 kB
SwapTotal:       1048576 kB
SwapFree:         524288 kB
Zswap:                 0 kB
Shmem:              8788 kB
KReclaimable:     219044 kB
ShmemHugePages:       11 kB
ShmemPmdMapped:       12 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""


def test_each_figure_is_from_its_own_line(tmp_path: Path) -> None:
    """SwapCached is not Cached, ShmemHugePages is not Shmem; kB means 1024 bytes."""
    (tmp_path / "meminfo").write_bytes(REAL)
    assert MeminfoReader(str(tmp_path)).memory() == SystemMemory(
        total=24684096 * 1024,
        available=24299476 * 1024,
        free=24239024 * 1024,
        cached=(1524 + 110608 - 8788) * 1024,
        swap_total=1 << 30,
        swap_free=512 << 20,
    )


def test_a_machine_with_swap(tmp_path: Path) -> None:
    """Shared memory stands in Cached and cannot be dropped, so it is no cache."""
    system = MeminfoReader(bare_metal(ProcTree(tmp_path)).proc).memory()
    assert system == SystemMemory(16 * GIB, 12 * GIB, 12 * GIB, 2 * GIB + MIB, 2 * GIB, GIB)
    assert system.used == 4 * GIB


def test_a_machine_without_swap_has_none_of_it(tmp_path: Path) -> None:
    """Zero is measured here, not missing."""
    system = MeminfoReader(container_v2(ProcTree(tmp_path)).proc).memory()
    assert (system.swap_total, system.swap_free) == (0, 0)


def test_a_cache_is_never_less_than_nothing(tmp_path: Path) -> None:
    """Shmem may for a moment exceed Buffers and Cached together."""
    tree = ProcTree(tmp_path)
    tree.meminfo(Cached=MIB, Shmem=2 * MIB)
    assert MeminfoReader(tree.proc).memory().cached == 0


@pytest.mark.parametrize("line", ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "Shmem"])
@pytest.mark.contract("W1-10")
def test_a_missing_line_is_an_error(tmp_path: Path, line: str) -> None:
    """The error names the line and the file; there is no figure instead."""
    kept = [each for each in REAL.splitlines(keepends=True) if not each.startswith(line.encode() + b":")]
    (tmp_path / "meminfo").write_bytes(b"".join(kept))
    with pytest.raises(ReadError) as caught:
        MeminfoReader(str(tmp_path)).read()
    assert (caught.value.what, caught.value.why) == ("meminfo", "malformed")
    assert caught.value.where == f"{tmp_path}/meminfo"
    assert line in caught.value.detail


def test_the_newest_figures_are_read(tmp_path: Path) -> None:
    """Each read samples again."""
    tree = ProcTree(tmp_path)
    reader = MeminfoReader(tree.proc)
    first = reader.memory().available
    tree.meminfo(available=GIB)
    assert (first, reader.memory().available) == (6 * GIB, GIB)
    reader.close()


@pytest.mark.parametrize("rest", [1, 63, 64, 200])
def test_numbers_that_move_are_found_again(tmp_path: Path, rest: int) -> None:
    """A machine with more than 95 GiB writes wider numbers, and the lines behind them move."""
    tree = ProcTree(tmp_path)
    tree.meminfo(400 * GIB, 90 * GIB, SwapTotal=rest * 1024, SwapFree=rest * 1024)
    reader = MeminfoReader(tree.proc)
    seen = []
    for available in (90, 96, 90, 399, 1):
        tree.meminfo(400 * GIB, available * GIB, SwapTotal=rest * 1024, SwapFree=rest * 1024)
        seen.append(reader.memory())
    assert [each.available // GIB for each in seen] == [90, 96, 90, 399, 1]
    assert {each.swap_free for each in seen} == {rest * 1024}
