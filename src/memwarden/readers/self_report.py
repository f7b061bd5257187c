"""Memory that a program reports about itself: caches, work in flight, calls."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memwarden.errors import SettingsError
from memwarden.model.facts import CacheFill, ProgramMemory

#: Called at each sample on the sampler thread; None means nothing to report now. An exception becomes a gap.
Report = Callable[[], ProgramMemory | None]


class SelfReportReader:
    """Reads :class:`ProgramMemory` of this program: the result of ``report``, and the fill of registered caches.

    Full collections are counted here where ``report`` leaves them out. ``caches`` returns the registered caches, which
    need not be all of them: they may explain growth, but are no evidence of a leak.
    """

    name = "program"

    def __init__(self, report: Report | None, caches: Callable[[], Sequence[CacheFill]]) -> None:
        if report is not None and not callable(report):
            raise SettingsError(f"program: {report!r} cannot be called; pass a function that returns ProgramMemory")
        self._report, self._caches = report, caches

    def read(self) -> Mapping[str, Any]:
        """Return ``{"program": ProgramMemory(…)}``, or ``{}`` where nothing is known."""
        memory = None if self._report is None else self._report()
        if memory is not None and not isinstance(memory, ProgramMemory):
            raise SettingsError(f"program: the function returned {memory!r}; it must return ProgramMemory or None")
        if memory is None or memory.caches is None:
            registered = tuple(self._caches())
            if registered:
                memory = (memory or ProgramMemory())._replace(caches=registered, all_caches=False)
        if memory is None:
            return {}
        if memory.collections is None:
            memory = memory._replace(collections=gc.get_stats()[-1]["collections"])
        return {"program": memory}

    def close(self) -> None:
        """Do nothing: no descriptor is open."""
