"""The memory of NVIDIA graphics processors, through the management library (package ``nvidia-ml-py``).

``used`` is what the driver counts, its own reserve included, so ``used + free`` is ``total`` on most
drivers. Cards or fields that do not answer (MIG, some boards) are gaps; the other cards still count.
"""

from __future__ import annotations

from typing import Any

from memwarden.errors import ExtraMissing, ReadError
from memwarden.model.facts import Gap, GpuMemory


class NvidiaReader:
    """Reads :class:`GpuMemory` of every card, or of those in ``only`` (indexes).

    ``library`` stands in for the ``pynvml`` module in tests. Raises :class:`ExtraMissing` when the package is
    not installed; without a driver ``read`` raises :class:`ReadError` (absent) with the library's own words.
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
        self._cards: list[tuple[int, Any, str, str]] | None = None

    def read(self) -> dict[str, Any]:
        """``{"gpus": (GpuMemory, …), "gaps": (…)}``; raises :class:`ReadError`."""
        gpus: list[GpuMemory] = []
        gaps: list[Gap] = []
        for index, handle, name, uuid in self._open():
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError as error:
                gaps.append(Gap("gpu memory", f"gpu {index}", _why(self._nvml, error), str(error)))
                continue
            gpus.append(GpuMemory(index, name, uuid, int(memory.total), int(memory.used), int(memory.free)))
        return {"gpus": tuple(gpus), "gaps": tuple(gaps)}

    def _open(self) -> list[tuple[int, Any, str, str]]:
        if self._cards is None:
            nvml = self._nvml
            try:
                nvml.nvmlInit()
                indexes = range(nvml.nvmlDeviceGetCount()) if self._only is None else self._only
                cards = []
                for index in indexes:
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    cards.append(
                        (index, handle, _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle)))
                    )
            except nvml.NVMLError as error:
                raise ReadError("gpu", "NVML", _why(nvml, error), str(error)) from None
            self._cards = cards
        return self._cards

    def close(self) -> None:
        """Give the library back; the next read opens it again."""
        if self._cards is not None:
            self._cards = None
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return  # after a fork the parent's session is not ours to end


def _why(nvml: Any, error: Exception) -> str:
    code = getattr(error, "value", None)
    if code == getattr(nvml, "NVML_ERROR_NO_PERMISSION", 4):
        return "denied"
    return "gone" if code == getattr(nvml, "NVML_ERROR_GPU_IS_LOST", 15) else "absent"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
