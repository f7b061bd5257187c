"""Start-up in its old names."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest

from memwarden.compat import memory_init, memory_manager
from memwarden.errors import ReadError
from memwarden.testing import ScriptedReader


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedReader]:
    """The process's monitor reads what the test says."""
    reader = ScriptedReader([500])
    monitor = memory_manager.MemoryMonitor(sources=lambda: [reader])
    monkeypatch.setattr(memory_manager, "_monitor", monitor)
    yield reader
    monitor.stop_monitoring()


def test_setup_begins_to_watch(watched: ScriptedReader) -> None:
    """True, available, and over again after shutdown; no signal handler is touched."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert not memory_init.is_memory_management_available()
    assert memory_init.setup_memory_management() is True
    assert memory_init.setup_memory_management() is True
    assert memory_init.is_memory_management_available()
    memory_init.shutdown_memory_management_system()
    assert not memory_init.is_memory_management_available()
    memory_init.shutdown_memory_management_system()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.contract("S1-76")
def test_where_nothing_can_be_read_the_program_goes_on(
    watched: ScriptedReader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """False and a warning with the reason, no exception, and nothing runs in the background."""
    broken = ScriptedReader([ReadError("meminfo", "/proc/meminfo", "denied")])
    monkeypatch.setattr(memory_manager, "_monitor", memory_manager.MemoryMonitor(sources=lambda: [broken]))
    with caplog.at_level(logging.WARNING, logger="memwarden"):
        assert memory_init.setup_memory_management() is False
    assert "Memory management not available" in caplog.text
    assert "/proc/meminfo" in caplog.text
    assert not memory_init.is_memory_management_available()
