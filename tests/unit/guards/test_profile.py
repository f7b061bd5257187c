"""``@memory_profile``: its log lines, its totals, and the choice of a line profiler."""

import asyncio
import functools
import logging

import pytest

from memwarden.errors import SettingsError
from memwarden.guards.measure import call_stats, profile
from memwarden.guards.measure.measurement import Measurement
from memwarden.guards.measure.profile import (
    clear_profile,
    memory_profile,
    profile_report,
    profile_text,
    profiling,
    switch_profiling,
)
from support.kernel import MIB, Kernel


@pytest.fixture
def kernel(monkeypatch, caplog):
    """Memory is the test's, and so are the statistics; the log is captured."""
    kernel = Kernel()
    monkeypatch.setattr(profile, "Measurement", functools.partial(Measurement, scopes=kernel.scopes()))
    monkeypatch.setattr(call_stats, "_all_stats", {})
    caplog.set_level(logging.INFO, "memwarden")
    return kernel


@pytest.mark.contract("S3-16", "W3-11")
def test_a_bare_decorator_logs_each_call(kernel, caplog, capsys):
    """The peak inside is in the log, as text and as data; nothing is printed."""

    @memory_profile
    def load():
        kernel.spike(300 * MIB)
        kernel.hold(105 * MIB)
        return "rows"

    assert load() == "rows"
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "load: peak 200.0 MiB above its start, growth 5.0 MiB" in record.getMessage()
    assert record.memwarden_kind == "call"
    assert (record.memwarden["rise"], record.memwarden["growth"]) == (200 * MIB, 5 * MIB)
    assert capsys.readouterr() == ("", "")


def test_growth_is_a_warning_once_a_minute(kernel, caplog, monkeypatch):
    """Above the threshold; in between it is logged all the same, as information."""
    now = [0.0]
    monkeypatch.setattr(profile, "monotonic", lambda: now[0])

    @memory_profile(warn_growth="10MiB", name="grower")
    def grow(size):
        kernel.hold(kernel.resident + size * MIB)

    for size, seconds in ((10, 0), (11, 1), (11, 59), (11, 61)):
        now[0] = seconds
        grow(size)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "INFO", "WARNING"]


def test_calls_that_were_concurrent_failed_or_sampled_are_marked(caplog):
    """In the line, so that the figures are not taken for more than they are."""
    kernel = Kernel(grants=False)
    log = profile._CallLogger(None)
    caplog.set_level(logging.INFO, "memwarden")
    load = Measurement("load", on_end=log, scopes=kernel.scopes())
    load.__enter__()
    load._shared.add("other")
    load.__exit__(ValueError, ValueError("wrong"), None)
    assert caplog.records[0].getMessage().endswith("raised ValueError, concurrent with other, peak sampled")


@pytest.mark.contract("V-22", "S3-16")
def test_the_report_shows_where_memory_goes(kernel):
    """Measured figures, the name first of which most stayed: calls, peak, growth, slope."""

    @memory_profile(name="leaks")
    def leaks():
        kernel.hold(kernel.resident + MIB)

    @memory_profile(name="peaks")
    def peaks():
        kernel.spike(kernel.resident + 50 * MIB)
        raise LookupError

    for _ in range(20):
        leaks()
    with pytest.raises(LookupError):
        peaks()
    first, second = profile_report()
    assert (first.name, first.calls, first.growth, first.slope) == ("leaks", 20, 20 * MIB, MIB)
    assert (second.name, second.rise, second.failed) == ("peaks", 50 * MIB, 1)
    header, leaking, peaking = profile_text().splitlines()
    assert header.split() == ["calls", "peak", "rise", "growth", "a", "call", "seconds", "name"]
    assert leaking.split()[:9] == ["20", "120.0", "MiB", "1.0", "MiB", "20.0", "MiB", "1.0", "MiB"]
    assert peaking.endswith("peaks (1 failed)")
    clear_profile()
    assert profile_report() == ()
    assert profile_text().split() == header.split()


def test_it_can_be_turned_off(kernel, caplog):
    """For the whole process, also for what is decorated already: nothing is read."""

    @memory_profile
    def load():
        return 1

    @memory_profile(lines="tracemalloc")
    def lined():
        return 2

    switch_profiling(False)
    try:
        assert (load(), lined(), profiling()) == (1, 2, False)
    finally:
        switch_profiling(True)
    assert (kernel.reads, caplog.records) == (0, [])
    assert load() == 1
    assert kernel.reads == 2


@pytest.mark.contract("V-22")
def test_lines_are_asked_of_tracemalloc(kernel, caplog):
    """The line that keeps most stands first; tracing ends with the call, and was not on in its figures' way."""
    import tracemalloc

    kept = []

    @memory_profile(lines="tracemalloc", most_lines=3)
    def load():
        kept.append(bytes(2 * MIB))
        assert tracemalloc.is_tracing()

    load()
    assert not tracemalloc.is_tracing()
    lines = next(record.memwarden for record in caplog.records if record.memwarden_kind == "lines")
    assert len(lines) <= 3
    assert lines[0]["file"] == __file__
    assert 2 * MIB <= lines[0]["size"] < 3 * MIB


def test_lines_of_coroutines_and_of_calls_within_calls(kernel, caplog):
    """The outermost call that started tracing stops it, and never tracing that the program started."""
    import tracemalloc

    @memory_profile(lines="tracemalloc", name="inner")
    async def inner():
        return bytearray(MIB)

    @memory_profile(lines="tracemalloc", name="outer")
    async def outer():
        kept = await inner()
        assert tracemalloc.is_tracing()
        return kept

    asyncio.run(outer())
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        asyncio.run(outer())
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    reported = [record.getMessage().partition(":")[0] for record in caplog.records if record.memwarden_kind == "lines"]
    assert reported == ["inner", "outer"] * 2


def test_lines_that_cannot_be_had_are_refused_at_once():
    """At decoration, not at the first call in production."""
    with pytest.raises(SettingsError, match="tracemalloc"):
        memory_profile(lines="cProfile")
    with pytest.raises(SettingsError, match="generator"):

        @memory_profile(lines="tracemalloc")
        def rows():
            yield 1

    with pytest.raises(SettingsError, match="lots"):
        memory_profile(warn_growth="lots")
