"""What goes into a history comes out of it, and rows show of samples what samples reported."""

from __future__ import annotations

import itertools
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwarden.model.events import Event, EventKind
from memwarden.model.limits import Constraint, Limit
from memwarden.model.sample import Sample
from memwarden.model.serialize import iso
from memwarden.model.verdicts import Assessment, PressureLevel, Reading
from memwarden.records.sqlite import SqliteRecorder
from memwarden.records.sqlite_reader import read_history, read_rollups
from support.values import BARE, FULL, PROCESS, READING

#: Whole microseconds, as a written time shows them.
walls = st.integers(0, 4_102_444_800).map(lambda wall: datetime.fromisoformat(iso(wall + 0.25)).timestamp())
texts = st.text(st.characters(exclude_categories=()), max_size=20)
values = (
    st.none()
    | st.sampled_from(FULL + BARE)
    | st.builds(
        lambda rss, name: READING._replace(
            sample=READING.sample._replace(process=PROCESS._replace(rss=rss, name=name))
        ),
        st.integers(),
        texts,
    )
)
events = st.builds(
    Event,
    kind=st.sampled_from(EventKind),
    wall=walls,
    monotonic=st.floats(allow_nan=False, allow_infinity=False),
    message=texts,
    value=values,
    details=st.dictionaries(texts, st.none() | st.integers() | texts, max_size=3),
)
numbers = itertools.count()


@given(st.lists(events, max_size=12), st.sets(st.sampled_from(EventKind)))
def test_what_is_recorded_comes_back_equal(tmp_path: Path, recorded: list[Event], kinds: set[EventKind]) -> None:
    """Any events, in their order, whatever waited for what; and any choice of their kinds."""
    path = tmp_path / f"{next(numbers)}.db"
    recorder = SqliteRecorder(path, wall=lambda: 0.0)  # nothing is old
    for event in recorded:
        recorder.record(event)
    recorder.close()
    if recorded:
        assert list(read_history(path)) == recorded
        assert list(read_history(path, kinds=kinds)) == [event for event in recorded if event.kind in kinds]
    else:
        assert not path.exists()


uses = st.lists(st.tuples(st.integers(0, 4 * 3600), st.none() | st.integers(0, 1000)), min_size=1, max_size=60)


@given(uses)
def test_rows_are_what_their_samples_were(tmp_path: Path, seen: list[tuple[int, int | None]]) -> None:
    """Samples in any order, rolled up bit by bit: no sample is lost, and least, mean and most are theirs."""
    path, clock = tmp_path / f"{next(numbers)}.db", [3600.0 * 1000]
    recorder = SqliteRecorder(path, detail="1h", minutes="2h", wall=lambda: clock[0], monotonic=lambda: clock[0] - 1.0)
    began = clock[0]
    for second, used in seen:
        recorder.record(Event(kind=EventKind.SAMPLE, wall=began + second, monotonic=0.0, value=reading(used)))
        clock[0] += 600.0
    clock[0] += 12 * 3600.0
    recorder.record(Event(kind=EventKind.STOP, wall=clock[0], monotonic=0.0))
    recorder.close()
    assert list(read_history(path, kinds=[EventKind.SAMPLE])) == []
    reported: dict[Any, list[int | None]] = {}
    for second, used in seen:
        reported.setdefault((began + second) // 3600 * 3600, []).append(used)
    rows = {row.time: row for row in read_rollups(path)}
    assert rows.keys() == reported.keys()
    for start, row in rows.items():
        known = [used for used in reported[start] if used is not None]
        assert (row.span, row.samples) == (3600, len(reported[start]))
        if row.used is None:
            assert known == []
        else:
            assert row.used == (min(known), pytest.approx(math.fsum(known) / len(known)), max(known))


def reading(used: int | None) -> Reading:
    """So much of 1000 bytes is used."""
    binding = None if used is None else Constraint(Limit(1000, "machine"), used)
    return Reading(Sample(0.0, 0.0), Assessment(PressureLevel.LOW, PressureLevel.LOW, binding, None, None, 0.0))
