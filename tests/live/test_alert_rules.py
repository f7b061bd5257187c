"""Rules on real directories: alerts when they fill, and nothing in them is touched."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memwarden.engine.warden import Warden
from memwarden.model.events import EventKind
from memwarden.policy.rules import Rule
from memwarden.readers.tempdir import TempdirReader
from support.engine import Keeper, no_thread_is_left

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="directories are counted on POSIX systems")

RULES = tuple(
    Rule(name=name, when=when, then="notify", rest=600, band=band)
    for name, when, band in (
        ("size", "directory.used > 4MiB", "1MiB"),
        ("count", "directory.files > 20", "5"),
        ("age", "directory.oldest > 1d", "1h"),
        ("disk", "directory.free < 100%", None),  # any disk that holds something
        ("no disk", "directory.free < 1KiB", None),
    )
)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """Events of a warden with these rules, for a folder that it counts ten times a second."""
    (tmp_path / "watched").mkdir()
    kept = Keeper()
    reader = TempdirReader(tmp_path / "watched", every=0.1, budget=1.0)
    with Warden([reader], interval=0.05, rules=RULES, recorders=[kept]):
        yield kept
    assert no_thread_is_left()


def fired(keeper: Keeper) -> list[str]:
    """The rules that fired, in order."""
    return [event.value.rule for event in keeper.of(EventKind.DECISION) if not event.value.undo]


def cleared(keeper: Keeper) -> list[str]:
    """The rules that are over."""
    return [event.value.rule for event in keeper.of(EventKind.CLEARED)]


@pytest.mark.contract("V-7")
def test_size_count_age_and_free_disk_are_alerted_by_rules(tmp_path: Path, keeper: Keeper) -> None:
    """Each by its own rule when its figure passes, once, and over when it is back; no file is deleted or changed."""
    watched = tmp_path / "watched"
    assert keeper.wait_for(lambda: fired(keeper) == ["disk"])
    (watched / "large").write_bytes(b"x" * (6 << 20))
    assert keeper.wait_for(lambda: fired(keeper) == ["disk", "size"])
    for number in range(30):
        (watched / f"small{number}").touch()
    assert keeper.wait_for(lambda: fired(keeper) == ["disk", "size", "count"])
    two_days_ago = time.time() - 2 * 86400
    os.utime(watched / "small0", (two_days_ago, two_days_ago))
    assert keeper.wait_for(lambda: fired(keeper) == ["disk", "size", "count", "age"])
    assert cleared(keeper) == []
    reasons = {event.value.rule: event.value.reason for event in keeper.of(EventKind.DECISION)}
    assert reasons["size"].startswith("directory.used 6.0")
    assert reasons["count"].startswith("directory.files ")
    assert reasons["age"].startswith("directory.oldest 1728")
    # Nothing was cleaned up.
    assert len(list(watched.iterdir())) == 31
    assert (watched / "large").stat().st_size == 6 << 20
    (watched / "large").unlink()
    (watched / "small0").unlink()
    assert keeper.wait_for(lambda: sorted(cleared(keeper)) == ["age", "size"])
    for number in range(1, 30):
        (watched / f"small{number}").unlink()
    assert keeper.wait_for(lambda: sorted(cleared(keeper)) == ["age", "count", "size"])
    assert fired(keeper) == ["disk", "size", "count", "age"]
