"""Memory groups of recorded machines: where they lie, and what they allow."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import CgroupMemory
from memwarden.readers.linux.cgroup import CgroupReader, locate
from memwarden.testing import ProcTree
from support.trees import (
    CONTAINER,
    GIB,
    MACHINES,
    MIB,
    V1_NO_LIMIT,
    V1_PATHS,
    bare_metal,
    container_v1,
    container_v2,
    descriptors,
    groups_of,
    hybrid,
    leaf_without_account,
    limited_from_above_v1,
    nested,
    no_swap_account,
    other_mounts,
    outside_the_mount,
    v1_group,
    v1_line,
    v2_group,
    v2_line,
    v2_stat,
)

Build = Callable[[ProcTree], ProcTree]


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


def groups(tree: ProcTree) -> tuple[CgroupMemory, ...]:
    reader = groups_of(tree)
    found, gaps = reader.sample()
    reader.close()
    assert gaps == ()
    return found


@pytest.mark.contract("V-28", "W1-11")
@pytest.mark.parametrize(
    ("build", "limits"),
    [
        pytest.param(bare_metal, [None, None, None], id="no limits; the root keeps no account"),
        pytest.param(container_v1, [512 * MIB], id="v1: the limit lies at the mount's own root"),
        pytest.param(container_v2, [512 * MIB], id="v2: the namespace's root has the account"),
        pytest.param(hybrid, [256 * MIB, None, None], id="hybrid: the v1 side counts"),
        pytest.param(nested, [4 * GIB, GIB, 32 * GIB], id="every ancestor's limit, nearest first"),
        pytest.param(leaf_without_account, [GIB], id="a leaf without an account is in its ancestor's"),
        pytest.param(no_swap_account, [256 * MIB, None], id="v1 without swap accounting"),
        pytest.param(outside_the_mount, [512 * MIB], id="outside of the namespace"),
        pytest.param(limited_from_above_v1, [128 * MIB], id="v1: an ancestor out of sight limits more"),
    ],
)
def test_the_limits_on_the_path(
    build: Callable[[ProcTree], ProcTree], limits: list[int | None], tree: ProcTree
) -> None:
    """Own group first, then every ancestor that can be seen; no limit is None."""
    assert [group.limit for group in groups(build(tree))] == limits


def test_no_machine_is_left_out_above() -> None:
    """Each recorded machine is one row of the table."""
    marks = test_the_limits_on_the_path.pytestmark  # type: ignore[attr-defined]
    (table,) = [mark for mark in marks if mark.name == "parametrize"]
    assert {row.values[0] for row in table.args[1]} == set(MACHINES.values())


@pytest.mark.contract("V-28", "W1-11")
def test_a_container_on_version_2_in_full(tree: ProcTree) -> None:
    """Usage, what can be dropped (both file lists and slab), swap with its limit, peak and kills."""
    assert groups(container_v2(tree)) == (
        CgroupMemory(
            path="/",
            version=2,
            usage=300 * MIB,
            limit=512 * MIB,
            reclaimable=120 * MIB,
            anon=180 * MIB,
            swap=5 * MIB,
            swap_limit=512 * MIB,
            peak=301 * MIB,
            oom_kills=2,
        ),
    )


@pytest.mark.contract("V-28", "W1-11")
def test_a_container_on_version_1_in_the_words_of_version_2(tree: ProcTree) -> None:
    """The hierarchical totals count, not the own lines; memory and swap together less memory is swap's limit."""
    assert groups(container_v1(tree)) == (
        CgroupMemory(
            path=f"/docker/{CONTAINER}",
            version=1,
            usage=300 * MIB,
            limit=512 * MIB,
            reclaimable=100 * MIB,
            anon=200 * MIB,
            swap=3 * MIB,
            swap_limit=512 * MIB,
            peak=301 * MIB,
            oom_kills=1,
        ),
    )


def test_a_swap_limit_from_above_counts_too(tree: ProcTree) -> None:
    """192 MiB together less 128 MiB of memory, though the own limits show 2 GiB and 1 GiB."""
    assert groups(limited_from_above_v1(tree))[0].swap_limit == 64 * MIB


@pytest.mark.parametrize(
    ("memsw", "swap_limit"),
    [
        pytest.param(None, None, id="swap is not accounted"),
        pytest.param(V1_NO_LIMIT, None, id="no limit on both together"),
        pytest.param(256 * MIB, 0, id="none allowed"),
        pytest.param(200 * MIB, 0, id="lowered a moment before the other"),
    ],
)
def test_swap_limits_of_version_1(tree: ProcTree, memsw: int | None, swap_limit: int | None) -> None:
    """None where nothing limits; zero where no swap may be used."""
    no_swap_account(tree)
    v1_group(tree, "memory/app", 100 * MIB, 256 * MIB, memsw=memsw)
    assert groups(tree)[0].swap_limit == swap_limit


def test_swap_without_a_limit_on_version_2(tree: ProcTree) -> None:
    """``max`` is None."""
    assert groups(nested(tree))[0].swap_limit is None


def test_paths_are_named_as_the_kernel_names_them(tree: ProcTree) -> None:
    """A user must find the source of a limit by its path."""
    assert [group.path for group in groups(nested(tree))] == ["/kubepods/pod1/app", "/kubepods/pod1", "/kubepods"]


@pytest.mark.contract("V-28")
def test_a_bind_mount_of_another_group_is_not_ours(tree: ProcTree) -> None:
    """On an engine's host a container's group may be mounted somewhere else: the path shows which one is ours."""
    mounts = v1_line() + v1_line("/docker/other", "/sys/fs/cgroup/elsewhere")
    tree.mounted("self", V1_PATHS.format("/app"), mounts)
    v1_group(tree, "elsewhere", 10 * MIB, 64 * MIB)
    v1_group(tree, "memory", GIB)
    v1_group(tree, "memory/app", 100 * MIB, 256 * MIB)
    assert [(group.path, group.limit) for group in groups(tree)] == [("/app", 256 * MIB), ("/", None)]


def test_the_narrowest_mount_that_holds_the_path_is_taken(tree: ProcTree) -> None:
    """Where both the whole and the own part are mounted, the part's files are ours."""
    path = f"/docker/{CONTAINER}"
    tree.mounted("self", V1_PATHS.format(path), v1_line() + v1_line(path, "/sys/fs/cgroup/own"))
    v1_group(tree, "memory", GIB)
    v1_group(tree, "own", 100 * MIB, 256 * MIB)
    assert [group.limit for group in groups(tree)] == [256 * MIB]


def test_a_group_whose_name_begins_like_the_mounts_root_is_not_below_it(tree: ProcTree) -> None:
    """``/docker/abcd`` is no part of ``/docker/abc``."""
    tree.mounted("self", V1_PATHS.format("/docker/abcd"), v1_line("/docker/abc", "/sys/fs/cgroup/abc") + v1_line())
    v1_group(tree, "abc", MIB, 10 * MIB)
    v1_group(tree, "abc/d", MIB, 10 * MIB)
    v1_group(tree, "memory/docker/abcd", MIB, 20 * MIB)
    assert groups(tree)[0].limit == 20 * MIB


def test_a_mount_beyond_the_first_page_is_found(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with many mounts: the kernel gives mountinfo page by page (seen: 4018 of 8760 bytes)."""
    pread, read = os.pread, os.read
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 4096), offset))
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 4096)))
    tree.mounted("self", "0::/\n", other_mounts(100) + v2_line())
    v2_group(tree, "", 300 * MIB, 512 * MIB)
    assert [group.limit for group in groups(tree)] == [512 * MIB]


@pytest.mark.parametrize(
    ("path", "escaped", "directory"),
    [
        pytest.param("/a b", "/a\\040b", "a b", id="a space"),
        pytest.param("/a\tb", "/a\\011b", "a\tb", id="a tab"),
        pytest.param("/a\\040b", "/a\\134040b", "a\\040b", id="a backslash that looks like an escape"),
    ],
)
def test_odd_characters_in_a_mounts_root(tree: ProcTree, path: str, escaped: str, directory: str) -> None:
    """mountinfo escapes them, /proc/PID/cgroup does not."""
    tree.mounted("self", f"0::{path}/leaf\n", v2_line(escaped))
    v2_group(tree, "leaf", 300 * MIB, 512 * MIB)
    tree.group("", cgroup__controllers="memory")
    assert groups(tree)[0].path == f"{path}/leaf"
    assert groups(tree)[0].limit == 512 * MIB


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b", "\x1c", "a:b", "naïve"])
def test_odd_characters_in_a_groups_name(tree: ProcTree, odd: str) -> None:
    """Only a line end ends a line; a colon in a name is a part of it."""
    tree.mounted("self", f"0::/{odd}\n", v2_line() + v2_line(f"/{odd}", f"/sys/fs/cgroup/{odd}"))
    tree.group("", cgroup__controllers="memory")
    v2_group(tree, odd, 300 * MIB, 512 * MIB)
    assert (groups(tree)[0].path, groups(tree)[0].limit) == (f"/{odd}", 512 * MIB)


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_odd_characters_in_a_mounts_line(tree: ProcTree, odd: str) -> None:
    """The kernel does not escape these, and they end no line."""
    tree.mounted("self", f"0::/{odd}\n", v2_line(f"/{odd}"))
    v2_group(tree, "", 300 * MIB, 512 * MIB)
    assert [group.limit for group in groups(tree)] == [512 * MIB]


def test_a_name_that_is_no_utf_8(tree: ProcTree) -> None:
    """Bytes go through as they are."""
    tree.write("proc/self/cgroup", b"0::/\xff\xfe\n")
    tree.write("proc/self/mountinfo", v2_line())
    tree.group("", cgroup__controllers="memory")
    v2_group(tree, "\udcff\udcfe", 300 * MIB, 512 * MIB)
    assert groups(tree)[0].limit == 512 * MIB


@pytest.mark.contract("W1-10", "S2-58")
@pytest.mark.parametrize(
    ("cgroup", "mounts", "why"),
    [
        pytest.param("0::/\n", "", "absent", id="nothing is mounted"),
        pytest.param("", v2_line(), "absent", id="no groups at all"),
        pytest.param("3:cpu:/\n", v1_line(controllers="cpu"), "absent", id="no memory controller"),
        pytest.param("0::/\n", v2_line(), "absent", id="version 2 without the memory controller"),
        pytest.param("nonsense\n", v2_line(), "malformed", id="not a group line"),
        pytest.param("0::relative\n", v2_line(), "malformed", id="a path without its slash"),
    ],
)
def test_where_no_group_can_be_found_it_is_reported(tree: ProcTree, cgroup: str, mounts: str, why: str) -> None:
    """A named reason, twice in a row: not an empty answer at the second sample."""
    tree.mounted("self", cgroup, mounts)
    reader = groups_of(tree)
    for _ in range(2):
        with pytest.raises(ReadError) as caught:
            reader.sample()
        assert (caught.value.what, caught.value.why) == ("cgroup", why)


def test_a_version_2_line_without_memory_leaves_version_1_in_charge(tree: ProcTree) -> None:
    """In a hybrid the first line may name both; the files decide."""
    assert locate("self", hybrid(tree).proc, tree.sys).mount.version == 1


@pytest.mark.contract("W1-11")
def test_limits_are_read_again_each_time(tree: ProcTree) -> None:
    """``docker update`` changes a limit under a running program."""
    reader = groups_of(container_v2(tree))
    assert reader.sample()[0][0].limit == 512 * MIB
    tree.group("", memory__max=128 * MIB, memory__current=100 * MIB)
    group = reader.sample()[0][0]
    assert (group.limit, group.usage) == (128 * MIB, 100 * MIB)
    tree.group("", memory__max="max")
    assert reader.sample()[0][0].limit is None
    reader.close()


def test_a_process_that_is_moved_is_followed(tree: ProcTree) -> None:
    """The new group's limit holds from the next sample on, and the old descriptors are given back."""
    reader = groups_of(nested(tree))
    reader.sample()
    before = descriptors()
    v2_group(tree, "moved", 50 * MIB, 64 * MIB)
    tree.write("proc/self/cgroup", "0::/moved\n")
    found, _ = reader.sample()
    assert [(group.path, group.limit) for group in found] == [("/moved", 64 * MIB)]
    assert descriptors() < before
    reader.close()


def test_a_group_that_cannot_be_seen_is_counted_in_its_nearest_ancestor(tree: ProcTree) -> None:
    """A limit above it is not lost with it."""
    nested(tree)
    shutil.rmtree(Path(tree.sys) / "kubepods/pod1/app")
    assert [(group.path, group.limit) for group in groups(tree)] == [("/kubepods/pod1", GIB), ("/kubepods", 32 * GIB)]


def test_a_group_that_is_removed_is_a_gap_and_then_found_anew(tree: ProcTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel answers ENODEV on its open files; the ancestors still count meanwhile."""
    reader = groups_of(nested(tree))
    reader.sample()
    app = os.stat(f"{tree.sys}/kubepods/pod1/app/memory.current").st_ino
    pread = os.pread

    def removed(fd: int, size: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == app:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", removed)
    found, gaps = reader.sample()
    assert [group.path for group in found] == ["/kubepods/pod1", "/kubepods"]
    assert [(gap.what, gap.why) for gap in gaps] == [("memory.current", "gone")]
    shutil.rmtree(Path(tree.sys) / "kubepods/pod1/app")
    v2_group(tree, "kubepods/pod1/app", 10 * MIB, 20 * MIB)
    monkeypatch.undo()
    found, gaps = reader.sample()
    assert [group.limit for group in found] == [20 * MIB, GIB, 32 * GIB]
    assert gaps == ()
    reader.close()


def test_an_ancestor_that_cannot_be_read_is_a_gap(tree: ProcTree) -> None:
    """The other limits still count."""
    nested(tree)
    tree.group("kubepods/pod1", memory__max="lots")
    found, gaps = groups_of(tree).sample()
    assert [group.path for group in found] == ["/kubepods/pod1/app", "/kubepods"]
    assert [(gap.what, gap.why) for gap in gaps] == [("memory.max", "malformed")]
    assert gaps[0].where == f"{tree.sys}/kubepods/pod1/memory.max"


def test_files_that_an_old_kernel_does_not_have_are_none(tree: ProcTree) -> None:
    """memory.peak is of Linux 5.19; swap files are only there with swap."""
    container_v2(tree)
    for name in ("memory.peak", "memory.swap.current", "memory.swap.max", "memory.events"):
        (Path(tree.sys) / name).unlink()
    group = groups(tree)[0]
    assert (group.peak, group.swap, group.swap_limit, group.oom_kills) == (None, None, None, None)
    assert group.limit == 512 * MIB


def test_kills_are_reported_from_what_is_named_alike(tree: ProcTree) -> None:
    """oom_kill is neither oom nor oom_group_kill nor oom_kill_disable."""
    container_v2(tree)
    tree.group("", memory__events="oom 7\noom_group_kill 9\noom_kill 4")
    assert groups(tree)[0].oom_kills == 4
    container_v1(tree)
    tree.group("memory", memory__oom_control="oom_kill_disable 1\nunder_oom 1\noom_kill 6")
    assert groups(tree)[0].oom_kills == 6


def test_lines_of_stat_may_come_in_any_order(tree: ProcTree) -> None:
    """Newer kernels add lines anywhere."""
    container_v2(tree)
    lines = v2_stat(180 * MIB, 60 * MIB, 40 * MIB, 20 * MIB).splitlines()
    tree.group("", memory__stat="\n".join(["zswap 5", *reversed(lines), "anon_thp 1"]))
    group = groups(tree)[0]
    assert (group.anon, group.reclaimable) == (180 * MIB, 120 * MIB)


def test_another_process_is_looked_for_by_its_pid(tree: ProcTree) -> None:
    """Its path, our mounts."""
    nested(tree)
    tree.write("proc/77/cgroup", "0::/kubepods/pod1\n")
    found, _ = CgroupReader(77, tree.proc, tree.sys).sample()
    assert [group.limit for group in found] == [GIB, 32 * GIB]
    with pytest.raises(ReadError) as caught:
        CgroupReader(78, tree.proc, tree.sys).sample()
    assert caught.value.why == "absent"
