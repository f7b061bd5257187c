"""docs/settings.md agrees with the table of settings, row by row."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from memwarden.settings import OPTIONS, RULE_KEYS, read

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def table(name: str) -> str:
    """The table that stands between two comments of the page."""
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match, f"docs/settings.md has no <!-- {name} -->"
    return match[1]


def shown(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return "true" if default else "false"
    return f"{default:g}" if isinstance(default, int | float) else str(default)


def options() -> str:
    """The table of options, as it has to stand."""
    rows = ["| Option | Variable | Key | May be | Default | |", "| --- | --- | --- | --- | --- | --- |"]
    for option in OPTIONS:
        flag = f"`[{option.flag}]`" if option.is_switch else f"`{option.flag} {option.unit}`"
        flag = flag if option.has_flag else ""
        key = f"`{option.name}`" if option.in_file else ""
        rows.append(
            f"| {flag} | `{option.variable}` | {key} | {option.kind.allowed} | {shown(option.default)} |"
            f" {option.sentence} |"
        )
    return "\n" + "\n".join(rows) + "\n\n"


def rules() -> str:
    """The table of a rule's keys, as it has to stand."""
    rows = ["| Key | May be | Default | |", "| --- | --- | --- | --- |"]
    rows += [f"| `{key.name}` | {key.kind.allowed} | {shown(key.default)} | {key.sentence} |" for key in RULE_KEYS]
    return "\n" + "\n".join(rows) + "\n\n"


@pytest.mark.parametrize(("name", "wanted"), [("options", options()), ("rules", rules())])
def test_the_page_agrees_with_the_table(name: str, wanted: str) -> None:
    """Each option with its range, default and sentence; on a difference the message is what to paste."""
    assert table(name) == wanted, f"paste this into docs/settings.md:\n{wanted}"


def test_the_files_shown_have_no_errors(tmp_path: Path) -> None:
    """An example copied from any page has no error."""
    shown = {
        page.name: re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for page in PAGE.parent.glob("*.md")
    }
    assert shown[PAGE.name]
    for name, blocks in shown.items():
        for block in blocks:
            tomllib.loads(block)
            path = tmp_path / "memwarden.toml"
            path.write_text(block, encoding="utf-8")
            assert read(str(path), {}).faults == (), name
