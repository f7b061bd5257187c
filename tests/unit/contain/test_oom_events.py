"""The group at its limit when the kernel killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from memwarden.contain.oom_events import OomEvents
from memwarden.testing import ProcTree
from support.trees import MIB, V1_NO_LIMIT, V1_PATHS, v1_line, v2_line

PATHS = ("", "/pod", "/pod/box")


@pytest.fixture
def world(tmp_path: Path) -> ProcTree:
    """A process in /pod/box; nothing has been killed yet."""
    tree = ProcTree(tmp_path)
    vmstat(tree, 0)
    return tree


def witness(tree: ProcTree) -> OomEvents:
    return OomEvents(tree.proc, tree.sys)


def vmstat(tree: ProcTree, kills: int) -> None:
    tree.write("proc/vmstat", f"nr_free_pages 100\noom_kill {kills}\npgfault 5\n")


def version_1(tree: ProcTree, limits: tuple[int, int, int], kills: int) -> None:
    """Limits as each group's own; what is shown is the smallest down the path. A kill is the victim's group's."""
    tree.mounted("self", V1_PATHS.format("/pod/box"), v1_line())
    smallest = V1_NO_LIMIT
    for path, limit in zip(PATHS, limits, strict=True):
        smallest = min(smallest, limit)
        tree.group(
            f"memory{path}",
            memory__usage_in_bytes=MIB,
            memory__stat=f"hierarchical_memory_limit {smallest}\ntotal_rss 0",
            memory__oom_control=f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills if path == PATHS[-1] else 0}",
        )


def version_2(tree: ProcTree, kills: int, full: str, local: bool = True) -> None:
    """48 MiB for /pod, 400 MiB for /pod/box. A kill counts in all ancestors; being full, in that group only."""
    tree.mounted("self", "0::/pod/box\n", v2_line())
    tree.group("", cgroup__controllers="memory")
    for path, limit in zip(PATHS[1:], (48, 400), strict=True):
        tree.group(
            path[1:],
            memory__current=MIB,
            memory__max=limit * MIB,
            memory__stat="anon 1",
            memory__events=f"oom 0\noom_kill {kills}",
        )
        if local:
            tree.group(path[1:], memory__events__local=f"max 9\noom {kills if path == full else 0}\noom_kill 0")


@pytest.mark.parametrize("full", PATHS[1:])
def test_version_2_names_the_group_that_was_full(world: ProcTree, full: str) -> None:
    """Though every group on the path counts the kill."""
    version_2(world, 3, full)
    seen = witness(world)
    version_2(world, 4, full)
    vmstat(world, 1)
    assert seen.seen() == full


def test_an_old_kernel_names_the_nearest_limit(world: ProcTree) -> None:
    """Before Linux 5.2 nothing shows which of them was full."""
    version_2(world, 0, "", local=False)
    seen = witness(world)
    version_2(world, 1, "", local=False)
    assert seen.seen() == "/pod/box"


@pytest.mark.parametrize(
    ("limits", "culprit"),
    [
        ((V1_NO_LIMIT, 64 * MIB, 400 * MIB), "/pod"),
        ((V1_NO_LIMIT, 64 * MIB, V1_NO_LIMIT), "/pod"),
        ((V1_NO_LIMIT, 400 * MIB, 64 * MIB), "/pod/box"),
    ],
)
def test_version_1_names_the_group_whose_limit_is_the_smallest(
    world: ProcTree, limits: tuple[int, int, int], culprit: str
) -> None:
    """There a kill is counted in the victim's group alone, and every group shows the smallest limit above it."""
    version_1(world, limits, 0)
    seen = witness(world)
    version_1(world, limits, 1)
    vmstat(world, 1)
    assert seen.seen() == culprit


def test_a_kill_in_a_group_below_ours_is_laid_to_our_path(world: ProcTree) -> None:
    """The group of a held command is not on our path; without a limit on that it was the machine."""
    version_1(world, (V1_NO_LIMIT, 64 * MIB, V1_NO_LIMIT), 0)
    seen = witness(world)
    vmstat(world, 1)
    assert (seen.seen(below=True), seen.seen()) == ("/pod", "machine")
    version_1(world, (V1_NO_LIMIT, V1_NO_LIMIT, V1_NO_LIMIT), 0)
    assert witness(world).seen(below=True) == ""
    assert seen.seen(below=True) == "machine"


def test_nothing_new_is_nothing(world: ProcTree) -> None:
    """Earlier kills do not count."""
    version_2(world, 7, "/pod")
    vmstat(world, 9)
    assert witness(world).seen() == ""
