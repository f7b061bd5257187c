"""The seam to the exact peak per call: to be replaced by ``memwarden.guards.track.track``, which has the same shape.

Nested and concurrent measurements are that module's work; here is one at a time, by the kernel's own mark where it can
be set back (Linux 4.0), else only what stands at the two ends.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Literal, NamedTuple

from memwarden.errors import ReadError
from memwarden.readers.process import ProcessReader


class Seen(NamedTuple):
    """What a block held, in bytes of resident memory of the whole process."""

    before: int
    after: int
    peak: int
    #: How far the peak was above ``before``.
    rise: int
    growth: int
    seconds: float
    method: Literal["kernel", "sampled"]


class track:  # noqa: N801 - the name that takes its place
    """``with track("load") as load: …``, and then ``load.memory``, which raises :class:`ReadError` without figures."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._trouble: ReadError | None = None

    def __enter__(self) -> track:
        self._exact, self._begun = _set_back(), perf_counter()
        try:
            self._before = ProcessReader().memory().rss
        except ReadError as error:
            self._trouble = error
        return self

    def __exit__(self, *_: object) -> None:
        seconds = perf_counter() - self._begun
        try:
            now = ProcessReader().memory()
        except ReadError as error:
            self._trouble = error
        if self._trouble is None:
            peak = max(self._before, now.rss, now.peak or 0 if self._exact else 0)
            rise, growth = peak - self._before, now.rss - self._before
            method: Literal["kernel", "sampled"] = "kernel" if self._exact else "sampled"
            self._seen = Seen(self._before, now.rss, peak, rise, growth, seconds, method)

    @property
    def memory(self) -> Seen:
        """The figures."""
        if self._trouble is not None:
            raise self._trouble
        return self._seen


def _set_back() -> bool:
    try:
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"5")
        finally:
            os.close(fd)
    except (OSError, AttributeError):
        return False
    return True
