"""A real card, where there is one."""

from __future__ import annotations

import pytest

from memwarden.engine.warden import Warden
from memwarden.errors import ExtraMissing, ReadError
from memwarden.readers.factory import default_readers
from memwarden.readers.nvidia import NvidiaReader


def _reason() -> str:
    try:
        NvidiaReader().read()
    except (ExtraMissing, ReadError) as error:
        return f"no GPU: {error}"
    return ""


@pytest.mark.gpu
@pytest.mark.skipif(bool(_reason()), reason=_reason() or "a GPU is here")
def test_a_real_card_is_read_and_judged() -> None:
    """Its memory adds up, and a warden that reads it judges it."""
    reader = NvidiaReader()
    [gpu, *_] = reader.read()["gpus"]
    assert 0 <= gpu.used <= gpu.total
    assert abs(gpu.used + gpu.free - gpu.total) < gpu.total * 0.05
    reading = Warden([*default_readers(), reader]).sample()
    assert gpu.uuid in {each.uuid for each in reading.sample.gpus}
    reader.close()
