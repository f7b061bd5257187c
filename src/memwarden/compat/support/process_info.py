"""Processes that the video programs track, and the memory of each now."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from memwarden.actions.targets import Target, Targets
from memwarden.compat.support.locks import Lock
from memwarden.errors import ReadError
from memwarden.model.facts import ProcessKey
from memwarden.model.units import MIB
from memwarden.readers.factory import identity_probe, tree_reader
from memwarden.readers.linux.identity import ProcProbe
from memwarden.readers.linux.tree import TreeReader


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A tracked process as it is at this moment, with everything that it started."""

    pid: int
    name: str
    #: Resident size of the process and its descendants, in MB of 2**20 bytes; what they share counts in each.
    memory_mb: float
    is_ffmpeg: bool
    #: True: it is never terminated.
    essential: bool


class TrackedProcesses:
    """Processes by pid *and* start time: a pid that was reused meanwhile does not count.

    ``targets`` registers them, and which of them may be terminated; ``proc`` is there for tests.
    """

    def __init__(self, targets: Targets | None = None, proc: str | None = None) -> None:
        if targets is None:
            targets = Targets(identity_probe() if proc is None else ProcProbe(proc))
        self.targets = targets
        self._proc = proc
        self._lock = Lock()
        self._ffmpeg: set[ProcessKey] = set()

    def track(self, pid: int, name: str, is_ffmpeg: bool, essential: bool) -> Target:
        """Register the process with this pid. Raises :class:`ReadError`, :class:`ActionFailed` (see ``Targets``)."""
        target = self.targets.track_process(pid, name or f"pid {pid}", essential=essential)
        with self._lock:
            (self._ffmpeg.add if is_ffmpeg else self._ffmpeg.discard)(target.key)
        return target

    def living(self) -> list[ProcessInfo]:
        """The processes that still run, measured now; oldest registration first."""
        targets = self.targets.living()
        with self._lock:
            self._ffmpeg &= {target.key for target in targets}
            ffmpeg = set(self._ffmpeg)
        found = []
        for target in targets:
            with contextlib.suppress(ReadError):  # it exited meanwhile
                found.append(self._measure(target, target.key in ffmpeg))
        return found

    def _measure(self, target: Target, is_ffmpeg: bool) -> ProcessInfo:
        pid, proc = target.key.pid, self._proc
        with contextlib.closing(tree_reader(pid) if proc is None else TreeReader(pid, proc, keep=0)) as reader:
            tree = reader.read()["tree"]
        if target.key not in tree.keys:
            raise ReadError("process", f"pid {pid}", "gone")
        return ProcessInfo(target.key.pid, target.name, tree.total / MIB, is_ffmpeg, target.essential)
