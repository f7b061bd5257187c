"""Features of the kernel and of Python, and the loss without each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from memwarden.contain.capabilities import survey_kernel_features
from memwarden.contain.launcher import inheritable_descriptors
from memwarden.testing import ProcTree


def test_what_is_missing_is_named_with_its_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel and a small Python: each missing feature has a reason and a consequence."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    features = {feature.name: feature for feature in survey_kernel_features(ProcTree(tmp_path).proc)}
    assert len(features) == 5
    assert all(feature.missing and feature.otherwise for feature in features.values())
    assert str(tmp_path) in features["pressure stall information"].missing


def test_what_is_there_misses_nothing(tmp_path: Path) -> None:
    """On a tree that has the files, their rows are granted."""
    world, me = ProcTree(tmp_path), os.getpid()
    world.write("proc/pressure/memory", "some avg10=0.00\n")
    world.write(f"proc/self/task/{me}/children", "")
    world.write(f"proc/{me}/smaps_rollup", "ffff-ffff ---p 00000000 00:00 0 [rollup]\nRss: 10 kB\nPss:    10 kB\n")
    missing = {feature.name for feature in survey_kernel_features(world.proc) if feature.missing}
    assert not missing & {"pressure stall information", "children lists", "proportional sizes"}


def test_only_descriptors_meant_to_be_inherited_are_handed_on(tmp_path: Path) -> None:
    """Python's own are not; one that was made inheritable is."""
    with open(tmp_path / "file", "w") as file:
        assert file.fileno() not in inheritable_descriptors()
        os.set_inheritable(file.fileno(), True)
        assert file.fileno() in inheritable_descriptors()
