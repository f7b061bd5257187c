"""What a program knows of its own memory, told to its own watch: caches, work in flight, calls."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memwarden.errors import SettingsError
from memwarden.model.facts import CacheFill, ProgramMemory

#: Called at each sample on the thread that looks; None: nothing to tell now. What it raises becomes a gap.
Tell = Callable[[], ProgramMemory | None]


class SelfReportReader:
    """Reads :class:`ProgramMemory` of this program: what ``tell`` tells, and how registered caches are filled.

    Full collections are counted here where ``tell`` leaves them out. ``caches`` gives the registered ones, which
    are not all that there are: they may explain a rise, and never accuse it.
    """

    name = "program"

    def __init__(self, tell: Tell | None, caches: Callable[[], Sequence[CacheFill]]) -> None:
        if tell is not None and not callable(tell):
            raise SettingsError(f"program: {tell!r} cannot be called; pass a function that returns ProgramMemory")
        self._tell, self._caches = tell, caches

    def read(self) -> Mapping[str, Any]:
        """``{"program": ProgramMemory(…)}``, or nothing where nothing is known."""
        told = None if self._tell is None else self._tell()
        if told is not None and not isinstance(told, ProgramMemory):
            raise SettingsError(f"program: {told!r} was told, which is no ProgramMemory")
        if told is None or told.caches is None:
            registered = tuple(self._caches())
            if registered:
                told = (told or ProgramMemory())._replace(caches=registered, all_caches=False)
        if told is None:
            return {}
        if told.collections is None:
            told = told._replace(collections=gc.get_stats()[-1]["collections"])
        return {"program": told}

    def close(self) -> None:
        """Nothing is held."""
