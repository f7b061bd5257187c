"""The ceiling by cgroup version 2 on plain files; tests/live runs it on a real kernel."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memwarden.contain import ceiling as base
from memwarden.contain import cgroup2, own_cgroup
from memwarden.contain.cgroup2 import Cgroup2Ceiling
from memwarden.errors import CeilingUnavailable
from memwarden.model.facts import ProcessKey
from memwarden.model.units import MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux' own")

LIMIT = 64 * MIB
FILES = {
    "cgroup.events": "populated 0\n",
    "cgroup.freeze": "0",
    "cgroup.kill": "",
    "memory.current": "0\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    "memory.high": "max",
    "memory.max": "max",
    "memory.oom.group": "0",
    "memory.peak": "0\n",
    "memory.stat": "anon 0\nfile 0\ninactive_file 0\nactive_file 0\n",
    "memory.swap.max": "max",
}


class Group:
    """A control group of plain files."""

    def __init__(self, parent: str) -> None:
        folder = Path(parent, "memwarden", "run-1")
        folder.mkdir(parents=True)
        Path(parent, "memwarden", "cgroup.subtree_control").write_text("")
        for name, text in FILES.items():
            (folder / name).write_text(text)
        self.path = str(folder)

    def pids(self) -> list[int]:
        """None."""
        return []

    def members(self) -> list[ProcessKey]:
        """None."""
        return []

    def close(self, patience: float = 1.0) -> bool:
        """The files stay."""
        return True


@pytest.fixture
def ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cgroup2Ceiling]:
    """A ceiling of 64 MiB."""
    monkeypatch.setattr(base, "OwnCgroup", Group)
    monkeypatch.setattr(cgroup2, "parent_for", lambda version, given: str(tmp_path))
    made = Cgroup2Ceiling(LIMIT)
    yield made
    made.close()


def put(ceiling: Cgroup2Ceiling, **texts: str) -> None:
    """Write control files; an underscore stands for the dot."""
    for name, text in texts.items():
        Path(ceiling._group.path, name.replace("_", ".", 1)).write_text(text)


def get(ceiling: Cgroup2Ceiling, name: str) -> str:
    """Read a control file."""
    return Path(ceiling._group.path, name).read_text()


def test_the_limits_are_set(ceiling: Cgroup2Ceiling) -> None:
    """Throttled at the limit, killed as a whole one parting reserve above, and no swap."""
    assert get(ceiling, "memory.high") == str(LIMIT)
    assert get(ceiling, "memory.max") == str(LIMIT + MIB)
    assert (get(ceiling, "memory.oom.group"), get(ceiling, "memory.swap.max")[0]) == ("1", "0")
    assert list(ceiling.joins) == [f"{ceiling._group.path}/cgroup.procs"]
    assert len(ceiling.helpers) == 1
    assert [events for _, events in ceiling.watched()] == [select.POLLPRI]


def test_only_memory_that_cannot_be_reclaimed_counts(ceiling: Cgroup2Ceiling) -> None:
    """A `high` event for file cache is no limit; one for the program's own memory freezes the group until part()."""
    assert not ceiling.reached()
    put(ceiling, memory_events="high 1\noom 0\noom_kill 0\n", memory_current=f"{LIMIT}\n")
    put(ceiling, memory_stat=f"inactive_file {8 * MIB}\nactive_file {8 * MIB}\n")
    assert not ceiling.reached()
    put(ceiling, memory_events="high 2\noom 0\noom_kill 0\n", memory_stat="inactive_file 0\nactive_file 0\n")
    assert ceiling.reached()
    assert get(ceiling, "cgroup.freeze") == "1"
    assert ceiling.used() == (LIMIT, "cgroup")
    ceiling.part()
    assert get(ceiling, "cgroup.freeze") == "0"
    assert get(ceiling, "memory.high").startswith("max")
    assert not ceiling.overdrawn()


@pytest.mark.parametrize(("oom", "ours"), [(1, True), (0, False)])
def test_a_kill_by_the_kernel(ceiling: Cgroup2Ceiling, oom: int, ours: bool) -> None:
    """For our limit if the group was at it, else for one above."""
    put(ceiling, memory_events=f"high 0\noom {oom}\noom_kill 1\n")
    assert ceiling.reached() is ours
    assert (ceiling.kernel_kills(), ceiling.killed_from_above()) == (int(ours), not ours)
    ceiling.kill()
    assert get(ceiling, "cgroup.kill") == "1"


@pytest.mark.parametrize(("controllers", "words"), [("cpu", "--cgroup"), (None, "cgroup.subtree_control")])
def test_a_group_without_delegation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str | None, words: str
) -> None:
    """With the file and the way out."""
    monkeypatch.setattr(own_cgroup, "_parent_for", lambda version, given: str(tmp_path))
    if controllers is not None:
        (tmp_path / "cgroup.subtree_control").write_text(controllers)
    with pytest.raises(CeilingUnavailable, match=words):
        own_cgroup.parent_for(2, None)
