"""Trimming where there is nothing to trim."""

from __future__ import annotations

import os

import pytest

from memwarden.actions.trim import Trim
from memwarden.model.decisions import Decision

DECISION = Decision(rule="r", action="trim", reason="HIGH", wall=0.0, monotonic=0.0)


def without(*_: object) -> str:
    """``os.confstr`` where the name is not known: musl, macOS."""
    raise ValueError("unrecognized configuration name")


def test_another_c_library_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome has the reason, and nothing is done."""
    monkeypatch.setattr(os, "confstr", without)
    outcome = Trim().run(DECISION)
    assert (outcome.done, outcome.message) == (False, "nothing to trim: this system's C library is not glibc")


def test_windows_has_no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the question."""
    monkeypatch.delattr(os, "confstr", raising=False)
    assert "not glibc" in Trim().run(DECISION).message


def test_it_is_harmless() -> None:
    """It runs in a dry run, too."""
    assert (Trim.name, Trim.harms) == ("trim", False)
