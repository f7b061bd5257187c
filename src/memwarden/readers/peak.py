"""Highest resident size of this process, also after the kernel's own mark was reset.

Linux keeps one mark for a process (``VmHWM``; ``ru_maxrss`` shows the same). Measuring the peak of a part of the
program (:mod:`memwarden.guards.measure.peak_rss`) resets it, so its value is recorded here first, and every reader
shows the larger of the two. Other tools, and a parent that calls ``wait4``, see the kernel's mark alone.
"""

from __future__ import annotations

from typing import Protocol

from memwarden.process.fork_hooks import READERS, at_fork


class PeakReader(Protocol):
    """Reads the kernel's mark of this process."""

    def read(self) -> tuple[int, int]:
        """Return the mark and the resident size now, in bytes, read together. Raises :class:`ReadError`."""
        ...

    def close(self) -> None:
        """Close descriptors; the next read opens them again, which is required after a fork."""
        ...


_recorded = 0


def record_peak(peak: int) -> None:
    """Record the mark (bytes) before it is reset; the largest one counts."""
    global _recorded
    if peak > _recorded:
        _recorded = peak


def recorded_peak() -> int:
    """Return the largest recorded mark in bytes; 0 if it was never reset."""
    return _recorded


def _child() -> None:
    global _recorded
    _recorded = 0  # the kernel's mark of a child starts at its present size, too


at_fork(READERS, child=_child)
