"""The peak mark of this process, and its record across resets."""

import pytest

from memwarden.errors import ReadError
from memwarden.readers import peak
from memwarden.readers.linux.peak_status import StatusPeakReader
from memwarden.readers.peak import record_peak, recorded_peak

STATUS = b"""Name:\tpython
Groups:\t%s
VmPeak:\t   20000 kB
VmHWM:\t    9188 kB
VmRSS:\t    8000 kB
RssAnon:\t    3120 kB
"""


@pytest.fixture
def water(tmp_path):
    """A reader of a file with the given content."""

    def make(content):
        path = tmp_path / "status"
        path.write_bytes(content)
        return StatusPeakReader(str(path))

    return make


def test_mark_and_resident_size_of_one_moment(water):
    """In bytes, from one read."""
    assert water(STATUS % b"0 1 2").read() == (9188 << 10, 8000 << 10)


def test_a_user_in_many_groups(water):
    """The line of groups may be longer than what is read at first; one descriptor is enough for it."""
    reader = water(STATUS % (b"1000000 " * 2000))
    assert reader.read() == (9188 << 10, 8000 << 10)
    fd = reader._file.fd
    assert reader.read() == (9188 << 10, 8000 << 10)
    assert reader._file.fd == fd


def test_a_kernel_without_a_mark(water):
    """What is held now stands for it."""
    assert water(b"Name:\tpython\nVmRSS:\t    8000 kB\n").read() == (8000 << 10, 8000 << 10)


def test_lines_in_another_order(water):
    """Found by name."""
    assert water(b"Name:\tp\nVmRSS:\t 8000 kB\nVmSwap:\t 1 kB\nVmHWM:\t 9000 kB\n").read() == (9000 << 10, 8000 << 10)


@pytest.mark.parametrize(
    "content", [b"", b"Name:\tpython\n", b"VmHWM:\t 1 kB\n", b"a\nVmRSS:\t x kB\n", b"\nVmHWM:\t1"]
)
def test_another_file_is_malformed(water, content):
    """A descriptor that the program closed may be another file's now."""
    with pytest.raises(ReadError, match="no VmRSS") as caught:
        water(content).read()
    assert caught.value.why == "malformed"


def test_no_file_is_absent(tmp_path):
    """As everywhere."""
    with pytest.raises(ReadError, match="absent"):
        StatusPeakReader(str(tmp_path / "none")).read()


def test_the_largest_mark_is_recorded(monkeypatch):
    """Smaller ones change nothing; a child starts from 0."""
    monkeypatch.setattr(peak, "_recorded", 0)
    for each in (10, 30, 20):
        record_peak(each)
    assert recorded_peak() == 30
    peak._child()
    assert recorded_peak() == 0
