"""A batch's report: its values, its text and its plot."""

import json
import os
import re
import sys
from xml.etree import ElementTree

import pytest

from memwarden.admission.batch.figure import render_figure
from memwarden.admission.batch.report_plot import report_plot
from memwarden.admission.batch.report_text import columns, report_text
from memwarden.admission.batch.save_report import save_report
from memwarden.admission.executor.batch_report import BatchStats
from memwarden.admission.pool.task import WorkItem
from memwarden.errors import ExtraMissing, RecordError, SettingsError
from memwarden.model.footprints import TaskKey
from memwarden.model.units import MIB, seconds_text


def batch(seconds=10.0, name="big <one>\x1b"):
    """Three running tasks, of which one is paused and then killed."""
    kept = BatchStats()
    kept.submitted = 5
    kept.start(100.0)
    steps = 50
    for step in range(steps + 1):
        now = 100.0 + seconds * step / steps
        used = 150 * MIB if step == 25 else (2 * step) * MIB
        kept.record_point(now, 3, int(20 <= step < 25), 2, 90 * MIB, used, 128 * MIB)
    kept.kills, kept.pauses, kept.finished, kept.failed = 1, 1, 4, 1
    task = WorkItem(3, TaskKey("work"), None, print, name=name)
    kept.record_incident(100.0 + seconds / 2, task, 120 * MIB, 90 * MIB, "no task could continue", retried=True)
    return kept.report(128 * MIB, "polling", 4, 0)


def test_the_history_is_kept_in_few_points():
    """However long the batch takes, from the first point to the last."""
    kept = BatchStats()
    kept.start(0.0)
    for step in range(100_000):
        kept.record_point(step * 0.02, 1, 0, 0, 0, step, 1)
    report = kept.report(1, "polling", 1, 0)
    assert len(report.points) < 2100
    assert report.points[0].seconds == 0.0
    assert report.points[-1].used == 99_999
    assert report.makespan == pytest.approx(1999.98)


def test_a_short_peak_is_seen_in_every_width():
    """Each column has the maximum of its share of time; before the first point it is empty."""
    report = batch()
    for count in (7, 40, 300):
        drawn = columns(report.points, count)
        assert len(drawn) == count
        assert max(each.used for each in drawn) == 150 * MIB
    late = columns(report.points[10:], 100)
    assert late[0].used == 0


def test_text_has_figures_and_incidents():
    """No name reaches the terminal with its control characters."""
    text = report_text(batch())
    for words in (
        "4 of 5 done, 1 failed, in 10.0 s",
        "128.0 MiB, enforced by polling",
        "150.0 MiB used at most",
        "3.0 on average, 3 at most, of 4 workers",
        "1 paused",
        "1 requeued",
        "at 5.0 s    big <one>?: no task could continue; used 120.0 MiB of 90.0 MiB; requeued",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 90
    assert report_text(batch(), blocks=False).isascii()


def test_a_batch_of_nothing_can_be_shown():
    """No task ran, or all ended before the first sample."""
    nothing = BatchStats().report(MIB, "polling", 2, 0)
    assert "0 of 0 done" in report_text(nothing)
    ElementTree.fromstring(render_figure(report_plot(nothing), "svg"))
    json.dumps(nothing.as_dict())


@pytest.mark.parametrize("seconds", [0.001, 0.3, 10.0, 1000.0, 1e6])
def test_a_plot_names_its_axes_and_fetches_nothing(seconds):
    """Title, units, legend and budget are there as text; the file is XML without links."""
    text = render_figure(report_plot(batch(seconds)), "svg").decode()
    root = ElementTree.fromstring(text)
    words = {"".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert f"4 of 5 tasks in {seconds_text(seconds)}" in words
    assert {"Memory (MiB)", "Tasks", "reserved", "used", "budget (128.0 MiB)", "task stopped, requeued"} <= words
    assert any(each.startswith("Time (") for each in words)
    assert not re.search(r"<script|@import|url\((?!#)|<image", text)


def test_a_plot_shows_used_reserved_and_budget():
    """The peak is above the budget's line, as it was measured; the incident is marked."""
    memory, tasks = report_plot(batch()).axes
    budget = next(line for line in memory.lines if line.get_label().startswith("budget"))
    reserved, used = memory.collections
    assert max(used.get_paths()[0].vertices[:, 1]) == pytest.approx(150)
    assert max(reserved.get_paths()[0].vertices[:, 1]) == pytest.approx(90)
    assert set(budget.get_ydata()) == {128}
    assert any(line.get_marker() == "v" and list(line.get_xdata()) == [5.0] for line in memory.lines)
    assert memory.get_ylim()[1] > 150
    assert [each.get_label() for each in tasks.collections] == ["paused", "running"]


def test_the_same_report_gives_the_same_file():
    """No date and no random identifiers."""
    assert render_figure(report_plot(batch()), "svg") == render_figure(report_plot(batch()), "svg")


def test_a_plot_without_matplotlib_names_the_command(monkeypatch, tmp_path):
    """And no file is left."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ExtraMissing, match=re.escape("pip install 'memwarden[plot]'")):
        save_report(batch(), tmp_path / "report.svg")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["report.txt", "report.JSON", "report.svg", "report.png"])
def test_a_report_is_saved_whole(tmp_path, name):
    """By the ending of its name, over what was there before."""
    path = tmp_path / name
    path.write_text("before")
    save_report(batch(), path)
    assert path.read_bytes()[:4] in (b"batc", b'{"sc', b"<?xm", b"\x89PNG")
    assert os.listdir(tmp_path) == [name]


def test_a_report_that_cannot_be_saved_is_an_error(tmp_path):
    """And nothing half is left."""
    with pytest.raises(SettingsError, match=r"\.svg"):
        save_report(batch(), tmp_path / "report.gif")
    (tmp_path / "report.txt").mkdir()
    with pytest.raises(RecordError):
        save_report(batch(), tmp_path / "report.txt")
    assert os.listdir(tmp_path) == ["report.txt"]
