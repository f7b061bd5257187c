"""The machine and a process through psutil, on platforms without /proc."""

import contextlib
import sys
from types import SimpleNamespace

import pytest

from memwarden.errors import ExtraMissing, ReadError
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory
from memwarden.readers import factory, portable
from memwarden.readers.portable import PortableMachine, PortableProbe, PortableReader, PortableTree

psutil = pytest.importorskip("psutil")


class Process:
    """A process as psutil shows it on macOS: no shared part, no peak."""

    pid = 7
    started = 1_700_000_000.25
    runs = True
    failure: Exception | None = None

    def __init__(self, pid: int | None) -> None:
        assert pid == 7

    def create_time(self) -> float:
        return self.started

    def is_running(self) -> bool:
        return self.runs

    def memory_info(self) -> SimpleNamespace:
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(rss=500, vms=900)

    def name(self) -> str:
        return "Python"

    def oneshot(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def status(self) -> str:
        return "running"


@pytest.fixture(autouse=True)
def _no_process_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "_known", {})


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    class Mine(Process):
        pass

    monkeypatch.setattr(psutil, "Process", Mine)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=600, free=100))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=50, free=20))
    return Mine


@pytest.mark.contract("W1-10")
def test_what_a_platform_does_not_show_is_none(mac: type[Process]) -> None:
    """No shared part, no peak and no swapped part: None, not 0."""
    assert PortableReader(7).read() == {
        "system": SystemMemory(1000, 600, 100, None, 50, 20),
        "process": ProcessMemory(ProcessKey(7, 1_700_000_000_250_000), "Python", 500, 900),
        "gaps": (),
    }


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (psutil.NoSuchProcess(7), "gone"),
        (psutil.ZombieProcess(7), "gone"),
        (psutil.AccessDenied(7), "denied"),
        (psutil.Error("strange"), "broken"),
        (OSError(5, "strange"), "broken"),
    ],
)
def test_psutils_errors_become_reasons(mac: type[Process], failure: Exception, why: str) -> None:
    """One reason for one cause, on every platform, and the machine is reported all the same."""
    reader = PortableReader(7)
    mac.failure = failure
    facts = reader.read()
    assert "process" not in facts
    assert [gap.why for gap in facts["gaps"]] == [why]
    assert facts["system"].total == 1000


def test_another_process_under_the_pid_is_not_shown_as_the_old_one(mac: type[Process]) -> None:
    """psutil compares start times in is_running, and answers the other questions for the process that has the pid."""
    reader = PortableReader(7)
    mac.runs = False
    facts = reader.read()
    assert "process" not in facts
    assert [gap.why for gap in facts["gaps"]] == ["gone"]


def test_swap_that_is_not_reported_is_a_gap(mac: type[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows asks performance counters for it, and these may be turned off; the machine is reported all the same."""

    def refuse() -> None:
        raise RuntimeError("Performance counters may be disabled")

    monkeypatch.setattr(psutil, "swap_memory", refuse)
    facts = PortableReader(7).read()
    assert (facts["system"].available, [gap.what for gap in facts["gaps"]]) == (600, ["swap"])
    assert (facts["system"].swap_total, facts["system"].swap_free, facts["system"].swap_used) == (None, None, None)


def test_a_machine_that_is_not_reported_is_an_error(mac: type[Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made up in its place."""

    def refuse() -> None:
        raise OSError(1, "refused")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    with pytest.raises(ReadError) as caught:
        PortableReader(7).read()
    assert (caught.value.what, caught.value.why) == ("system", "broken")


def test_a_clock_that_is_set_makes_no_other_process(mac: type[Process]) -> None:
    """psutil's start time moves with the wall clock; a process seen again keeps its first identity."""
    probe = PortableProbe()
    key = probe.key_of(7)
    mac.started += 3600
    assert probe.key_of(7) == key
    assert probe.alive(key)
    mac.runs = False  # the pid went to another process
    assert probe.key_of(7) != key
    assert not probe.alive(key)


def test_a_pid_without_a_process_is_gone() -> None:
    """Reported when the reader is made."""
    with pytest.raises(ReadError) as caught:
        PortableReader(2**22 + 1)  # beyond the most that Linux gives out
    assert caught.value.why == "gone"


def test_without_psutil_the_command_to_type_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError that helps."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    for make in (PortableReader, PortableMachine, PortableProbe, lambda: PortableTree(1)):
        with pytest.raises(ExtraMissing, match="pip install"):
            make()


@pytest.mark.parametrize(
    ("platform", "names"),
    [("linux", ["meminfo", "process", "cgroup"]), ("darwin", ["portable"]), ("win32", ["portable"])],
)
def test_each_platform_has_its_readers(platform: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine and process everywhere; on Linux the memory group too."""
    monkeypatch.setattr(sys, "platform", platform)
    assert [reader.name for reader in factory.default_readers()] == names


def test_it_can_be_chosen_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be tested there, and where /proc is closed."""
    monkeypatch.setattr(sys, "platform", "linux")
    assert [reader.name for reader in factory.default_readers(portable=True)] == ["portable"]
    assert factory.tree_reader(1, portable=True).name == "portable_tree"
    assert isinstance(factory.identity_probe(portable=True), PortableProbe)
    assert (factory.tree_reader(1).name, type(factory.identity_probe()).__name__) == ("tree", "ProcProbe")


# --- a machine of processes -----------------------------------------------------------------------------


class World:
    """Processes as psutil shows them; ``rows`` maps a pid to (parent, start, resident size or an error)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, windows: bool = False) -> None:
        self.rows: dict[int, tuple[int, float, int | Exception]] = {}
        world = self

        class One:
            def __init__(self, pid: int) -> None:
                if pid not in world.rows:
                    raise psutil.NoSuchProcess(pid)
                self.pid, self._start = pid, world.rows[pid][1]

            def is_running(self) -> bool:
                return self.pid in world.rows and world.rows[self.pid][1] == self._start

            def create_time(self) -> float:
                return self._start

            def ppid(self) -> int:
                return world.rows[self.pid][0]

            def oneshot(self) -> contextlib.AbstractContextManager[None]:
                return contextlib.nullcontext()

            def name(self) -> str:
                return f"p{self.pid}"

            def status(self) -> str:
                return "running"

            def children(self) -> list["One"]:
                return [One(pid) for pid, row in world.rows.items() if row[0] == self.pid]

            def __eq__(self, other: object) -> bool:
                return isinstance(other, One) and (self.pid, self._start) == (other.pid, other._start)

            __hash__ = None  # type: ignore[assignment]

            def memory_info(self) -> SimpleNamespace:
                held = world.rows[self.pid][2]
                if isinstance(held, Exception):
                    raise held
                return SimpleNamespace(rss=held, vms=held)

        monkeypatch.setattr(psutil, "Process", One)
        monkeypatch.setattr(psutil, "process_iter", lambda: [One(pid) for pid in sorted(world.rows)])
        monkeypatch.setattr(psutil, "WINDOWS", windows)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(monkeypatch)
    made.rows = {1: (0, 1.0, 5), 10: (1, 10.0, 100), 11: (10, 11.0, 200), 12: (11, 12.0, 300), 20: (1, 20.0, 900)}
    return made


def _held(tree: PortableTree) -> dict[int, int]:
    memory, _ = tree.sample()
    return {key.pid: size for key, size in zip(memory.keys, memory.rss, strict=True)}


def test_a_tree_is_everybody_below(world: World) -> None:
    """And no other process; shared parts are unknown here, so their column is empty and the anonymous part None."""
    memory, gaps = PortableTree(10).sample()
    assert (sorted(memory.rss), memory.total, gaps) == ([100, 200, 300], 600, ())
    assert (memory.shared, memory.anon) == ((), None)
    assert [(row.rss, row.anon, row.shared) for row in memory.rows()] == [
        (size, None, None) for size in (300, 200, 100)
    ]


def test_orphans_stay_by_identity(world: World) -> None:
    """A member whose parent ended hangs under pid 1, and still belongs, with what it starts; a new owner does not."""
    tree = PortableTree(10)
    tree.sample()
    del world.rows[11]
    world.rows[12] = (1, 12.0, 300)
    world.rows[13] = (12, 30.0, 50)
    assert _held(tree) == {10: 100, 12: 300, 13: 50}
    world.rows[12] = (1, 40.0, 7)  # another process has the pid
    assert _held(tree) == {10: 100, 13: 50}


def test_orphans_outlive_the_root(world: World) -> None:
    """The tree is gone when none is left, and a later process under the root's pid is not the root."""
    tree = PortableTree(10)
    tree.sample()
    world.rows[10] = (1, 50.0, 1000)
    world.rows[11] = (1, 11.0, 200)
    world.rows[60] = (10, 60.0, 1000)
    assert _held(tree) == {11: 200, 12: 300}
    del world.rows[11], world.rows[12]
    with pytest.raises(ReadError) as caught:
        tree.sample()
    assert caught.value.why == "gone"


def test_members_that_cannot_be_measured_are_gaps_or_zombies(world: World) -> None:
    """A denied one is reported, one that waits to be reaped is counted, and neither is sorted as a size."""
    world.rows[11] = (10, 11.0, psutil.AccessDenied(11))
    world.rows[12] = (11, 12.0, psutil.ZombieProcess(12))
    memory, gaps = PortableTree(10).sample()
    assert (memory.rss, memory.zombies, [(gap.where, gap.why) for gap in gaps]) == ((100,), 1, [("pid 11", "denied")])


@pytest.mark.parametrize("windows", [True, False])
def test_a_process_that_is_older_than_its_parent_is_no_child(windows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the number of a dead parent stays, and may be another process's by now."""
    world = World(monkeypatch, windows)
    world.rows = {10: (1, 10.0, 100), 11: (10, 5.0, 200)}
    assert _held(PortableTree(10)) == ({10: 100} if windows else {10: 100, 11: 200})


def test_the_largest_come_first_and_closed_ones_are_counted(world: World) -> None:
    """Another user's process is in no rank; one gap shows how many there are."""
    world.rows[12] = (11, 12.0, psutil.AccessDenied(12))
    world.rows[11] = (10, 11.0, psutil.ZombieProcess(11))
    facts = PortableMachine(top=2).read()
    assert [(row.key.pid, row.name, row.rss) for row in facts["top"].rows()] == [(20, "p20", 900), (10, "p10", 100)]
    assert facts["top"][0] == 5
    assert [(gap.what, gap.why, gap.detail) for gap in facts["gaps"]] == [("top", "denied", "1 of 5 processes")]


def test_the_probe_names_children(world: World) -> None:
    """No process for a process that is gone or another one."""
    probe = PortableProbe()
    key = probe.key_of(11)
    assert [each.pid for each in probe.children(key)] == [12]
    world.rows[11] = (10, 99.0, 1)
    assert probe.children(key) == []
    del world.rows[11]
    assert (probe.alive(key), probe.children(key)) == (False, [])
    with pytest.raises(ReadError):
        probe.key_of(11)
