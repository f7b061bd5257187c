"""What a ceiling is: a way to hold a tree to a number of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from memwarden.model.facts import ProcessKey
from memwarden.model.units import MIB

#: What a tree may take beyond its limit while it is asked to end. The kernel (or the next look) holds it to that.
PARTING_RESERVE = 1 * MIB


class Ceiling(Protocol):
    """Holds one tree. All calls come from the guard's thread."""

    @property
    def kind(self) -> str:
        """``"cgroup2"``, ``"cgroup1"`` or ``"polling"``."""
        ...

    @property
    def joins(self) -> Sequence[str]:
        """``cgroup.procs`` files that the launcher writes itself into before it becomes the command."""
        ...

    @property
    def helpers(self) -> Sequence[int]:
        """Processes beside the tree that belong to the ceiling itself."""
        ...

    @property
    def afterwards(self) -> str:
        """What protects the tree when this process is killed, in words."""
        ...

    def attach(self, root: ProcessKey) -> None:
        """The command runs now."""
        ...

    def watched(self) -> Sequence[tuple[int, int]]:
        """(descriptor, poll events) that tell that something happened."""
        ...

    def pace(self) -> float:
        """Seconds until :meth:`reached` must be asked at the latest."""
        ...

    def reached(self) -> bool:
        """Whether the tree is at its limit and must be ended. The tree then stands still until :meth:`part`."""
        ...

    def used(self) -> tuple[int, str]:
        """Bytes that count against the limit now, and who counted."""
        ...

    def peak(self) -> tuple[int, str]:
        """The highest use so far, and who counted."""
        ...

    def kernel_kills(self) -> int:
        """How often the kernel killed in the group for reaching the limit."""
        ...

    def killed_from_above(self) -> bool:
        """Whether the kernel killed in the group for want of memory above it: of an ancestor, of the machine."""
        ...

    def members(self) -> list[ProcessKey]:
        """Who is in the tree now."""
        ...

    def part(self) -> None:
        """Let the tree run on, within the parting reserve, so that it can end in its own way."""
        ...

    def overdrawn(self) -> bool:
        """Whether the parting reserve is used up."""
        ...

    def kill(self) -> None:
        """End every member now; returns before they are gone."""
        ...

    def close(self) -> None:
        """Give everything back. Members that live on stay under the kernel's ceiling, where there is one."""
        ...
