"""What the thread that looks sleeps on."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Sequence

import pytest

from memwarden.engine.bell import Bell
from memwarden.model.facts import CgroupMemory
from support.engine import SOON


class Pipe:
    """A wake-up of the kernel that nobody rings."""

    name, events = "pipe", 1

    def __init__(self) -> None:
        self._ends = os.pipe()

    def fileno(self) -> int:
        return self._ends[0]

    def clear(self) -> bool:
        return True

    def follow(self, groups: Sequence[CgroupMemory]) -> None:
        """Nothing to follow."""

    def close(self) -> None:
        for fd in self._ends:
            os.close(fd)


@pytest.mark.skipif(sys.platform != "linux", reason="only here does the bell hold a descriptor")
def test_who_rings_while_it_is_closed_writes_into_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor stays the bell's until the ring is over: its number may be another file's a moment later."""
    bell = Bell()
    bell.listen([Pipe()])
    closing = threading.Thread(target=bell.close)
    write = os.eventfd_write

    def slowly(fd: int, value: int) -> None:
        closing.start()
        closing.join(0.05)
        assert select.select([], [fd], [], 0)[1] == [fd]  # raises where it is closed
        write(fd, value)

    monkeypatch.setattr(os, "eventfd_write", slowly)
    bell.set()
    closing.join(SOON)
    assert not closing.is_alive()
    bell.set()  # and there is nothing left to write to
    assert bell.is_set()
