"""The old resource manager's names, over the native parts."""

import os
import weakref

import pytest

from memwarden.compat import resource_manager
from memwarden.guards.resources.managed import register, resource_scope


@pytest.mark.contract("S1-69")
@pytest.mark.parametrize(
    ("mb", "kind", "estimate"),
    [
        (1000, "basic", 328),
        (1000, "transcoding", 628),
        (1000, "analysis", 428),
        (1000, "effects", 928),
        (1000, "cropping", 528),
        (1000, "custom", 428),
        (1000, "any name at all", 428),
        (1, "effects", 256),
    ],
)
def test_the_estimate_is_the_old_one(tmp_path, mb, kind, estimate):
    """By the size of the file, for any name of a type, in whole MB and never below 256."""
    video = tmp_path / "video.mp4"
    with open(video, "wb") as file:
        file.truncate(mb << 20)
    found = resource_manager.estimate_processing_memory(video, kind)
    assert (found, type(found)) == (estimate, int)


@pytest.mark.contract("S1-69")
def test_the_estimate_without_a_file(tmp_path):
    """512, as before; the type may be left out."""
    assert resource_manager.estimate_processing_memory(tmp_path / "none.mp4") == 512


@pytest.mark.contract("S1-16", "S1-17")
def test_a_managed_file():
    """A path in text to a closed, empty, existing file; gone after the block, and after an exception in it."""
    with resource_manager.managed_tempfile(suffix=".mp4") as temp_file:
        assert isinstance(temp_file, str)
        assert temp_file.endswith(".mp4")
        assert os.path.getsize(temp_file) == 0
    assert not os.path.exists(temp_file)
    with pytest.raises(RuntimeError), resource_manager.managed_tempfile() as temp_file:
        raise RuntimeError
    assert not os.path.exists(temp_file)


def test_a_managed_directory(tmp_path):
    """Where it is asked for, and gone with what is in it."""
    with resource_manager.managed_temp_directory(directory=tmp_path) as folder:
        with open(os.path.join(folder, "x"), "w"):
            pass
        assert os.path.dirname(folder) == str(tmp_path)
    assert not os.path.exists(folder)


@pytest.mark.contract("S1-50")
def test_forced_cleanup_reports_what_it_did():
    """Counts by kind, collected garbage, and the memory that left the process, in MB."""

    class Node:
        """Refers to itself."""

    buffers = [b"x" * (64 << 20)]
    with resource_scope("own"):
        register(buffers, buffers.clear)
        with resource_manager.managed_tempfile() as temp_file:
            garbage = Node()
            garbage.itself, collected = garbage, weakref.ref(garbage)
            del garbage
            done = resource_manager.force_memory_cleanup()
            assert not os.path.exists(temp_file)
    assert collected() is None
    assert (done["files"], done["closables"], done["processes"], done["failed"]) == (1, 1, 0, [])
    assert done["objects_collected"] > 0
    assert done["freed_mb"] == pytest.approx(64, abs=4)


def test_a_name_that_is_not_there():
    """Is an AttributeError, as in every module."""
    with pytest.raises(AttributeError, match="'managed_nothing'"):
        resource_manager.managed_nothing  # noqa: B018 - the access is the test
