"""How large a task's input is, as far as its arguments say."""

import array
from pathlib import Path

import pytest

from memwarden.admission.footprints.input_size import total_size, usual_size


class Array:
    """What behaves like one of numpy's."""

    nbytes = 800


@pytest.mark.parametrize(
    ("args", "kwargs", "size"),
    [
        pytest.param((), {}, None, id="nothing"),
        pytest.param((7,), {}, 7.0, id="a number"),
        pytest.param(("text", 7, 9), {}, 7.0, id="the first number, wherever it stands"),
        pytest.param((b"12345", 3), {}, 3.0, id="a number before a buffer"),
        pytest.param((-7,), {}, 7.0, id="a negative one"),
        pytest.param((True,), {}, None, id="a switch is no number"),
        pytest.param((2.5,), {}, None, id="nor is a fraction"),
        pytest.param((), {"n": 5}, 5.0, id="a named one"),
        pytest.param((1,), {"n": 5}, 1.0, id="positional before named"),
        pytest.param((10**400,), {}, None, id="beyond any float"),
        pytest.param((1 << 1022,), {}, float(1 << 1022), id="within"),
        pytest.param((b"12345",), {}, 5.0, id="bytes"),
        pytest.param((bytearray(6),), {}, 6.0, id="bytearray"),
        pytest.param((memoryview(array.array("d", [1.0, 2.0])),), {}, 16.0, id="a view, in bytes"),
        pytest.param((Array(),), {}, 800.0, id="an array"),
        pytest.param(("no such file",), {}, None, id="text that names nothing"),
        pytest.param(("a\nb",), {}, None, id="text of lines"),
        pytest.param(("x" * 5000,), {}, None, id="long text"),
        pytest.param(("nul\0",), {}, None, id="no path at all"),
        pytest.param((None, {}, [1, 2]), {}, None, id="other things"),
    ],
)
def test_the_usual_size(args, kwargs, size):
    """The first int, else the bytes of the first buffer or file."""
    assert usual_size(*args, **kwargs) == size


def test_files(tmp_path):
    """By path object and by name; a folder is none."""
    file = tmp_path / "input"
    file.write_bytes(b"x" * 300)
    assert usual_size(file) == usual_size(str(file)) == usual_size("other", file) == 300.0
    assert usual_size(tmp_path) is None
    assert usual_size(Path("/nonexistent/file")) is None
    assert total_size([file, str(file), tmp_path / "absent"]) == 600.0
    assert total_size([]) == 0.0
