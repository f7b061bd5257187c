"""The disk is full for a while: reported once, reported when it is over, and sampling goes on."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from memwarden.engine.warden import Warden
from memwarden.errors import RecordError
from memwarden.model.events import EventKind
from memwarden.records.jsonl import JsonlRecorder, read_lines
from memwarden.testing import FakeClock, ScriptedReader
from support.engine import VAST, Keeper

FULL = RecordError(f"record /var/r.jsonl: {os.strerror(errno.ENOSPC)}; free some space", path="/var/r.jsonl")


@pytest.mark.contract("S0-14")
def test_a_full_disk_is_reported_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """The message is the recorder's own, with path and way out; other receivers miss nothing."""
    clock, full, other, reader = FakeClock(), Keeper(), Keeper(), ScriptedReader([0], VAST)
    warden = Warden([reader], clock=clock, recorders=[full, other])
    with caplog.at_level(logging.WARNING, "memwarden"), warden:
        assert warden.flush()
        full.broken = FULL
        clock.advance(100.0)
        assert warden.flush()
        assert warden.running
        full.broken = None
        clock.advance(5.0)
        assert warden.flush()
    reported = [str(FULL), "support.engine.Keeper works again"]
    assert other.messages(EventKind.TROUBLE) == reported
    assert caplog.messages == reported
    assert reader.reads == 106
    assert other.moments() == [1000.0 + n for n in range(106)]
    assert full.moments() == [1000.0, *(1101.0 + n for n in range(5))]
    assert full.kinds()[-1] is EventKind.STOP


def test_a_recorder_that_stays_full_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """From the first event to the last: one warning, and `stop()` ends all the same."""
    clock, full, reader = FakeClock(), Keeper(), ScriptedReader([0], VAST)
    full.broken = FULL
    with caplog.at_level(logging.WARNING, "memwarden"):
        with Warden([reader], clock=clock, recorders=[full]):
            clock.advance(50.0)
    assert caplog.messages == [str(FULL)]
    assert reader.reads == 51
    assert full.closed == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_file_on_a_full_disk_goes_on_where_there_is_space_again(tmp_path: Path) -> None:
    """The built-in recorder against the kernel's own refusal; what was lost is counted."""
    clock, other = FakeClock(), Keeper()
    recorder = JsonlRecorder("/dev/full", wall=clock.wall)
    warden = Warden([ScriptedReader([0], VAST)], clock=clock, recorders=[recorder, other])
    with warden:
        clock.advance(3.0)
        assert warden.flush()
        assert warden.flush()  # the trouble may be queued behind the first
        assert recorder.lost == 7  # START, four samples, LEVEL, and the trouble itself
        recorder.close()
        recorder.path = str(tmp_path / "record.jsonl")
        clock.advance(2.0)
        assert warden.flush()
    first, second = other.messages(EventKind.TROUBLE)
    assert first == "record /dev/full: No space left on device; free some space, or record to another path"
    assert second == "memwarden.records.jsonl.JsonlRecorder works again"
    kept = list(read_lines(tmp_path / "record.jsonl"))
    samples = [event.value.sample.monotonic for event in kept if event.kind is EventKind.SAMPLE]
    assert samples == [1004.0, 1005.0]
    assert kept[-1].kind is EventKind.STOP
