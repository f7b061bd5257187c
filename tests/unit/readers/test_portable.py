"""The machine and a process through psutil, on platforms without /proc."""

import sys
from types import SimpleNamespace

import pytest

from memwarden.errors import ExtraMissing, ReadError
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory
from memwarden.readers import sources
from memwarden.readers.portable import PortableReader

psutil = pytest.importorskip("psutil")


class Process:
    """A process as psutil shows it on macOS: no shared part, no peak."""

    pid = 7
    runs = True
    failure: Exception | None = None

    def __init__(self, pid: int | None) -> None:
        assert pid == 7

    def create_time(self) -> float:
        return 1_700_000_000.25

    def is_running(self) -> bool:
        return self.runs

    def memory_info(self) -> SimpleNamespace:
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(rss=500, vms=900)

    def name(self) -> str:
        return "Python"


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    class Mine(Process):
        pass

    monkeypatch.setattr(psutil, "Process", Mine)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=600, free=100))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=50, free=20))
    return Mine


@pytest.mark.contract("W1-10")
def test_what_a_platform_does_not_tell_is_none(mac: type[Process]) -> None:
    """No shared part, no peak and no swapped part: None, not 0."""
    assert PortableReader(7).read() == {
        "system": SystemMemory(1000, 600, 100, 0, 50, 20),
        "process": ProcessMemory(ProcessKey(7, 1_700_000_000_250_000), "Python", 500, 900),
    }


@pytest.mark.parametrize(
    ("failure", "why"),
    [(psutil.NoSuchProcess(7), "gone"), (psutil.ZombieProcess(7), "gone"), (psutil.AccessDenied(7), "denied")],
)
def test_psutils_errors_become_reasons(mac: type[Process], failure: Exception, why: str) -> None:
    """One error for one cause, on every platform."""
    reader = PortableReader(7)
    mac.failure = failure
    with pytest.raises(ReadError) as caught:
        reader.read()
    assert caught.value.why == why


def test_another_process_under_the_pid_is_not_shown_as_the_old_one(mac: type[Process]) -> None:
    """psutil compares start times in is_running, and answers the other questions for whoever has the pid."""
    reader = PortableReader(7)
    mac.runs = False
    with pytest.raises(ReadError) as caught:
        reader.read()
    assert caught.value.why == "gone"


def test_a_pid_that_nobody_has_is_gone() -> None:
    """Said when the reader is made."""
    with pytest.raises(ReadError) as caught:
        PortableReader(2**22 + 1)  # beyond the most that Linux gives out
    assert caught.value.why == "gone"


def test_without_psutil_the_command_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError that helps."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ExtraMissing, match="pip install"):
        PortableReader()


@pytest.mark.parametrize(
    ("platform", "names"),
    [("linux", ["meminfo", "process", "cgroup"]), ("darwin", ["portable"]), ("win32", ["portable"])],
)
def test_each_platform_has_its_readers(platform: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine and process everywhere; on Linux the memory group too."""
    monkeypatch.setattr(sys, "platform", platform)
    assert [reader.name for reader in sources.own_sources()] == names
