"""``memwarden ledger``."""

import json
import os

import pytest

from memwarden.admission.ledger.ledger import Ledger
from memwarden.admission.ledger.paths import ledger_path
from memwarden.faces.cli import main

pytest.importorskip("fcntl", reason="a ledger needs file locks")


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_a_missing_ledger_is_reported(capsys):
    """And makes none."""
    assert main(["ledger"]) == 0
    assert "No ledger is in use here" in capsys.readouterr().out
    assert main(["ledger", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "type": "ledgers", "ledgers": []}


def test_holders_are_shown(capsys):
    """Each with its process, what it reserved and uses, for how long, and what for."""
    with Ledger("64MiB", name="batch").reserve("16MiB", label="task 7"):
        assert main(["ledger"]) == 0
        text = capsys.readouterr().out
        assert main(["ledger", "batch", "--json"]) == 0
        (state,) = json.loads(capsys.readouterr().out)["ledgers"]
    assert "Ledger batch" in text
    assert "64.0 MiB" in text
    (row,) = [line.split() for line in text.splitlines() if "task 7" in line]
    assert row[:3] == [str(os.getpid()), "16.0", "MiB"]
    assert state["holders"][0]["label"] == "task 7"
    assert state["budget_bytes"] == 64 << 20


def test_an_empty_one_is_shown_as_empty(capsys):
    """No reservation is active, and what is left is bounded by the machine."""
    Ledger(name="batch").reserve(1).release()
    assert main(["ledger", "batch"]) == 0
    assert "no active reservations" in capsys.readouterr().out


def test_a_ledger_that_is_not_there_is_an_error(capsys, tmp_path):
    """With those that are, by name and by path; nothing is made."""
    Ledger(name="batch").reserve(1).release()
    assert main(["ledger", "other"]) == 2
    assert "in use: batch" in capsys.readouterr().err
    assert main(["ledger", "--path", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


def test_a_ledger_can_be_named_by_its_file(capsys):
    """As programs do that share a folder between containers."""
    path = ledger_path("default") + "-elsewhere"
    with Ledger("64MiB", path=path).reserve("16MiB", label="shared"):
        assert main(["ledger", "--path", path]) == 0
    assert "shared" in capsys.readouterr().out
