"""GPU memory, with a library that stands in for the driver's: this machine has none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from memwarden.assess.pressure import PressureDetector
from memwarden.errors import ReadError
from memwarden.model.sample import Sample
from memwarden.model.verdicts import PressureLevel
from memwarden.readers.nvidia import NvidiaReader

GIB = 1 << 30


class Nvml:
    """Two cards of 24 GiB; ``broken`` maps a call's name to the error that it raises."""

    NVML_ERROR_NO_PERMISSION, NVML_ERROR_GPU_IS_LOST = 4, 15

    class NVMLError(Exception):
        def __init__(self, value: int, words: str) -> None:
            super().__init__(words)
            self.value = value

    def __init__(self, used: int = 5 * GIB, **broken: Exception) -> None:
        self.used, self.broken, self.sessions = used, broken, 0

    def _maybe(self, name: str) -> None:
        if name in self.broken:
            raise self.broken[name]

    def nvmlInit(self) -> None:
        self._maybe("init")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            self._maybe("handle")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA GeForce RTX 3090"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        if handle == 1:
            self._maybe("memory")
        return SimpleNamespace(total=24 * GIB, used=self.used, free=24 * GIB - self.used)


def test_each_card_is_a_fact() -> None:
    """Index, name, a lasting id, and bytes."""
    gpus = NvidiaReader(library=Nvml()).read()["gpus"]
    assert [(gpu.number, gpu.name, gpu.uuid) for gpu in gpus] == [
        (0, "NVIDIA GeForce RTX 3090", "GPU-0"),
        (1, "NVIDIA GeForce RTX 3090", "GPU-1"),
    ]
    assert (gpus[0].total, gpus[0].used, gpus[0].free) == (24 * GIB, 5 * GIB, 19 * GIB)


def test_one_card_that_does_not_answer_is_a_gap() -> None:
    """The other one still counts."""
    read = NvidiaReader(library=Nvml(memory=Nvml.NVMLError(3, "Not Supported"))).read()
    assert [gpu.number for gpu in read["gpus"]] == [0]
    assert [(gap.where, gap.why) for gap in read["gaps"]] == [("gpu 1", "absent")]


@pytest.mark.parametrize(("value", "why"), [(12, "absent"), (9, "absent"), (4, "denied"), (15, "gone")])
def test_no_driver_is_reported_with_the_librarys_words(value: int, why: str) -> None:
    """A typed error, and the next read tries again."""
    library = Nvml(init=Nvml.NVMLError(value, "NVML Shared Library Not Found"))
    reader = NvidiaReader(library=library)
    with pytest.raises(ReadError, match="Not Found") as caught:
        reader.read()
    assert caught.value.why == why
    library.broken.clear()
    assert len(reader.read()["gpus"]) == 2


@pytest.mark.contract("V-18")
def test_gpu_memory_is_judged_like_any_other() -> None:
    """19.2 of 24 GiB is 80 %: HIGH, of that card, by the same rules as main memory."""
    read = NvidiaReader(only=(0,), library=Nvml(used=int(19.2 * GIB) + 1)).read()
    assessment = PressureDetector().assess(Sample(wall=0.0, monotonic=0.0, gpus=read["gpus"]))
    assert assessment.level is PressureLevel.HIGH
    assert assessment.binding is not None
    assert assessment.binding.limit.source == "gpu 0"


def test_the_session_is_given_back() -> None:
    """Closing twice is harmless, and a later read opens a new session."""
    library = Nvml()
    reader = NvidiaReader(library=library)
    reader.read()
    reader.close()
    reader.close()
    assert library.sessions == 0
    reader.read()
    assert library.sessions == 1


def test_a_card_that_cannot_be_opened_is_a_gap() -> None:
    """The others are read, and it is tried again at each sample."""
    library = Nvml(handle=Nvml.NVMLError(15, "GPU is lost"))
    reader = NvidiaReader(library=library)
    read = reader.read()
    assert [gpu.number for gpu in read["gpus"]] == [0]
    assert [(gap.what, gap.where, gap.why) for gap in read["gaps"]] == [("gpu memory", "gpu 1", "gone")]
    library.broken.clear()
    assert [gpu.number for gpu in reader.read()["gpus"]] == [0, 1]


def test_where_no_card_answers_a_new_session_is_started() -> None:
    """Handles of a driver that was loaded anew are worth nothing."""
    library = Nvml(handle=Nvml.NVMLError(15, "GPU is lost"))
    reader = NvidiaReader(only=(1,), library=library)
    assert reader.read()["gpus"] == ()
    assert library.sessions == 0
    library.broken.clear()
    assert [gpu.number for gpu in reader.read()["gpus"]] == [1]
    assert library.sessions == 1


def test_a_child_has_a_session_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not end its parent's."""
    library = Nvml()
    reader = NvidiaReader(library=library)
    reader.read()
    monkeypatch.setattr("memwarden.readers.nvidia.os.getpid", lambda: -1)
    reader.close()
    assert library.sessions == 1
    reader.read()
    assert library.sessions == 2
