"""``memwarden footprints``: what it prints and draws."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from memwarden.admission.footprints.footprint import Footprints
from memwarden.admission.footprints.store import FootprintStore
from memwarden.admission.footprints.task_key import host_class
from memwarden.faces.cli import USAGE, main
from memwarden.model.footprints import TaskKey
from memwarden.model.units import GIB, MIB
from memwarden.testing import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store with two kinds of this host, of which one has a size, and one of another host."""
    clock = FakeClock(wall=1_700_000_000.0)
    for host in (host_class(), "elsewhere"):
        store = FootprintStore(tmp_path / "f.db", host=host, wall=clock.wall, monotonic=clock.monotonic)
        footprints = Footprints(budget=GIB, slots=8, store=store)
        for size in range(10, 50):
            footprints.observe(TaskKey("batch.resize", "0123456789ab"), size, (20 + 2 * size) * MIB, 1.0)
            footprints.observe("<ask> & \x07", None, 100 * MIB, 1.0)
        footprints.observe(TaskKey("batch.resize", "0123456789ab"), 60, 400 * MIB, 1.0, "killed_at")
        footprints.observe("killed", None, 400 * MIB, 1.0, "killed_at")
        footprints.close()
    return str(tmp_path / "f.db")


def test_the_table_names_every_kind(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what it needs, how sure that is, and what was killed."""
    assert main(["footprints", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    (resize,) = [line for line in lines if line.startswith("batch.resize") and host_class() in line]
    for word in ("40", "79.0 MiB", "good", "linear in size", "0123456789ab"):
        assert word in resize
    assert any(line.startswith("killed ") and "none has finished" in line for line in lines)


def test_json_has_everything(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each task that is kept, and the curve."""
    assert main(["footprints", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["file"]) == (1, path)
    (resize,) = [each for each in told["kinds"] if each["kind"] == "batch.resize" and each["host"] == "elsewhere"]
    assert len(resize["points"]) == 40
    assert resize["killed"] == [{"size": 60.0, "at_least_bytes": 400 * MIB}]
    assert resize["curve"]["shape"] == "linear in size"
    assert resize["seen"].startswith("2023-11-1")


def test_the_drawing_is_sound(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One mark a task, one triangle a kill, two lines; any name does no harm to it."""
    assert main(["footprints", path, "--plot", "resize"]) == 0
    picture = ET.fromstring(capsys.readouterr().out)
    space = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f"{space}circle")) == 41  # and one in the legend
    texts = [each.text for each in picture.findall(f"{space}text")]
    assert "batch.resize: peak against input size" in texts
    assert {"0", "50 MiB", "100 MiB"} <= set(texts) or {"0", "100 MiB", "200 MiB"} <= set(texts)
    out = tmp_path / "a.svg"
    assert main(["footprints", path, "--plot", "<ask> & \x07", "--output", str(out)]) == 0
    title = ET.fromstring(out.read_text()).find(f"{space}title")
    assert title is not None
    assert title.text == "<ask> & \N{REPLACEMENT CHARACTER}: peak against the order of tasks"


def test_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """That is fine; a file that was named and is not there is not."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert main(["footprints"]) == 0
    assert "nothing was learned yet" in capsys.readouterr().out
    assert main(["footprints", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == []
    assert main(["footprints", str(tmp_path / "none.db")]) == USAGE
    assert "none.db" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"),
    [("nothing", "no kind of that name"), ("k", "several kinds"), ("killed", "none of them has finished")],
)
def test_a_kind_that_cannot_be_drawn(name: str, says: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said which there are."""
    if name == "k":
        footprints = Footprints(budget=GIB, slots=8, store=FootprintStore(path))
        footprints.observe("ask", None, MIB, 1.0)
        footprints.observe("task", None, MIB, 1.0)
        footprints.close()
    assert main(["footprints", path, "--plot", name]) == USAGE
    assert says in capsys.readouterr().err


def test_an_output_that_cannot_be_written(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names it."""
    assert main(["footprints", path, "--plot", "resize", "--output", str(tmp_path / "no" / "a.svg")]) == USAGE
    assert "a.svg" in capsys.readouterr().err
