"""The checks for other systems: what they name is there. Whether they pass there only a run there can show."""

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_it_covers_the_systems_that_are_promised() -> None:
    """Linux on each Python that the package names, macOS and Windows on the oldest and the newest."""
    jobs = yaml.safe_load(TEXT)["jobs"]
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert jobs["linux"]["strategy"]["matrix"]["python"] == named
    elsewhere = jobs["elsewhere"]["strategy"]["matrix"]
    assert elsewhere["system"] == ["macos-latest", "windows-latest"]
    assert elsewhere["python"] == [named[0], named[-1]]


def test_what_it_names_is_there_and_nothing_secret() -> None:
    """Paths of this checkout, actions held to a major version, reading rights, no secrets and no addresses."""
    made = yaml.safe_load(TEXT)
    assert made["permissions"] == {"contents": "read"}
    for path in re.findall(r"\b(?:tests|requirements|docs)/[\w./-]+", TEXT):
        assert (ROOT / path).exists(), path
    used = re.findall(r"uses: (\S+)", TEXT)
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", each) for each in used)
    assert "secrets" not in TEXT
    assert "://" not in TEXT
