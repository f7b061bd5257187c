"""Each variable and each key of a settings file changes what a command does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memwarden.faces.cli.exit_codes import KILLED_AT_LIMIT, OWN_FAILURE
from memwarden.records.sqlite_reader import read_history
from memwarden.settings import OPTIONS
from memwarden.testing import HOG
from support.receiver import Got, Receiver

MEMWARDEN = [sys.executable, "-m", "memwarden"]

#: Options of `watch` alone, which test_watch.py tries.
OF_WATCH = {"duration", "preset"}
#: The option of `autostart()` alone, which is tried below.
OF_AUTOSTART = "monitor"

#: Grows past 60 MiB; stops growing when it is asked to end, and stays.
STAYS = """
import signal, time
asked, kept = [], []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
while not asked:
    kept.append(b"x" * (1 << 19))
    time.sleep(0.005)
time.sleep(60)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home and working directory of its own, and no variables of ours."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MEMWARDEN_")}
    source = str(Path(__file__).resolve().parents[2] / "src")
    home = str(tmp_path)
    return {**bare, "PYTHONPATH": source, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "XDG_CONFIG_HOME": home}


class Done:
    """A run that ended: its exit code, what it printed, and where it stood."""

    def __init__(self, folder: Path, code: int, err: str) -> None:
        self.folder, self.code, self.err = folder, code, err

    @property
    def report(self) -> dict:
        return json.loads(self.err.splitlines()[-1])

    @property
    def polls_as_set(self) -> bool:
        """Without looking for something better first."""
        return self.report["exit"]["ceiling"] == "polling" and not self.report["better_ceilings_refused"]

    @property
    def samples(self) -> int:
        return Path(self.report["record"]).read_text().count('"kind":"sample"')


def run(folder: Path, environment: dict[str, str], command: list[str], *flags: str) -> Done:
    """Run a command with its standard error at a terminal."""
    master, slave = os.openpty()
    with subprocess.Popen(
        [*MEMWARDEN, "run", *flags, "--", *command],
        cwd=folder,
        env={**environment, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stderr=slave,
    ) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                got = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not got:
                break
            seen += got
        code = process.wait(60)
    os.close(master)
    return Done(folder, code, seen.decode().replace("\r\n", "\n"))


SLEEP = ["sleep", "0.6"]
PYTHON = [sys.executable, "-c"]

HELD = ["--json", "--limit", "60MiB", "--ceiling", "polling"]

#: Option, what is reported, a command, further flags, and what must be so with it and not without it.
Effect = tuple[str, str, list[str], list[str], Callable[[Done], bool]]
EFFECTS: list[Effect] = [
    ("limit", "100MiB", [*PYTHON, HOG, "20", "400", "300"], ["--quiet"], lambda done: done.code == KILLED_AT_LIMIT),
    ("interval", "20ms", SLEEP, ["--json"], lambda done: done.samples > 8),
    ("record", "here.jsonl", ["true"], ["--quiet"], lambda done: (done.folder / "here.jsonl").exists()),
    ("live", "true", SLEEP, ["--quiet"], lambda done: "\033[1;" in done.err and "processes" in done.err),
    ("grace", "100ms", [*PYTHON, STAYS], HELD, lambda done: done.report["exit"]["seconds"] < 4),
    ("ceiling", "polling", SLEEP, ["--json", "--limit", "1G"], lambda done: done.polls_as_set),
    ("cgroup", "/nonexistent", ["true"], ["--limit", "1G"], lambda done: done.code == OWN_FAILURE),
    ("quiet", "true", ["true"], [], lambda done: done.err == ""),
    ("termination_log", "last.txt", ["true"], ["--quiet"], lambda done: (done.folder / "last.txt").exists()),
    ("config", "mine.toml", ["true"], [], lambda done: done.err == ""),
]


def test_every_option_is_used() -> None:
    """Nothing is parsed and then forgotten."""
    reported = [name for name, *_ in EFFECTS] + [*TARGETS, *OF_WATCH, OF_AUTOSTART]
    assert sorted(reported) == sorted(option.name for option in OPTIONS)


@pytest.mark.contract("W3-6", "X-28")
@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect[0])
def test_each_variable_and_each_key_changes_what_is_done(
    effect: Effect, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Without it the run is as usual; reported by the variable, or in the file, it is not."""
    name, said, command, flags, so = effect
    option = next(option for option in OPTIONS if option.name == name)
    folders = [tmp_path / way for way in ("usual", "variable", "file")]
    for folder in folders:
        folder.mkdir()
        (folder / "mine.toml").write_text("quiet = true")  # read only where it is named
    usual, by_variable, by_file = folders
    assert not so(run(usual, environment, command, *flags))
    assert so(run(by_variable, {**environment, option.variable: said}, command, *flags))
    if option.in_file:
        text = said if option.is_switch else json.dumps(said)
        (by_file / "memwarden.toml").write_text(f"{name} = {text}\n")
        assert so(run(by_file, environment, command, *flags))


@pytest.mark.parametrize("way", ["variable", "file", "nowhere"])
def test_a_program_watches_itself_when_it_is_reported_to(way: str, tmp_path: Path, environment: dict[str, str]) -> None:
    """``autostart()`` goes by the variable and by the file alike."""
    if way == "variable":
        environment["MEMWARDEN_MONITOR"] = "true"
    elif way == "file":
        (tmp_path / "memwarden.toml").write_text("monitor = true")
    program = "from memwarden import autostart; service = autostart(); print(service is not None and service.running)"
    done = subprocess.run(
        [*PYTHON, program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (f"{way != 'nowhere'}\n", "")


#: Settings of the targets of ``memwarden alerts test``, and a check of the request; ``URL`` is the receiver's.
TARGETS: dict[str, tuple[str, Callable[[Got], bool]]] = {
    "webhook": ("http://URL", lambda got: got.json["type"] == "memwarden.alert"),
    "webhook_secret": ("whsec_aGVsbG8=", lambda got: got.headers["webhook-signature"].startswith("v1,")),
    "webhook_secret_file": ("secret.txt", lambda got: got.headers["webhook-signature"].startswith("v1,")),
    "alerts": ("json://URL", lambda got: "[TEST]" in got.json["message"]),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("way", ["variable", "file"])
def test_each_variable_and_each_key_sets_a_target(
    name: str, way: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The test alert goes there, and is signed where something is reported to sign with."""
    if name == "alerts":
        pytest.importorskip("apprise")
    (tmp_path / "secret.txt").write_text("plain words\n")
    said, so = TARGETS[name]
    flags = [] if said.endswith("URL") else ["--webhook", "http://URL"]
    option = next(option for option in OPTIONS if option.name == name)
    environment = {key: value for key, value in environment.items() if not key.lower().endswith("_proxy")}
    with Receiver() as receiver:
        here = f"127.0.0.1:{receiver.port}/in"
        if way == "variable":
            environment[option.variable] = said.replace("URL", here)
        else:
            (tmp_path / "memwarden.toml").write_text(f"{name} = {json.dumps(said.replace('URL', here))}\n")
        command = [*MEMWARDEN, "alerts", "test", *(flag.replace("URL", here) for flag in flags)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    (got,) = receiver.got
    assert so(got)


def test_a_record_may_be_a_history_in_sqlite(tmp_path: Path, environment: dict[str, str]) -> None:
    """Where its name shows so: the whole run stands in it, and the report names it."""
    done = run(tmp_path, environment, SLEEP, "--json", "--record", "run.db", "--interval", "50ms")
    assert done.report["record"] == str(tmp_path / "run.db")
    kinds = [event.kind.value for event in read_history(tmp_path / "run.db")]
    assert kinds[0] == "start"
    assert {"sample", "level", "exit"} <= set(kinds)


@pytest.mark.contract("W3-6")
@pytest.mark.parametrize(
    ("variables", "text", "words"),
    [
        ({"MEMWARDEN_LIMIT": "much"}, "", ["MEMWARDEN_LIMIT", "'much'", "512MiB"]),
        ({"MEMWARDEN_CONFIG": "nowhere.toml"}, "", ["nowhere.toml", "No such file"]),
        ({"MEMWARDEN_RECORD": "/proc/nowhere/x.jsonl"}, "", ["MEMWARDEN_RECORD", "/proc/nowhere"]),
        ({}, "limit = 'much'", ["memwarden.toml", "limit", "'much'"]),
        ({}, "\nlimt = 1\nlive = 2", ["memwarden.toml", "did you mean limit", "memwarden.toml: live"]),
        ({}, "limit = ", ["memwarden.toml", "not valid TOML"]),
        ({}, "#\nrecord = '/proc/nowhere/x.jsonl'", ["memwarden.toml", "/proc/nowhere"]),
        ({}, "#\nrecord = '/proc/nowhere/x.db'", ["memwarden.toml", "/proc/nowhere"]),
    ],
)
def test_bad_settings_start_nothing(
    tmp_path: Path, environment: dict[str, str], variables: dict[str, str], text: str, words: list[str]
) -> None:
    """One line that names the place and the value, and the code for what memwarden itself could not do."""
    (tmp_path / "memwarden.toml").write_text(text)
    done = run(tmp_path, {**environment, **variables}, ["touch", "started"])
    assert done.code == OWN_FAILURE
    assert len(done.err.splitlines()) == 1
    assert all(word in done.err for word in words)
    assert not (tmp_path / "started").exists()


def test_settings_of_a_project_hold_below_it(tmp_path: Path, environment: dict[str, str]) -> None:
    """``[tool.memwarden]`` counts in every folder of the project, and a flag wins over it."""
    (tmp_path / "pyproject.toml").write_text("[tool.memwarden]\nquiet = true\ninterval = 3600\n")
    folder = tmp_path / "src" / "part"
    folder.mkdir(parents=True)
    assert run(folder, environment, ["true"]).err == ""
    environment["MEMWARDEN_QUIET"] = "no"
    assert run(folder, environment, SLEEP, "--json").samples <= 2
    assert run(folder, environment, SLEEP, "--json", "--interval", "20ms").samples > 8
