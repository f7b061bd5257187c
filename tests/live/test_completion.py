"""What a shell offers after TAB: a real bash, as a script and at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

import memwarden
from memwarden.faces.cli.completion import SHELLS

COMPLETE = r"""
source <(memwarden completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
compopt() { echo "compopt $1 $2"; }  # works only while a key is pressed
_memwarden_completion memwarden
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a ``memwarden`` on the PATH, as an installation leaves it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "memwarden"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m memwarden \"$@\"\n")
    command.chmod(0o755)
    source = str(Path(memwarden.__file__).resolve().parents[1])
    return {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": source, "HOME": str(tmp_path), "TERM": "xterm"}


def offered(environment: dict[str, str], *words: str) -> list[str]:
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", "memwarden", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        pytest.param([""], ["run", "doctor", "settings", "completion"], id="commands"),
        pytest.param(["settings", "s"], ["show", "schema"], id="commands below a command"),
        pytest.param(["run", "--ce"], ["--ceiling"], id="options"),
        pytest.param(["run", "--ceiling", ""], ["auto", "cgroup2", "cgroup1", "polling"], id="choices"),
        pytest.param(["run", "--ceiling", "cg"], ["cgroup2", "cgroup1"], id="choices, started"),
        pytest.param(["run", "--limit", ""], [], id="a size is not guessed"),
        pytest.param(["run", "--record", "x"], ["compopt -o default"], id="files"),
        pytest.param(["run", "--config", "x"], ["compopt -o default"], id="settings files"),
        pytest.param(["settings", "check", "x"], ["compopt -o default"], id="a file to check"),
        pytest.param(["run", "--cgroup", "/"], ["compopt -o dirnames"], id="directories"),
        pytest.param(["run", "--", "memward"], ["memwarden"], id="programs"),
        pytest.param(["run", "--", "./memward"], ["compopt -o default"], id="programs by path"),
        pytest.param(["run", "--", "memwarden", "x"], ["compopt -o default"], id="what follows a program"),
        pytest.param(["completion", ""], list(SHELLS), id="shells"),
    ],
)
def test_bash_is_offered(environment: dict[str, str], words: list[str], wanted: list[str]) -> None:
    """Commands, options, choices, and the shell's own files and directories."""
    output = [word for word in offered(environment, *words) if word]
    if words == [""] or words[-1] == "s":
        assert set(wanted) <= set(output)  # other commands may come
    else:
        assert sorted(output) == sorted(wanted)


def test_keys_at_a_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    """TAB in an interactive bash completes an option, a choice and the name of a file."""
    (tmp_path / "unusual-name.toml").touch()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe(
            "bash", ["bash", "--norc", "--noprofile", "-i"], {**environment, "PS1": "$ ", "INPUTRC": "/dev/null"}
        )
    seen = ""

    def until(words: str, seconds: float = 30) -> None:
        nonlocal seen
        end = time.monotonic() + seconds
        while words not in seen:
            assert time.monotonic() < end, seen
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 65536).decode("utf-8", "replace")
        seen = seen[seen.index(words) + len(words) :]

    try:
        until("$ ")
        os.write(terminal, b"source <(memwarden completion bash) && echo rea'dy'\n")
        until("ready\r\n")
        for typed, wanted in (
            (b"memwarden run --ceil\t", "--ceiling "),
            (b"pol\t", "polling "),
            (b"--config unus\t", "unusual-name.toml "),
        ):
            os.write(terminal, typed)
            until(wanted)
    finally:
        os.write(terminal, b"\x03exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_script(environment: dict[str, str], shell: str) -> None:
    """It asks memwarden by the variable that memwarden answers to, and bash is not needed to print another's."""
    environment = {**environment, "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "memwarden", "completion", shell],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_MEMWARDEN_COMPLETE={shell}_complete" in done.stdout
