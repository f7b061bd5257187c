"""The memory of NVIDIA graphics processors, through the management library (package ``nvidia-ml-py``).

``used`` is what the driver counts, its own reserve included, so ``used + free`` is ``total`` on most
drivers. Cards or fields that do not answer (MIG, some boards, a card that fell off the bus) are gaps; the other cards
still count, and one that answers again is read again.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from memwarden.errors import ExtraMissing, ReadError
from memwarden.model.facts import Gap, GpuMemory


class _Card(NamedTuple):
    handle: Any
    name: str
    uuid: str


class NvidiaReader:
    """Reads :class:`GpuMemory` of every card, or of those in ``only`` (indexes).

    ``library`` stands in for the ``pynvml`` module in tests. Raises :class:`ExtraMissing` when the package is
    not installed; without a driver ``read`` raises :class:`ReadError` (absent) with the library's own words, and the
    next ``read`` tries again. After a fork the child begins a session of its own.
    """

    name = "nvidia"

    def __init__(self, only: tuple[int, ...] | None = None, library: Any = None) -> None:
        if library is None:
            try:
                import pynvml
            except ImportError:
                raise ExtraMissing("reading GPU memory", "gpu") from None
            library = pynvml
        self._nvml, self._only = library, only
        self._cards: dict[int, _Card] = {}
        self._indexes: tuple[int, ...] | None = None  # None: no session
        self._pid = 0

    def read(self) -> dict[str, Any]:
        """``{"gpus": (GpuMemory, …), "gaps": (…)}``; raises :class:`ReadError`."""
        gpus: list[GpuMemory] = []
        gaps: list[Gap] = []
        for index in self._session():
            try:
                card = self._cards.get(index) or self._card(index)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(card.handle)
            except self._nvml.NVMLError as error:
                self._cards.pop(index, None)  # its handle may be worth nothing when it comes back
                gaps.append(Gap("gpu memory", f"gpu {index}", _why(self._nvml, error), str(error)))
                continue
            self._cards[index] = card
            gpus.append(GpuMemory(index, card.name, card.uuid, int(memory.total), int(memory.used), int(memory.free)))
        if gaps and not gpus:
            self.close()  # the driver may have been loaded anew: only a new session would see it
        return {"gpus": tuple(gpus), "gaps": tuple(gaps)}

    def _session(self) -> tuple[int, ...]:
        if self._pid != os.getpid():  # the session of a parent is not ours to use, nor to end
            self._forget()
        if self._indexes is None:
            nvml = self._nvml
            try:
                nvml.nvmlInit()
                self._pid = os.getpid()
                self._indexes = tuple(range(nvml.nvmlDeviceGetCount())) if self._only is None else tuple(self._only)
            except nvml.NVMLError as error:
                raise ReadError("gpu", "NVML", _why(nvml, error), str(error)) from None
        return self._indexes

    def _card(self, index: int) -> _Card:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return _Card(handle, nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle))

    def _forget(self) -> None:
        self._cards, self._indexes = {}, None

    def close(self) -> None:
        """Give the library back; the next read opens it again."""
        if self._indexes is None or self._pid != os.getpid():
            self._forget()
            return
        self._forget()
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return  # it is gone already


def _why(nvml: Any, error: Exception) -> str:
    code = getattr(error, "value", None)
    if code == getattr(nvml, "NVML_ERROR_NO_PERMISSION", 4):
        return "denied"
    return "gone" if code == getattr(nvml, "NVML_ERROR_GPU_IS_LOST", 15) else "absent"
