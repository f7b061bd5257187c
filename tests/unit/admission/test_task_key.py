"""Which kind of task a function makes."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from memwarden.admission.footprints.task_key import code_version, host_class, task_key_of


def made(source: str) -> Callable[..., Any]:
    """The function ``f`` of this source."""
    space: dict[str, Any] = {"__name__": "somewhere"}
    exec(source, space)
    return space["f"]  # type: ignore[no-any-return]


BASE = "def f(x):\n    def g(y):\n        return y in {'a', 'b'}\n    return [g(each) + 1 for each in x]\n"


@pytest.mark.parametrize(
    "source",
    [
        "\n\n\n# moved\n" + BASE,
        BASE.replace("return [", "\n    # said\n    return ["),
        BASE.replace("def f(x):", "def f(x: list[int]) -> 'list[int]':"),
        BASE.replace("(y):", "(z):").replace("y in", "z in"),
    ],
)
def test_the_version_stands_when_nothing_changes(source: str) -> None:
    """Lines that move, comments, annotations and the names of variables change no peak."""
    assert code_version(made(source)) == code_version(made(BASE))


def test_a_new_docstring_is_no_new_code() -> None:
    """Of the function itself."""
    one, two = (made(f"def f(x):\n    '''{words}'''\n    return x * 2\n") for words in ("Twice.", "Two times."))
    assert code_version(one) == code_version(two)


@pytest.mark.parametrize(
    "source",
    [
        BASE.replace("+ 1", "+ 2"),
        BASE.replace("+ 1", "+ 1.0"),
        BASE.replace("+ 1", "- 1"),
        BASE.replace("'a'", "'c'"),
        BASE.replace("g(each)", "len(each)"),
    ],
)
def test_the_version_changes_with_the_code(source: str) -> None:
    """Constants and names within inner functions count."""
    assert code_version(made(source)) != code_version(made(BASE))


def test_the_version_is_the_same_in_every_process() -> None:
    """A set's order depends on the process; the version does not."""
    program = f"from memwarden.admission.footprints.task_key import code_version\n{BASE}\nprint(code_version(f))"
    seen = {code_version(made(BASE))}
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout.strip())
    assert len(seen) == 1


class Resizer:
    """Called as a task."""

    def __call__(self) -> int:
        return 1

    def run(self) -> int:
        return 2


def double(x: int) -> int:
    """A task."""
    return 2 * x


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return function(*args)

    return inner


def test_names() -> None:
    """The function is meant, however it is dressed."""
    for each in (double, functools.partial(double, 1), functools.partial(functools.partial(double), 1)):
        assert task_key_of(each).name.endswith("test_task_key.double")
        assert task_key_of(each).version == code_version(double) != ""
    assert task_key_of(Resizer().run).name.endswith("Resizer.run")
    assert task_key_of(Resizer()).name.endswith("Resizer")
    assert task_key_of(Resizer()).version == code_version(Resizer.__call__)
    assert task_key_of(wrapped(double)).name == task_key_of(double).name
    assert task_key_of(wrapped(double)).version != task_key_of(wrapped(wrapped(double))).version
    assert task_key_of(wrapped(double)).version != task_key_of(wrapped(made(BASE))).version
    assert task_key_of(sorted) == ("builtins.sorted", "")
    assert task_key_of("text".upper).version == ""  # type: ignore[comparison-overlap]


def test_a_programs_own_functions_bear_its_name(tmp_path: Any) -> None:
    """Every program's main module is called ``__main__``: two of them are not one kind."""
    program = tmp_path / "batch.py"
    program.write_text(
        "from memwarden.admission.footprints.task_key import task_key_of\ndef f(): pass\nprint(task_key_of(f).name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "batch.f\n"


def test_the_class_of_host_has_what_changes_peaks() -> None:
    """Page size, memory, processors, Python."""
    words = host_class()
    assert words == host_class()
    assert f"{os.cpu_count()}cpu" in words
    assert f"python{sys.version_info[0]}.{sys.version_info[1]}" in words
    if sys.platform == "linux":
        assert f"page{os.sysconf('SC_PAGE_SIZE')}" in words
