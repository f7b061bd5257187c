"""Commands for many inputs, on executors of the standard library; the results in a file."""

import contextlib
import json
import os
import sys
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="commands are run on Linux")

from memwarden.admission.batch.command_result import CommandResult
from memwarden.admission.batch.commands import Template, file_name, input_bytes, run_commands
from memwarden.admission.batch.manifest import Manifest
from memwarden.errors import RecordError, SettingsError


class AtOnce(Executor):
    """Does a task as it is submitted."""

    def __init__(self):
        self.tasks = 0

    def submit(self, fn, /, *args, **kwargs):
        self.tasks += 1
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize(
    ("command", "replace", "text", "words"),
    [
        (["echo"], None, "a b", ("echo", "a b")),
        (["{}", "-x"], None, "prog", ("prog", "-x")),
        (["cp", "{}", "to/{name}"], None, "/a/b.c", ("cp", "/a/b.c", "to/b.c")),
        (["x", "{stem}{stem}"], None, "a/b.tar.gz", ("x", "b.tarb.tar")),
        (["x", "{name}"], None, "a/b/", ("x", "b")),
        (["x", "{name}"], None, "/", ("x", "/")),
        (["x", "{stem}"], None, ".hidden", ("x", ".hidden")),
        (["x", "{}"], None, "{name}", ("x", "{name}")),
        (["x", "{} {0} {a}"], None, "in", ("x", "in {0} {a}")),
        (["x", "{}", "%"], "%", "in", ("x", "{}", "in")),
        (["x"], "(.*)", "in", ("x", "in")),
        (["x", "(.*)", "{}"], "(.*)", "\\1", ("x", "\\1", "{}")),
    ],
)
def test_an_input_is_put_in_its_place(command, replace, text, words):
    """In each word, as often as it is marked, once; and last where no place is marked."""
    assert Template(command, replace).words(text) == words


def test_commands_are_learned_by_their_words():
    """The program without its folder and the marks as they stand: the same for every input, and never long."""
    assert Template(["/usr/bin/gzip", "-k", "{}"]).kind == "gzip -k {}"
    long = [Template(["sh", "-c", "x" * 500 + end]).kind for end in "ab"]
    assert long[0] != long[1]
    assert all(len(each) < 90 for each in long)
    assert Template(["sh", "-c", "a\nb"]).kind.isprintable()


@pytest.mark.parametrize("texts", [["a", "A"], ["a/b", "a%2Fb"], ["x" * 300, "x" * 301], [".", ".."], ["a#2", "a"]])
def test_files_of_different_inputs_are_different(texts):
    """And each is the name of a file, not a path."""
    names = {file_name(text, time) for text in texts for time in (1, 2)}
    assert len(names) == 2 * len(texts)
    assert not any("/" in name or len(name) > 240 for name in names)


def test_a_size_is_that_of_the_file(tmp_path):
    """What names no file has none."""
    file = tmp_path / "a\nb"
    file.write_bytes(b"1234")
    assert input_bytes(str(file)) == 4.0
    assert [input_bytes(text) for text in ("missing", str(tmp_path), "a\0b", "x" * 5000, "")] == [None] * 5


def test_any_executor_will_do(tmp_path):
    """A pool of threads, for one: output in files, exit codes, what cannot be started."""
    script = "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[1]))"
    with ThreadPoolExecutor(2) as pool:
        command = [sys.executable, "-c", script]
        found = {each.input: each for each in run_commands(command, ["0", "3"], executor=pool, output=str(tmp_path))}
        (missing,) = run_commands(["/no/such"], ["x"], executor=pool, output=str(tmp_path))
    assert {name: (each.state, each.exit_code) for name, each in found.items()} == {
        "0": ("done", 0),
        "3": ("failed", 3),
    }
    assert Path(found["3"].output).read_text() == "3\n"
    assert (missing.state, missing.exit_code, missing.output) == ("not-started", 127, None)
    assert sorted(os.listdir(tmp_path)) == ["0.out", "3.out"]


def test_inputs_are_taken_as_they_are_needed():
    """A list of any length costs no more than a window of it."""
    taken = []

    def endless():
        for number in range(10**9):
            taken.append(number)
            yield str(number)

    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait)
        results = run_commands(["true"], endless(), executor=pool)
        threading.Timer(0.05, gate.set).start()
        next(results)
        results.close()
    assert len(taken) < 600


def test_what_the_caller_does_comes_before_it_counts(tmp_path):
    """A result whose caller failed is not in the file."""
    path = str(tmp_path / "results")
    with Manifest(path, ["true"]) as manifest:
        results = run_commands(["true"], ["a", "b"], executor=AtOnce(), manifest=manifest)
        next(results)
        with contextlib.suppress(ZeroDivisionError):
            next(results)
            results.throw(ZeroDivisionError)
    with open(path) as lines:
        assert [json.loads(line)["input"] for line in list(lines)[1:]] == ["a"]


def test_a_failure_may_end_it():
    """Nothing is submitted after it was seen."""
    executor = AtOnce()
    results = list(run_commands(["false"], map(str, range(10**6)), executor=executor, fail_fast=True))
    assert executor.tasks <= 256
    assert len(results) == executor.tasks


def result(text, state="done"):
    return CommandResult(1, text, state, 0, 0.0, 1.0, None, None, None, None, "")


def test_results_can_be_taken_up(tmp_path):
    """What is done is left out as often as it was done; a torn line counts for nothing and disturbs nothing."""
    path = str(tmp_path / "results")
    texts = ["a", "a", "\udcff\n", "東"]
    with Manifest(path, ["x"]) as manifest:
        for text in texts:
            manifest.add(result(text))
        manifest.add(result("b", "failed"))
    with open(path, "ab") as file:
        file.write(b'{"input": "c", "state": "do')
    with Manifest(path, ["x"], resume=True) as manifest:
        skipped = [text for text in ["a", "a", "a", "\udcff\n", "東", "b", "c"] if manifest.skips(text)]
        manifest.add(result("c"))
    assert skipped == texts
    with Manifest(path, ["x"], resume=True) as manifest:
        assert manifest.skips("c")


def test_a_file_without_results_is_removed(tmp_path):
    """It would stand in the way of the next attempt."""
    path = tmp_path / "results"
    Manifest(str(path), ["x"]).close()
    assert not path.exists()


def test_what_is_no_file_of_results_is_left_alone(tmp_path):
    """A full disk is reported; so are a device, another's file, and another command's results."""
    path = tmp_path / "other"
    path.write_text("{}\n")
    for where, error in [(str(path), SettingsError), ("/dev/null", SettingsError), (str(tmp_path), RecordError)]:
        with pytest.raises(error):
            Manifest(where, ["x"], resume=True)
    assert path.read_text() == "{}\n"
