"""The snippet of S3 that limits a function, with only the import line changed."""

import mmap

import pytest

from memwarden.errors import LimitExceeded, SettingsError
from memwarden.model.units import MIB


@pytest.mark.contract("S3-17", "X-27", "V-31")
def test_the_limit_of_the_seed():
    """500 means 500 MiB of growth: what stays below gives its result, what grows past it is a MemoryError meanwhile."""
    from memwarden.compat.memory_optimizer import memory_limit

    sizes = []

    def process_large_data():
        kept = []
        for size in sizes:
            kept.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            kept[-1].write(b"x" * size)
        return len(kept)

    @memory_limit(500)  # 500MB limit
    def memory_limited_function():
        # Function will raise MemoryError if limit exceeded
        return process_large_data()

    sizes += [MIB] * 480
    assert memory_limited_function() == 480
    sizes += [MIB] * 100_000
    with pytest.raises(MemoryError) as caught:
        memory_limited_function()
    assert isinstance(caught.value, LimitExceeded)
    assert caught.value.limit == 500 * MIB


@pytest.mark.contract("W3-4")
def test_a_limit_below_the_size_of_the_process():
    """The original failed before it ran anything; growth is what is limited."""
    from memwarden.compat.memory_optimizer import memory_limit

    assert memory_limit(1)(lambda: "ran")() == "ran"
    assert memory_limit(0.5)(lambda: "ran")() == "ran"


@pytest.mark.parametrize("wrong", [0, -1, "500", None, True, float("nan"), float("inf")])
def test_what_is_no_number_of_megabytes_is_refused(wrong):
    """At decoration."""
    from memwarden.compat.memory_optimizer import memory_limit

    with pytest.raises(SettingsError, match="above zero"):
        memory_limit(wrong)
