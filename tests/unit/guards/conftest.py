"""Temporary files of these tests stand in a folder of the test's own.

The package is imported when a test runs, so that tests which play another system import it there.
"""

import tempfile

import pytest


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary directory, for this test."""
    from memwarden.guards.resources import tempfiles

    folder = tmp_path / "system-tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    tempfiles._own.remove_all()


@pytest.fixture(autouse=True)
def nothing_is_held():
    """What a test left in a job of its thread goes, and the next one finds none."""
    from memwarden.guards.resources import resource_scope

    yield
    for each in list(resource_scope._busy):
        each.release()
