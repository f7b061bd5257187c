"""Every example runs, and nothing public is left unsaid."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memwarden
from memwarden import errors
from memwarden.faces import cli
from memwarden.settings import OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"(?:<!-- exit: (\d+) -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks(language: str) -> list:
    return [
        pytest.param(code, int(status or 0), id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (status, tongue, code) in enumerate(_FENCE.findall(page.read_text()))
        if tongue == language
    ]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of the test's own, and this environment's memwarden first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}


@pytest.mark.parametrize(("code", "status"), _blocks("python"))
def test_python_examples_run(code: str, status: int, tmp_path: Path, environment: dict[str, str]) -> None:
    """As a program of its own, without an error or a warning."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (status, "")


@pytest.mark.parametrize(("code", "status"), _blocks("console"))
def test_commands_run(code: str, status: int, tmp_path: Path, environment: dict[str, str]) -> None:
    """Each line after the prompt, in a shell, with the exit code that the page says."""
    for line in code.splitlines():
        assert line.startswith("$ ")
        result = subprocess.run(
            ["sh", "-c", line[2:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == status, result.stderr


def test_every_option_is_explained() -> None:
    """With its flag and its variable."""
    page = (ROOT / "docs" / "run.md").read_text()
    for option in OPTIONS:
        assert option.flag in page
        assert option.variable in page


def test_every_exit_code_is_explained() -> None:
    """In the page and in the README."""
    codes = [cli.LIMIT_ENDED_IT, cli.OWN_FAILURE, cli.NOT_EXECUTABLE, cli.NOT_FOUND]
    for page in ("README.md", "docs/run.md"):
        text = (ROOT / page).read_text()
        assert all(re.search(rf"^\|.*\b{code}\b", text, re.MULTILINE) for code in codes)


def test_the_error_tree_is_drawn() -> None:
    """The page has the tree of the module, line by line."""
    tree = re.findall(r"^ +(\S.*)$", inspect.getdoc(errors) or "", re.MULTILINE)
    page = (ROOT / "docs" / "errors.md").read_text()
    assert len(tree) >= 9
    assert all(line in page for line in tree)


def test_every_public_name_is_mentioned() -> None:
    """Somewhere in the pages a user meets it."""
    text = "\n".join(page.read_text() for page in PAGES)
    missing = [name for name in memwarden.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == ["__version__"]


def test_links_of_the_readme_exist() -> None:
    """The site's own links are checked when it is built; these are not part of it."""
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), target
