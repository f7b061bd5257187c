"""What is registered with the kernel, and what is reported where it refuses; the kernel here is files of a test."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memwarden.errors import ReadError
from memwarden.model.facts import CgroupMemory
from memwarden.readers.linux import wakeups
from memwarden.readers.linux.wakeups import (
    EventsFile,
    GroupEvent,
    StallTrigger,
    UsageThresholds,
    own_wakeups,
    thresholds,
)
from memwarden.testing import ProcTree
from support.trees import (
    MIB,
    V1_PATHS,
    bare_metal,
    container_v2,
    descriptors,
    leaf_without_account,
    nested,
    v1_group,
    v1_line,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="Linux only")


def group(limit: int | None, reclaimable: int = 0, path: str = "/app") -> CgroupMemory:
    return CgroupMemory(path, 1, 0, limit, reclaimable)


def version_1(tree: ProcTree) -> ProcTree:
    """A container on version 1 that may register, in a limited group above it."""
    tree.meminfo()
    tree.mounted("self", V1_PATHS.format("/pod/app"), v1_line())
    v1_group(tree, "memory", 3000 * MIB)
    v1_group(tree, "memory/pod", 200 * MIB, 1000 * MIB)
    v1_group(tree, "memory/pod/app", 100 * MIB, 500 * MIB)
    for path in ("memory/pod", "memory/pod/app"):
        tree.group(path, cgroup__event_control="", memory__pressure_level="")
    return tree


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that is written to a descriptor."""
    seen: list[bytes] = []
    genuine = os.write

    def write(fd: int, data: bytes) -> int:
        seen.append(bytes(data))
        return genuine(fd, data)

    monkeypatch.setattr(os, "write", write)
    return seen


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Each test ends with the descriptors that it began with."""
    before = descriptors()
    yield
    assert descriptors() == before


def test_a_trigger_shows_how_long_in_which_window(tmp_path: Path, writes: list[bytes]) -> None:
    """In microseconds, with the NUL that the kernel asks for, on a descriptor that no program inherits."""
    (tmp_path / "memory").touch()
    trigger = StallTrigger(str(tmp_path / "memory"))
    assert writes == [b"some 150000 2000000\0"]
    assert not os.get_inheritable(trigger.fileno())
    assert trigger.clear()
    trigger.close()
    trigger.close()
    assert trigger.fileno() == -1
    assert not trigger.clear()


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.EPERM, "denied"), (errno.EOPNOTSUPP, "absent"), (errno.EINVAL, "broken"), (errno.ENODEV, "gone")],
)
def test_a_refused_trigger_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    """And leaves no descriptor."""
    (tmp_path / "memory").touch()

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(ReadError) as caught:
        StallTrigger(str(tmp_path / "memory"))
    assert (caught.value.why, caught.value.where) == (why, str(tmp_path / "memory"))


def test_thresholds_stand_where_the_working_set_reaches_a_level() -> None:
    """Usage counts cache that could be dropped, so they stand higher by it; past the limit they are of no use."""
    assert thresholds(group(1000)) == [700, 800, 900, 950]
    assert thresholds(group(1000, 120)) == [820, 920]
    assert thresholds(group(1000, 300)) == []
    assert thresholds(group(None)) == []


def test_thresholds_move_with_limit_and_cache_and_not_for_a_trifle(tmp_path: Path, writes: list[bytes]) -> None:
    """Under the same number, so that any process that polls it need not be reported; a little cache moves nothing."""
    tree = version_1(ProcTree(tmp_path))
    directory = f"{tree.sys}/memory/pod/app"
    usage = UsageThresholds(directory, thresholds(group(1000 * MIB)), "/app")
    number = usage.fileno()
    usage.follow([group(1000 * MIB, MIB), group(7, path="/other")])
    assert len(writes) == 4
    usage.follow([group(2000 * MIB)])
    assert usage.values == tuple(int(2000 * MIB * share) for share in wakeups.SHARES)
    assert (usage.fileno(), len(writes)) == (number, 8)
    assert not os.get_inheritable(number)
    usage.follow([group(2000 * MIB, 250 * MIB)])
    assert len(usage.values) == 2
    usage.follow([group(2000 * MIB, 1900 * MIB)])
    assert len(usage.values) == 2  # nothing better is known
    usage.close()
    usage.follow([group(9000 * MIB)])
    assert usage.fileno() == -1


def test_without_values_nothing_is_registered_until_there_are_some(tmp_path: Path, writes: list[bytes]) -> None:
    """All thresholds may lie above the limit, where much of the usage is cache."""
    tree = version_1(ProcTree(tmp_path))
    usage = UsageThresholds(f"{tree.sys}/memory/pod/app", thresholds(group(1000 * MIB, 900 * MIB)), "/app")
    assert writes == []
    usage.follow([group(1000 * MIB)])
    assert len(writes) == 4
    usage.close()


def test_an_event_of_version_1_names_its_descriptors(tmp_path: Path, writes: list[bytes]) -> None:
    """The counter's and the control file's numbers, and the argument."""
    tree = version_1(ProcTree(tmp_path))
    event = GroupEvent(f"{tree.sys}/memory/pod/app", "memory.pressure_level", ("medium",))
    [written] = writes
    counter, control, argument = written.split(b" ")
    assert (int(counter), argument) == (event.fileno(), b"medium")
    assert int(control) != int(counter)
    os.eventfd_write(event.fileno(), 3)
    assert event.clear()
    assert event.clear()
    event.close()


def test_the_end_of_a_group_is_noticed(tmp_path: Path) -> None:
    """Version 1 shows it as an event like any; in version 2 the file can no longer be read."""
    tree = version_1(ProcTree(tmp_path))
    event = GroupEvent(f"{tree.sys}/memory/pod/app", "memory.oom_control")
    (tmp_path / "sys/memory/pod/app").rename(tmp_path / "removed")
    assert not event.clear()
    event.close()
    tree.write("events", "low 0\n")
    events = EventsFile(str(tmp_path / "events"))
    assert events.clear()
    (tmp_path / "events").write_bytes(b"")
    assert not events.clear()
    events.close()


def test_everything_of_version_1_is_asked_for(tmp_path: Path) -> None:
    """The own group and the limited one above it; and the machine's stalls."""
    tree = version_1(ProcTree(tmp_path))
    tree.write("proc/pressure/memory", "some\n")
    granted, refused = own_wakeups(proc=tree.proc, sys_fs_cgroup=tree.sys)
    assert [each.name for each in granted] == [
        "stalls of the machine",
        *(f"{what} /pod/app" for what in ("usage of", "out of memory in", "hard reclaim in")),
        *(f"{what} /pod" for what in ("usage of", "out of memory in", "hard reclaim in")),
    ]
    assert [each.what for each in refused] == ["stalls of the group"]
    for each in granted:
        assert not os.get_inheritable(each.fileno())
        each.close()


def test_everything_of_version_2_is_asked_for(tmp_path: Path) -> None:
    """Events of the own group and of limited ones above it; stalls of group and machine."""
    tree = nested(ProcTree(tmp_path))
    tree.write("proc/pressure/memory", "some\n")
    tree.group("kubepods/pod1/app", memory__pressure="", cgroup__type="domain")
    granted, refused = own_wakeups(proc=tree.proc, sys_fs_cgroup=tree.sys)
    assert [each.name for each in granted] == [
        "stalls of the machine",
        "stalls of /kubepods/pod1/app",
        "events of /kubepods/pod1/app",
        "events of /kubepods/pod1",
        "events of /kubepods",
    ]
    assert refused == ()
    for each in granted:
        each.follow([group(1, path="/kubepods")])
        each.close()


@pytest.mark.parametrize("build", [bare_metal, container_v2, leaf_without_account, nested, version_1])
def test_where_nothing_may_be_opened_everything_is_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Callable[[ProcTree], ProcTree]
) -> None:
    """Read-only groups of a container: typed gaps with the way out, no exception and no descriptor."""
    tree = build(ProcTree(tmp_path))
    tree.write("proc/pressure/memory", "some\n")
    genuine = os.open

    def read_only(path: str, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return genuine(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    granted, refused = own_wakeups(proc=tree.proc, sys_fs_cgroup=tree.sys)
    monkeypatch.undo()
    for each in granted:
        assert isinstance(each, EventsFile)  # it needs reading only
        each.close()
    stalls = next(gap for gap in refused if gap.what == "stalls of the machine")
    assert stalls.why == "denied"
    assert "CAP_SYS_RESOURCE" in stalls.detail
    if build is version_1:
        usage = [gap for gap in refused if gap.what.startswith("usage")]
        assert {gap.why for gap in usage} == {"denied"}
        assert "owner" in usage[0].detail


def test_a_machine_without_anything_reports_it(tmp_path: Path) -> None:
    """No stalls, no groups: three reasons, and the way out for the stalls."""
    granted, refused = own_wakeups(proc=ProcTree(tmp_path).proc)
    assert granted == ()
    assert [gap.why for gap in refused] == ["absent"] * 3
    assert "psi=1" in refused[0].detail


def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reason, and no attempt."""
    monkeypatch.setattr(wakeups.sys, "platform", "darwin")
    granted, [gap] = own_wakeups()
    assert granted == ()
    assert (gap.why, gap.where) == ("absent", "darwin")
