"""``memwarden footprints``: what it prints and draws."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.footprints.store import FootprintStore, stored
from memwarden.admission.footprints.task_key import host_class
from memwarden.faces.cli import USAGE, main
from memwarden.faces.cli.commands.footprints import _described
from memwarden.faces.cli.reports.footprint_plot import footprint_plot
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
    output = json.loads(capsys.readouterr().out)
    assert (output["schema"], output["file"]) == (1, path)
    (resize,) = [each for each in output["kinds"] if each["kind"] == "batch.resize" and each["host"] == "elsewhere"]
    assert len(resize["points"]) == 40
    assert resize["killed"] == [{"size": 60.0, "at_least_bytes": 400 * MIB}]
    assert resize["curve"]["shape"] == "linear in size"
    assert resize["seen"].startswith("2023-11-1")


def test_a_plot_shows_tasks_kills_and_estimate(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One mark per task, one triangle per kill, two lines; no name breaks the file."""
    assert main(["footprints", path, "--plot", "resize"]) == 0
    assert {
        "Peak memory of batch.resize",
        "Input size",
        "Memory (MiB)",
        "finished (40)",
        "killed at (1; need more)",
        "median",
        "reserved",
    } <= _texts(capsys.readouterr().out)
    out = tmp_path / "a.svg"
    assert main(["footprints", path, "--plot", "<ask> & \x07", "--output", str(out)]) == 0
    assert {"Peak memory of <ask> & ?", "Tasks in order"} <= _texts(out.read_text())
    assert main(["footprints", path, "--plot", "resize", "--output", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def _texts(svg: str) -> set[str]:
    root = ET.fromstring(svg)
    return {"".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")}


def test_the_points_of_a_plot_are_the_tasks(path: str) -> None:
    """Sizes across, bytes in the unit of the axis."""
    (kind,) = [each for each in stored(path) if each.kind.name == "batch.resize" and each.host == host_class()]
    (axes,) = footprint_plot(_described(kind)).axes
    finished, killed, median, reserved = axes.lines
    assert list(finished.get_xdata()) == list(range(10, 50))
    assert list(finished.get_ydata()) == [20 + 2 * size for size in range(10, 50)]
    assert (list(killed.get_xdata()), list(killed.get_ydata())) == ([60], [400])
    assert all(high >= low for high, low in zip(reserved.get_ydata(), median.get_ydata(), strict=True))
    assert axes.get_ylim()[1] > 400


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
    [("nothing", "no kind of that name"), ("k", "several kinds"), ("killed", "no task of this kind has finished")],
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
