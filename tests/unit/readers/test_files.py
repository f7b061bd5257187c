"""Small kernel files, kept open or read once."""

import errno
import os
from pathlib import Path

import pytest

from memwarden.errors import ReadError
from memwarden.readers.linux.files import KeptFile, read_error, read_once
from support.trees import descriptors


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOENT, "absent"),
        (errno.ENOTDIR, "absent"),
        (errno.EACCES, "denied"),
        (errno.EPERM, "denied"),
        pytest.param(errno.EROFS, "denied", id="a container's read-only groups"),
        pytest.param(errno.EOPNOTSUPP, "absent", id="an account that is turned off"),
        (errno.ESRCH, "gone"),
        pytest.param(errno.ENODEV, "gone", id="a removed control group"),
        pytest.param(errno.EIO, "broken", id="anything else"),
    ],
)
@pytest.mark.contract("S2-58")
def test_the_systems_answer_becomes_a_named_reason(number: int, why: str) -> None:
    """What, where, one of the reasons, and the system's own words."""
    error = read_error("statm", "/proc/1/statm", OSError(number, os.strerror(number)))
    assert (error.what, error.where, error.why, error.detail) == ("statm", "/proc/1/statm", why, os.strerror(number))
    assert error.why in ReadError.REASONS


def test_an_error_without_a_number_is_broken_and_keeps_its_words() -> None:
    """Some libraries raise OSError with nothing but a text."""
    assert (read_error("x", "y", OSError("odd")).why, read_error("x", "y", OSError("odd")).detail) == ("broken", "odd")


def test_a_kept_file_is_read_from_its_start_each_time(tmp_path: Path) -> None:
    """It shows what is there now, on one descriptor that it gives back."""
    path = tmp_path / "f"
    path.write_bytes(b"one\n")
    before, file = descriptors(), KeptFile("f", str(path))
    assert file.read() == b"one\n"
    path.write_bytes(b"2\n")
    assert file.read() == b"2\n"
    assert descriptors() == before + 1
    file.close()
    file.close()
    assert descriptors() == before
    assert file.read() == b"2\n"
    file.close()


@pytest.mark.parametrize("length", [0, 15, 16, 17, 32, 33, 100])
def test_a_file_longer_than_expected_is_read_whole(tmp_path: Path, length: int) -> None:
    """The first guess of its size is only a guess, at its very edge too."""
    path = tmp_path / "f"
    path.write_bytes(bytes(range(100))[:length])
    file = KeptFile("f", str(path), 16)
    assert file.read() == bytes(range(100))[:length]
    file.close()
    assert read_once("f", str(path), 16) == bytes(range(100))[:length]


def test_a_file_that_comes_in_pieces_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel gives a page of mountinfo for one read, however much is asked for; the rest must follow."""
    path = tmp_path / "mountinfo"
    path.write_bytes(b"abcdefghij")
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 3)))
    assert read_once("mountinfo", str(path), 4096) == b"abcdefghij"


@pytest.mark.parametrize("reading", [lambda path: KeptFile("f", path).read(), lambda path: read_once("f", path)])
def test_a_file_that_is_not_there_is_absent(reading: object, tmp_path: Path) -> None:
    """A typed error, not FileNotFoundError."""
    with pytest.raises(ReadError) as caught:
        reading(str(tmp_path / "f"))  # type: ignore[operator]
    assert (caught.value.why, caught.value.where) == ("absent", str(tmp_path / "f"))


def test_a_failing_read_leaks_no_descriptor(tmp_path: Path) -> None:
    """A directory opens and then refuses to be read."""
    before = descriptors()
    with pytest.raises(ReadError) as caught:
        read_once("f", str(tmp_path))
    assert caught.value.why == "broken"
    assert descriptors() == before


def test_a_file_that_is_no_longer_kept_is_closed(tmp_path: Path) -> None:
    """Code that makes readers and forgets them leaks nothing."""
    path = tmp_path / "file"
    path.write_text("1\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        KeptFile("fact", str(path)).read()
    assert len(os.listdir("/proc/self/fd")) <= before
