"""The page "Find your way" names files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "find-your-way.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "memwarden"
ANSWERS = re.findall(r"^\| [^|]+ \| `([\w/.]+\.py)` \| `([\w.]+)` \|$", PAGE, re.MULTILINE)


def names_of(path: Path) -> set[str]:
    """Return the functions and classes of a file, methods with their class."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("path", "name"), ANSWERS)
def test_an_answer_exists(path: str, name: str) -> None:
    assert name in names_of(SOURCE / path)


def test_every_row_of_the_tables_of_questions_is_an_answer() -> None:
    assert len(ANSWERS) == sum(line.split("|")[1].rstrip().endswith("?") for line in PAGE.splitlines() if "|" in line)
    assert len(ANSWERS) > 15


@pytest.mark.parametrize("page", ["find-your-way.md", "architecture.md"])
def test_paths_in_the_text_exist(page: str) -> None:
    """Each file or folder; on the architecture page a name within the package that its sentence is about is enough."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    below = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")} | {"docs/run.md"}
    for path in re.findall(r"`((?:[\w-]+/)*[\w-]+\.py)`", text):
        assert any(each == path or each.endswith(f"/{path}") for each in below), path
