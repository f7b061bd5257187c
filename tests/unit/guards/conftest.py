"""Temporary files of these tests stand in a folder of the test's own."""

import tempfile

import pytest

from memwarden.guards import jobs, tempfiles


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary directory, for this test."""
    folder = tmp_path / "system-tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    tempfiles._own.remove_all()


@pytest.fixture(autouse=True)
def nothing_is_held():
    """What a test left in a job of its thread goes, and the next one finds none."""
    yield
    for each in list(jobs._busy):
        each.let_go()
