"""The full-text index that `make run` shows: what goes in comes out, by either way of building it.

How much memory it takes is not judged here: that depends on the Python and is for the benchmarks.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PROGRAM = Path(__file__).parents[2] / "examples" / "fulltext_index.py"

SOURCES = {
    "engine/pump.py": "import os\n\n\ndef startPump(valve):\n    return valve.open_now()\n",
    "engine/valve.py": "class HTTPValve:\n    def open_now(self):\n        self.open = True\n",
    "notes.py": "# the valve of the pump\n# PUMP, pump, pump: valve\n",
    "text.txt": "valve pump, but not a Python source\n",
}


def load() -> ModuleType:
    """Import the program as a module: it lies in no package."""
    spec = importlib.util.spec_from_file_location("fulltext_index", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fulltext = load()


def program(*arguments: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program, or code that has it imported as `fulltext_index`, and return what it did."""
    start = [str(PROGRAM)] if code is None else ["-c", textwrap.dedent(code)]
    return subprocess.run(
        [sys.executable, "-W", "error", *start, *map(os.fspath, map(str, arguments))],
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parent), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def plant(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def built(tree: Path, out: Path, *options: str) -> str:
    """Build an index that has to succeed, and return the summary."""
    done = program("build", *options, "--out", out, tree)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of sources."""
    return plant(tmp_path / "tree", SOURCES)


WAYS = {
    "within a budget": [],
    "a segment for every file": ["--budget", "1"],
    "one worker": ["--workers", "1"],
    "more workers than files": ["--workers", "5"],
    "in memory": ["--in-memory"],
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS.keys())
def test_every_way_answers_the_same(tree: Path, tmp_path: Path, options: list[str]) -> None:
    """The way of building changes neither the answers nor a byte of the file."""
    summary = built(tree, tmp_path / "index", *options)
    assert summary.startswith("3 files, 25 words, 18 distinct terms")
    assert "ordinary" not in summary

    done = program("query", tmp_path / "index", "valve", "pump")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"     6 {tree}/notes.py:1: # the valve of the pump",
        f"     3 {tree}/engine/pump.py:4: def startPump(valve):",
        "2 files hold valve and pump",
    ]
    built(tree, tmp_path / "plain", "--workers", "1")
    assert (tmp_path / "index").read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize(
    ("words", "first"),
    [
        pytest.param(["open_now"], "     1 {}/engine/pump.py:5: return valve.open_now()", id="whole"),
        pytest.param(["HttpValve"], "     1 {}/engine/valve.py:1: class HTTPValve:", id="any case"),
        pytest.param(["http"], "     1 {}/engine/valve.py:1: class HTTPValve:", id="part of a word"),
        pytest.param(["open", "true"], "     3 {}/engine/valve.py:3: self.open = True", id="line with both"),
        pytest.param(["import", "now"], "     2 {}/engine/pump.py:1: import os", id="no line with both"),
    ],
)
def test_a_query_names_the_line(tree: Path, tmp_path: Path, words: list[str], first: str) -> None:
    """A hit shows the first line with all the words or, where there is none, with any of them."""
    built(tree, tmp_path / "index")
    done = program("query", tmp_path / "index", *words)
    assert done.stdout.splitlines()[0] == first.format(tree)


@pytest.mark.parametrize("word", ["a", "zzz", "valves", "valve pump", "", "\udcff"])
def test_a_word_that_is_in_no_file_is_not_found(tree: Path, tmp_path: Path, word: str) -> None:
    """An answer without files is an answer, and its exit code is 1 as that of grep."""
    built(tree, tmp_path / "index")
    done = program("query", tmp_path / "index", word)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("0 files hold")


def test_a_query_shows_no_line_of_a_file_that_has_changed(tree: Path, tmp_path: Path) -> None:
    """The offsets of the old text are not applied to the new one."""
    built(tree, tmp_path / "index")
    (tree / "notes.py").write_text("# nothing\n")
    done = program("query", tmp_path / "index", "pump", "--limit", "1")
    assert "notes.py:0: (changed since it was indexed)" in done.stdout


HOSTILE = {
    "binary.py": (b"valve = 1\0\xfe\xff", "binary, left out"),
    "latin.py": ("# l'été\nvalve = 2\n".encode("latin-1"), "read as latin-1"),
    "liar.py": (b"# coding: no-such-thing\nvalve = 3\n", "read as latin-1"),
    "no_text.py": (b"# coding: zlib\nvalve = 4\n", "read as latin-1"),
    "declared.py": ("# coding: latin-1\n# été\nvalve = 5\n".encode("latin-1"), None),
    "marked.py": (b"\xef\xbb\xbfvalve = 6\n", None),
    "empty.py": (b"", None),
    "no_newline.py": (b"valve = 7", None),
    "dos.py": (b"first = 1\r\nvalve = 8\r\n", None),
    "huge_line.py": (b"x = '" + b"A" * 2_000_000 + b"'; valve = 9\n", None),
    os.fsdecode(b"name\xff.py"): (b"valve = 10\n", None),
    "new\nline.py": (b"valve = 11\n", None),
}


@pytest.mark.parametrize("way", ["--spill", "--in-memory"])
def test_odd_files_are_named_and_the_rest_is_indexed(tmp_path: Path, way: str) -> None:
    """No content, name or link stops a build; what was odd about a file stands in the summary."""
    tree = plant(tmp_path / "tree", {name: content for name, (content, _) in HOSTILE.items()})
    (tree / "self.py").symlink_to("self.py")
    (tree / "gone.py").symlink_to("nowhere")
    (tree / "round").symlink_to(tree, target_is_directory=True)
    (tree / "folder.py").mkdir()
    os.mkfifo(tree / "fifo.py")

    summary = built(tree, tmp_path / "index", way)
    assert summary.startswith(f"{len(HOSTILE)} files, ")
    notes = summary.split("files out of the ordinary: ")[1].splitlines()
    expected = {name: note for name, (_, note) in HOSTILE.items() if note}
    expected |= {"self.py": "symbolic links", "gone.py": "No such file"}
    assert notes[0] == f"{len(expected)}"
    for name, words in expected.items():
        assert any(name in note and words in note for note in notes), name

    found = program("query", tmp_path / "index", "valve", "--limit", "99").stdout
    assert set(re.findall(r"valve = (\d+)", found)) == set("2345678") | {"10", "11"}
    assert "huge_line.py:1: x = 'AAA" in found  # cut before it comes to the valve
    assert f"{tree}/dos.py:2: valve = 8" in found
    assert f"{tree}/latin.py:2: valve = 2" in found
    assert f"{tree}/name\\udcff.py:1: valve = 10" in found


def test_a_file_that_vanishes_before_it_is_read_is_noted(tmp_path: Path) -> None:
    """Reading fails as gently as listing."""
    notes: list[str] = []
    assert fulltext.read_source(str(tmp_path / "gone.py"), notes) == ""
    assert "gone.py" in notes[0]


def test_installed_packages_are_passed_by(tmp_path: Path) -> None:
    """They are indexed as a root, not as a folder of the standard library."""
    tree = plant(tmp_path / "lib", {"a.py": "a", "site-packages/b.py": "b"})
    assert built(tree, tmp_path / "index").startswith("1 files")
    assert built(tree / "site-packages", tmp_path / "index").startswith("1 files")


@pytest.mark.parametrize("way", ["--spill", "--in-memory"])
def test_no_sources_make_an_empty_index(tmp_path: Path, way: str) -> None:
    """A directory without sources is not an error."""
    assert built(plant(tmp_path / "tree", {"a.txt": ""}), tmp_path / "index", way).startswith("0 f")
    assert program("query", tmp_path / "index", "valve").returncode == 1


def test_segments_are_merged_in_rounds(tmp_path: Path) -> None:
    """More segments than files may be open give the index that one segment gives."""
    code = """
        import fulltext_index, resource, sys
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        sys.exit(fulltext_index.main())
    """
    count = 2 * fulltext.FAN_IN + 3
    sources = {f"{n:03}.py": f"common only_{n}\ncommon\n" for n in range(count)}
    tree = plant(tmp_path / "tree", sources)
    done = program("build", "--budget", "1", "--out", tmp_path / "many", tree, code=code)
    assert done.returncode == 0, done.stderr
    assert f"from {count} segments" in done.stdout
    assert "from 1 segments" in built(tree, tmp_path / "one", "--workers", "1")
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()


TEXT = st.text(st.sampled_from("aAbB_1é.\n\r "), max_size=30)


@settings(deadline=None)  # a disk may be slow
@given(texts=st.lists(TEXT, max_size=5), budget=st.sampled_from([1, 300, 1 << 20]))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, texts: list[str], budget: int) -> None:
    """Every term is found at exactly the offsets at which a plain search of the texts has it."""
    folder = tmp_path_factory.mktemp("texts")
    paths = [str(folder / f"{number}.py") for number in range(len(texts))]
    expected: defaultdict[str, dict[int, list[int]]] = defaultdict(dict)
    for number, (path, text) in enumerate(zip(paths, texts, strict=True)):
        Path(path).write_bytes(text.encode())
        plain = text.replace("\r\n", "\n").replace("\r", "\n")
        for match in re.finditer(r"\w+", plain):
            if not match[0][0].isdigit():
                for term in fulltext.terms_of(match[0]):
                    expected[term].setdefault(number, []).append(match.start())

    report = fulltext.index_share("test", paths, 0, budget, str(folder))
    whole = str(folder / "index")
    terms, size = fulltext.write_index(whole, fulltext.merge(report.segments), paths)
    assert (terms, size) == (len(expected), os.path.getsize(whole))
    with open(whole, "rb") as file:
        index = fulltext.Index(file)
        assert list(index) == sorted(term.encode() for term in expected)
        for term, documents in expected.items():
            found = {number: list(offsets) for number, offsets in index.find(term).items()}
            assert found == documents
        assert [index.path(number) for number in range(len(paths))] == paths


@pytest.mark.parametrize(
    ("word", "terms"),
    [
        ("startPump", ["startpump", "start", "pump"]),
        ("HTTPServer_open2", ["httpserver_open2", "http", "server", "open2"]),
        ("__init__", ["__init__", "init"]),
        ("self", ["self"]),
        ("Éclair", ["éclair"]),
        ("x" * 101, []),
    ],
)
def test_a_word_is_found_by_its_parts(word: str, terms: list[str]) -> None:
    """The parts of camelCase and snake_case are terms as well; encoded data are none."""
    assert list(fulltext.terms_of(word)) == terms


def test_progress_is_a_line_every_two_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often there is something to tell, and none for work of less than two seconds."""
    now = iter([0.0, 0.5, 1.9, 2.5, 2.5, 3.0, 4.4, 9.0, 9.0, 9.1])
    monkeypatch.setattr(fulltext.time, "monotonic", lambda: next(now))
    progress = fulltext.Progress("worker 1")
    for number in range(1, 8):
        progress.tell(f"{number} files")
    assert capsys.readouterr().err == "worker 1: 3 files\nworker 1: 6 files\n"


# Stopped in the middle: a signal that the program sends to itself at a chosen place comes neither
# too early nor too late.

WHILE_WRITING = """
    import fulltext_index as program, os, signal, sys
    write, calls = program.write_record, []
    def write_some(file, record):
        calls.append(record)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.{signal})
        return write(file, record)
    program.write_record = write_some
    sys.exit(program.main())
"""

WHILE_WORKERS_RUN = """
    import fulltext_index as program, multiprocessing, os, signal, sys
    from multiprocessing.connection import Connection
    def receive(self):
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.{signal})
        raise AssertionError("the signal did not stop the program")
    Connection.recv = receive
    sys.exit(program.main())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("way", ["--spill", "--in-memory"])
def test_a_stop_while_writing_leaves_what_was_there(tree: Path, tmp_path: Path, way: str, name: str) -> None:
    """The old index stays, the new one never appears, and the segments are gone."""
    out = tmp_path / "out" / "index"
    plant(tmp_path, {"out/index": "the old one"})
    done = program("build", way, "--out", out, tree, code=WHILE_WRITING.format(signal=name))
    assert done.returncode == 128 + signal.Signals[name]
    assert done.stderr.splitlines()[-1] == f"stopped by {name}"
    assert [path.name for path in out.parent.iterdir()] == ["index"]
    assert out.read_text() == "the old one"


def test_a_reader_keeps_the_index_that_it_opened(tree: Path, tmp_path: Path) -> None:
    """The new index takes the name of the old one; it is not written over it."""
    out = tmp_path / "index"
    built(tree, out)
    old = out.read_bytes()
    with out.open("rb") as file:
        (tree / "engine" / "pump.py").unlink()
        built(tree, out)
        assert file.read() == old != out.read_bytes()


def test_a_kill_leaves_no_index(tree: Path, tmp_path: Path) -> None:
    """Nothing can be cleared up after SIGKILL, but half an index does not pass for a whole one."""
    out = tmp_path / "out" / "index"
    done = program("build", "--out", out, tree, code=WHILE_WRITING.format(signal="SIGKILL"))
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    built(tree, out)
    assert program("query", out, "valve").returncode == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_ends_the_workers(tree: Path, tmp_path: Path, name: str) -> None:
    """No worker outlives the program, and nothing lies beside the output."""
    out = tmp_path / "out" / "index"
    code = WHILE_WORKERS_RUN.format(signal=name)
    done = program("build", "--workers", "3", "--out", out, tree, code=code)
    assert done.returncode == 128 + signal.Signals[name]
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 3
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert list(out.parent.iterdir()) == []


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait(tree: Path, tmp_path: Path) -> None:
    """The kernel may kill a worker alone; the build then ends with a line that says so."""
    code = """
        import fulltext_index as program, sys
        from multiprocessing.context import SpawnProcess
        start = SpawnProcess.start
        def start_and_kill(self):
            start(self)
            self.kill()  # long before its interpreter is up
        SpawnProcess.start = start_and_kill
        sys.exit(program.main())
    """
    out = tmp_path / "out" / "index"
    done = program("build", "--workers", "1", "--out", out, tree, code=code)
    assert done.returncode == 2
    assert done.stderr == "fulltext_index: a worker died (exit code -9)\n"
    assert list(out.parent.iterdir()) == []


def test_a_full_disk_is_one_line(tree: Path, tmp_path: Path) -> None:
    """A worker that cannot write its segment says why, and nothing is left."""
    code = """
        import fulltext_index, resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        sys.exit(fulltext_index.main())
    """
    out = tmp_path / "out" / "index"
    done = program("build", "--out", out, tree, code=code)
    assert (done.returncode, done.stderr) == (2, "fulltext_index: [Errno 27] File too large\n")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["build", "--out", "{}/i", "{}/none"], "no such directory: {}/none"),
        (["build", "--out", "{}", "{}"], "a directory, not a place for an index: {}"),
        (["query", "{}/none", "a"], "[Errno 2] No such file or directory: '{}/none'"),
        (["query", "{}/short", "a"], "not an index, or not a whole one"),
        (
            ["query", "{}/other", "a"],
            "not an index, or not a whole one, or one of another kind of machine",
        ),
    ],
    ids=["missing directory", "output is a directory", "missing index", "too short", "not one"],
)
def test_what_cannot_be_done_is_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    """The line names the thing, the exit code is 2, and nothing is written."""
    plant(tmp_path, {"short": "x", "other": "x" * 1000})
    done = program(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr == f"fulltext_index: {line.format(tmp_path)}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "short"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("32MiB", 32 << 20), ("32M", 32 << 20), ("1GiB", 1 << 30), ("5K", 5120), ("77", 77)],
)
def test_sizes(text: str, size: int) -> None:
    """Units are powers of 1024, and a bare number is bytes."""
    assert fulltext.size_in_bytes(text) == size


@pytest.mark.parametrize("option", [["--budget", "32MB"], ["--budget", "-1"], ["--workers", "0"], ["--workers", "x"]])
def test_options_are_checked(tmp_path: Path, option: list[str]) -> None:
    """A size or a number that cannot be meant is refused before the work begins."""
    done = program("build", *option, "--out", tmp_path / "index", tmp_path)
    assert done.returncode == 2
    assert option[1] in done.stderr or "expected one argument" in done.stderr
    assert list(tmp_path.iterdir()) == []
