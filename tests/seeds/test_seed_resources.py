"""Snippets of the seed S1 about managed resources, with only the import lines changed.

What a snippet leaves open (``input_file``, ``process_video_segment``) is given by the few lines around it.
"""

import logging
import os
import sys
import weakref

import cv2
import numpy
import pytest

from memwarden.errors import ReadError


@pytest.fixture
def video(tmp_path, monkeypatch):
    """A film of ten frames in the working directory."""
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("film.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for shade in range(10):
        writer.write(numpy.full((48, 64, 3), shade * 20, numpy.uint8))
    writer.release()
    os.rename("film.avi", "video.mp4")
    return tmp_path / "video.mp4"


@pytest.mark.contract("S1-16")
def test_automatic_temp_file_cleanup():
    """The segment can be written to the path, and is gone afterwards."""
    from memwarden.compat.resource_manager import managed_tempfile

    seen, input_file = [], "input.mp4"

    def process_video_segment(input_file, temp_file):
        assert os.path.exists(temp_file)
        with open(temp_file, "wb") as out:
            out.write(b"film")
        seen.append(temp_file)

    # Automatic temp file cleanup
    with managed_tempfile(suffix=".mp4") as temp_file:
        # Process video, file automatically cleaned up
        process_video_segment(input_file, temp_file)

    assert seen[0].endswith(".mp4")
    assert not os.path.exists(seen[0])


@pytest.mark.contract("S1-18", "W1-6")
def test_memory_safe_opencv_operations(video):
    """All frames are read, with a build of OpenCV that has no windows; and the film is released."""
    from memwarden.compat.resource_manager import managed_opencv_capture

    shades = []

    # Memory-safe OpenCV operations
    with managed_opencv_capture("video.mp4") as cap:
        while True:
            ret, frame = cap.read()
            if not ret:
                break
            # Process frame
            shades.append(round(float(frame.mean()) / 20))

    assert shades == list(range(10))
    assert not cap.isOpened()


@pytest.mark.contract("S1-18")
def test_what_is_no_video_is_an_error(video):
    """Not an empty film: which file, and why."""
    from memwarden.compat.resource_manager import managed_opencv_capture

    for name, why in (("nowhere.mp4", "absent"), (__file__, "malformed")):
        with pytest.raises(ReadError, match="video") as caught, managed_opencv_capture(name):
            pass
        assert (caught.value.why, caught.value.where) == (why, name)


@pytest.mark.contract("W1-6")
def test_without_opencv_only_captures_are_missing(monkeypatch):
    """The module can be imported, and everything else works."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    for name in [name for name in sys.modules if name.startswith(("memwarden.compat.res", "memwarden.guards"))]:
        monkeypatch.delitem(sys.modules, name)
    from memwarden.compat.resource_manager import force_memory_cleanup, managed_opencv_capture, managed_tempfile

    with managed_tempfile() as temp_file:
        assert os.path.exists(temp_file)
    assert force_memory_cleanup()["failed"] == []
    with pytest.raises(ImportError, match="pip install"), managed_opencv_capture("video.mp4"):
        pass


@pytest.mark.contract("S1-17", "S1-54")
def test_use_context_managers():
    """With the manager the file is gone; a bare temporary file stays, as the advice says."""
    import tempfile

    from memwarden.compat.resource_manager import managed_tempfile

    seen = []
    process_video = seen.append

    def create_temp_file():
        fd, path = tempfile.mkstemp()
        os.close(fd)
        return path

    # Good
    with managed_tempfile() as temp_file:
        process_video(temp_file)

    # Bad - no automatic cleanup
    temp_file = create_temp_file()
    process_video(temp_file)  # File might not get cleaned up

    assert [os.path.exists(path) for path in seen] == [False, True]
    os.unlink(temp_file)


@pytest.mark.contract("S1-50")
def test_force_cleanup(capsys):
    """It removes the files of open blocks, collects garbage, and can be called again with nothing to release."""
    from memwarden.compat.resource_manager import force_memory_cleanup, managed_tempfile

    class Node:
        """Refers to itself."""

    garbage = Node()
    garbage.itself, collected = garbage, weakref.ref(garbage)
    del garbage
    with managed_tempfile() as temp_file:
        # Force cleanup of all resources
        done = force_memory_cleanup()

        assert not os.path.exists(temp_file)
    assert collected() is None
    assert (done["files"], done["failed"]) == (1, [])

    again = force_memory_cleanup()
    assert (again["files"], again["failed"]) == (0, [])


@pytest.mark.contract("S1-58")
def test_error_handling(caplog):
    """Force cleanup and retry: what the failed attempt held is gone, and the next attempt works."""
    from memwarden.compat.resource_manager import force_memory_cleanup, managed_tempfile

    logger, attempts = logging.getLogger("seed"), []

    def analyze_video(path):
        manager = managed_tempfile(suffix=".wav")
        attempts.append((manager, manager.__enter__()))
        if len(attempts) == 1:
            raise RuntimeError("no such codec")
        return "analyzed"

    result = None
    while result is None:
        try:
            # Attempt memory-optimized processing
            result = analyze_video("large_video.mp4")
        except MemoryError as e:
            logger.error(f"Memory constraint exceeded: {e}")
            # System will automatically retry with more conservative settings
        except Exception as e:
            logger.error(f"Processing failed: {e}")
            # Force cleanup and retry
            force_memory_cleanup()

    assert "Processing failed: no such codec" in caplog.text
    assert [os.path.exists(path) for _, path in attempts] == [False, True]
    attempts[1][0].__exit__(None, None, None)
