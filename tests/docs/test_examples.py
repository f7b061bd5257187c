"""What the documentation shows works, and what it lists is all there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import memwarden
from memwarden import errors
from memwarden.faces.cli import exit_codes
from memwarden.faces.cli.command_group import group
from memwarden.settings import OPTIONS, Option

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECONDS = 30
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r"<!-- exit: (\d+) -->\n\Z")
_PROMPT = "$ memwarden "


class Block(NamedTuple):
    """A fenced block: its language, its text, where it stands, and the exit code that a comment before it says."""

    language: str
    text: str
    where: str
    exit_code: int


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        said = _EXIT.search(before)
        where = f"{page.relative_to(ROOT)}:{before.count(chr(10)) + 1}"
        yield Block(match[1], match[2], where, int(said[1]) if said else 0)


BLOCKS = [block for page in PAGES for block in _blocks(page)]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    (line.removeprefix("$ "), block.exit_code, block.where)
    for block in BLOCKS
    if block.language == "console"
    for line in block.text.splitlines()
    if line.startswith(_PROMPT)
]


def _environment(folder: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMWARDEN_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    environment["XDG_STATE_HOME"] = str(folder / "state")
    environment["XDG_RUNTIME_DIR"] = str(folder)
    environment["XDG_CONFIG_HOME"] = str(folder / "config")
    # The package under test, also where it is found by a path that is relative to the checkout.
    environment["PYTHONPATH"] = str(Path(memwarden.__file__).resolve().parents[1])
    return environment


def _page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.where)
def test_program_runs(block: Block, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env=_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{block.where}\n{done.stdout}{done.stderr}"


@pytest.mark.skipif(sys.platform != "linux", reason="memwarden run needs Linux")
@pytest.mark.parametrize(("line", "exit_code", "where"), COMMANDS, ids=[where for _, _, where in COMMANDS])
def test_command_runs(line: str, exit_code: int, where: str, tmp_path: Path) -> None:
    (tmp_path / "example.log").write_text("what the examples of `map --glob` find\n", encoding="utf-8")
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=tmp_path,
        env=_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == exit_code, f"{where}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


def test_examples_were_found() -> None:
    assert PROGRAMS
    assert COMMANDS
    shown = [line for block in BLOCKS for line in block.text.splitlines() if line.startswith(_PROMPT)]
    assert len(shown) == len(COMMANDS), "a line that begins with '$ memwarden ' stands outside a console block"


def test_exit_comments_stand_before_console_blocks() -> None:
    said = sum(page.read_text(encoding="utf-8").count("<!-- exit:") for page in PAGES)
    assert said == sum(block.exit_code != 0 for block in BLOCKS if block.language == "console")


@pytest.mark.parametrize(
    "option",
    [option for option in OPTIONS if option.name in {each.name for each in group.commands["run"].params}],
    ids=lambda option: option.name,
)
def test_option_is_described(option: Option) -> None:
    row = re.search(rf"^\| `{option.flag}[ `].*$", _page("run.md"), re.MULTILINE)
    assert row, f"{option.flag} has no row in docs/run.md"
    assert f"`{option.variable}`" in row[0]
    if isinstance(option.default, float):
        assert f"| {option.default:g} |" in row[0]
    elif isinstance(option.default, str):
        assert f"| {option.default} |" in row[0]


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("watch", "watch-command.md"),
        ("top", "watch-command.md"),
        ("map", "map-command.md"),
        ("compare", "compare-command.md"),
    ],
)
def test_every_option_of_the_command_is_described(command: str, page: str) -> None:
    """In its own table, under each of its names, with a default where it has one."""
    _, _, rest = _page(page).partition(f"ption of `{command}` |")
    rows, _, _ = rest.partition("\n\n")
    for each in group.commands[command].params:
        if each.param_type_name == "argument":
            continue
        for name in [*each.opts, *each.secondary_opts]:
            assert re.search(rf"^\| .*`{name}[ `].* \|$", rows, re.MULTILINE), f"{command} {name} has no row"


@pytest.mark.parametrize(
    "error",
    [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.MemwardenError)],
)
def test_error_is_described(error: type) -> None:
    text = _page("errors.md")
    assert error.__name__ in text
    if error is not errors.MemwardenError:
        assert f"| `{error.__name__}` |" in text


@pytest.mark.parametrize("name", memwarden.__all__)
def test_public_name_is_described(name: str) -> None:
    pages = [page.read_text(encoding="utf-8") for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert any(re.search(rf"\b{re.escape(name)}\b", page) for page in pages), f"{name} stands on no page of docs/"


@pytest.mark.parametrize("page", ["docs/run.md", "README.md"])
def test_exit_codes_are_those_of_the_command_line(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    meanings = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)}
    assert meanings.keys() == {
        exit_codes.KILLED_AT_LIMIT,
        exit_codes.OWN_FAILURE,
        exit_codes.NOT_EXECUTABLE,
        exit_codes.NOT_FOUND,
    }
    for code, meaning in (
        (exit_codes.KILLED_AT_LIMIT, "limit"),
        (exit_codes.OWN_FAILURE, "memwarden itself"),
        (exit_codes.NOT_EXECUTABLE, "cannot be executed"),
        (exit_codes.NOT_FOUND, "not found"),
    ):
        assert meaning in meanings[code]


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f" {page.relative_to(ROOT / 'docs')}" in navigation
