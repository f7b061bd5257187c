"""Workers, chunks and quality by level, headroom and input."""

import json

import pytest

from memwarden.errors import ReadError
from memwarden.guards.budget.processing_config import safe_processing_config
from memwarden.guards.budget.profiles import NUMBERS, PROFILES, Profile, ProfileNumbers, profile_for
from memwarden.model.limits import Constraint, Limit
from memwarden.model.units import GIB, MIB
from memwarden.model.verdicts import Assessment, PressureLevel


def found(level, available, total=64 * GIB):
    """A verdict."""
    level, limit = PressureLevel(level), Limit(total, "cgroup /here")
    return Assessment(level, level, Constraint(limit, total - available), limit, available, 0.0)


def config(level, available=32 * GIB, path=None, **options):
    return safe_processing_config(path, assessment=found(level, available), processors=16, **options)


@pytest.fixture
def file(tmp_path):
    """A sparse file of so many MiB."""

    def make(mib):
        path = tmp_path / f"{mib}.mp4"
        with open(path, "wb") as out:
            out.truncate(mib * MIB)
        return path

    return make


@pytest.mark.contract("S1-24", "S1-40", "S1-41", "S1-42", "S1-43")
@pytest.mark.parametrize(
    ("level", "profile", "workers", "chunk"),
    [
        ("low", Profile.FULL_QUALITY, 4, 512),
        ("moderate", Profile.BALANCED, 3, 256),
        ("high", Profile.MEMORY_OPTIMIZED, 2, 128),
        ("critical", Profile.SURVIVAL, 1, 64),
    ],
)
def test_each_level_has_its_profile_and_numbers(level, profile, workers, chunk):
    """Nothing is reduced at LOW; each further level takes less of everything."""
    found_config = config(level)
    assert (found_config.profile, found_config.max_workers, found_config.chunk_bytes) == (profile, workers, chunk * MIB)
    assert profile_for(PressureLevel(level)) is profile


@pytest.mark.contract("X-37")
def test_the_modes_are_an_ordered_ladder():
    """From the best to the least; no step takes more than the one before."""
    assert [mode.value for mode in PROFILES] == ["full_quality", "balanced", "memory_optimized", "survival"]
    assert [mode.smaller for mode in PROFILES] == [*PROFILES[1:], None]
    for column in ("workers", "chunk"):
        values = [getattr(NUMBERS[mode], column) for mode in PROFILES]
        assert values == sorted(values, reverse=True)


@pytest.mark.contract("S1-30", "S1-36")
def test_workers_fall_with_the_level():
    """Four at LOW, one at CRITICAL."""
    assert [config(level).max_workers for level in ("low", "moderate", "high", "critical")] == [4, 3, 2, 1]


def test_a_caller_may_pass_its_own_numbers():
    """The table replaces the default one; little memory and few processors still reduce it."""
    numbers = {profile: ProfileNumbers(8, 1024 * MIB) for profile in PROFILES}
    assert config("high", numbers=numbers)[1:3] == (8, 1024 * MIB)
    assert config("high", available=GIB, numbers=numbers)[1:3] == (1, 64 * MIB)


@pytest.mark.contract("S1-32", "S1-37", "X-39")
@pytest.mark.parametrize(
    ("level", "mib", "chunked"),
    [
        ("low", 500, False),
        ("low", 501, True),
        ("moderate", 500, False),
        ("high", 256, False),
        ("high", 257, True),
        ("critical", 1, True),
    ],
)
def test_what_is_chunked(file, level, mib, chunked):
    """Above 500 MiB always; at HIGH above a quarter of what is available (here 1 GiB); at CRITICAL any."""
    found_config = config(level, available=GIB, path=file(mib))
    assert found_config.chunked is chunked
    assert any(("in chunks" if chunked else "in one piece") in reason for reason in found_config.reasons)


@pytest.mark.contract("S1-75")
@pytest.mark.parametrize(
    ("available", "workers", "chunk"), [(2047, 1, 64), (2048, 2, 128), (4095, 2, 128), (4096, 4, 512)]
)
def test_little_memory_has_few_workers_at_any_level(available, workers, chunk):
    """Below 2 GiB one worker, below 4 GiB two; and the reason says so."""
    found_config = config("low", available=available * MIB)
    assert (found_config.max_workers, found_config.chunk_bytes) == (workers, chunk * MIB)
    assert any("less than" in reason for reason in found_config.reasons) is (available < 4096)


def test_what_a_worker_needs_bounds_them():
    """So many as fit beside the reserve; never none, and then it is said."""
    assert config("low", available=8 * GIB, needs="3GiB").max_workers == 2
    found_config = config("low", available=8 * GIB, needs="30GiB")
    assert found_config.max_workers == 1
    assert "not even one fits" in found_config.reasons[-1]


def test_no_more_workers_than_chunks_or_processors(file):
    """A file of two chunks needs two; a machine with one processor has one."""
    assert config("low", path=file(600)).max_workers == 2
    single = safe_processing_config(assessment=found("low", 32 * GIB), processors=1)
    assert single.max_workers == 1


def test_an_input_that_is_not_there_is_an_error(tmp_path):
    """And not a configuration for nothing."""
    with pytest.raises(ReadError, match="absent") as caught:
        safe_processing_config(tmp_path / "none.mp4")
    assert caught.value.what == "input"


def test_where_nothing_is_known_it_is_careful():
    """BALANCED with two workers; and the reason says that memory cannot be read."""
    low = PressureLevel.LOW
    found_config = safe_processing_config(assessment=Assessment(low, low, None, None, None, 0.0), processors=8)
    assert (found_config.profile, found_config.max_workers, found_config.available) == (Profile.BALANCED, 2, None)
    assert "cannot be read" in found_config.reasons[0]


def test_here_and_now_as_plain_data(file):
    """On this machine, with an input, as JSON; sizes say their unit."""
    plain = safe_processing_config(file(600)).as_dict()
    again = json.loads(json.dumps(plain))
    assert again["input_bytes"] == 600 * MIB
    assert again["available_bytes"] > 0
    assert again["source"]
    assert again["profile"] in [mode.value for mode in PROFILES]
    assert again["chunked"] is True
