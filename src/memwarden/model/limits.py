"""Limits, and the use of each."""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """A number of bytes that may not be exceeded, and its source: ``"machine"``, ``"cgroup /docker/…"``,
    ``"rlimit address space"``, ``"asked"``."""

    bytes: int
    source: str


class Constraint(NamedTuple):
    """A limit and the bytes that count against it now."""

    limit: Limit
    used: int

    @property
    def ratio(self) -> float:
        """Used as a share of the limit, 0..1 and beyond."""
        return self.used / self.limit.bytes

    @property
    def headroom(self) -> int:
        """Bytes that may still be taken; negative when the limit is exceeded."""
        return self.limit.bytes - self.used
