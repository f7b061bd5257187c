"""The service: alerts by the table, start, stop and autostart."""

import threading

import pytest

from memwarden.errors import SettingsError
from memwarden.guards import service
from memwarden.guards.service import MemoryMonitoringService, autostart
from memwarden.model.facts import ProcessKey, ProcessMemory, SystemMemory
from memwarden.model.units import GIB, MIB
from memwarden.policy.rules import Rule
from memwarden.testing import FakeClock, ScriptedReader


def sample_of(rss_mib, available_mib=8192):
    """A process of that size on a machine that has so much left."""
    return {
        "process": ProcessMemory(ProcessKey(1, 1), "python", rss_mib * MIB),
        "system": SystemMemory(16 * GIB, available_mib * MIB, 0, 0, 0, 0),
    }


def alerts_of(script, seconds=30, limit=None):
    clock, reported = FakeClock(), []
    watching = MemoryMonitoringService(
        1,
        limit,
        on_alert=lambda each: reported.append((each.rule, each.undo)),
        readers=[ScriptedReader(script)],
        clock=clock,
    )
    with watching:
        for _ in range(seconds):
            clock.advance(1)
        assert watching.warden.flush()
        status = watching.status()
    return [rule for rule, undo in reported if not undo], status


@pytest.mark.contract("S3-18", "S3-48", "S3-49", "S3-50", "W3-7")
@pytest.mark.parametrize(
    ("second", "limit", "alerts"),
    [
        pytest.param(sample_of(819), "1GiB", [], id="at-80"),
        pytest.param(sample_of(820), "1GiB", ["usage warning"], id="above-80"),
        pytest.param(sample_of(922), "1GiB", ["usage warning", "usage critical", "growth warning"], id="above-90"),
        pytest.param(
            sample_of(830, 499), None, ["usage warning", "usage critical", "available warning"], id="below-500"
        ),
        pytest.param(
            sample_of(830, 199),
            None,
            ["usage warning", "usage critical", "available warning", "available critical"],
            id="below-200",
        ),
    ],
)
def test_usage_and_available_have_two_steps(second, limit, alerts):
    """Above 80 and 90 % of the nearest limit; below 500 and 200 MiB; each once, since it rests."""
    reported, _ = alerts_of([sample_of(780), second], limit=limit)
    assert sorted(reported) == sorted(alerts)


@pytest.mark.contract("S3-49")
@pytest.mark.parametrize(
    ("to", "alerts"),
    [
        (200, []),
        (201, ["growth warning"]),
        (600, ["growth warning"]),
        (601, ["growth warning", "growth critical"]),
    ],
)
def test_growth_has_two_steps(to, alerts):
    """By more than 100 and 500 MiB over the first sample."""
    reported, _ = alerts_of([sample_of(100), sample_of(to)])
    assert sorted(reported) == sorted(alerts)


def test_it_reports_what_it_saw():
    """Statistics since the start, the limit, and the newest reading."""
    _, status = alerts_of([sample_of(100), sample_of(400)], limit="1GiB")
    assert status["limit_bytes"] == GIB
    assert status["running"]
    assert status["statistics"]["readings"] >= 30


def test_the_end_of_pressure_is_reported():
    """The same rule, with ``undo``."""
    clock, reported = FakeClock(), []
    script = [sample_of(100), *[sample_of(900)] * 5, sample_of(100)]
    watching = MemoryMonitoringService(
        1,
        "1GiB",
        on_alert=lambda each: reported.append((each.rule, each.undo)),
        readers=[ScriptedReader(script)],
        clock=clock,
        rules=[Rule(name="usage", when="used > 80%", then="notify")],
    )
    with watching:
        for _ in range(60):
            clock.advance(1)
        assert watching.warden.flush()
    assert reported == [("usage", False), ("usage", True)]


@pytest.mark.contract("W3-8", "S3-21")
def test_stop_leaves_no_thread_and_it_starts_again():
    """Also on a clock that never moves: it sleeps on something that wakes it."""
    watching = MemoryMonitoringService(3600, readers=[ScriptedReader([sample_of(1)])], clock=FakeClock())
    for _ in range(2):
        assert watching.start() is watching.start()
        assert watching.running
        watching.stop()
        assert not [each for each in threading.enumerate() if each.name.startswith("memwarden")]
    watching.stop()


@pytest.fixture
def isolated(monkeypatch, tmp_path):
    """The process has no service yet, and no settings file is near."""
    monkeypatch.setattr(service, "_autostarted", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    yield
    for each in service._autostarted.values():
        each.stop()


@pytest.mark.parametrize("environment", [{}, {"MEMWARDEN_MONITOR": "no"}, {"MEMWARDEN_MONITOR": ""}])
def test_without_the_setting_nothing_starts(isolated, environment):
    """Calling it costs nothing."""
    assert autostart(environment=environment) is None
    assert service._autostarted == {}


@pytest.mark.parametrize(
    ("more", "interval", "limit"),
    [({}, 30, None), ({"MEMWARDEN_INTERVAL": "0.5"}, 0.5, None), ({"MEMWARDEN_LIMIT": "1GiB"}, 30, GIB)],
)
def test_with_the_setting_it_starts_once(isolated, more, interval, limit):
    """At its own pace where none was set, by the limit that was; a second call gives the same."""
    environment = {"MEMWARDEN_MONITOR": "true", **more}
    watching = autostart(environment=environment)
    assert watching.running
    assert (watching.interval, watching.limit) == (interval, limit)
    assert autostart(environment=environment) is watching


def test_a_share_is_no_limit_of_a_service(isolated):
    """There is no limit yet that it could be a share of; the message has the way out."""
    with pytest.raises(SettingsError, match="512MiB"):
        autostart(environment={"MEMWARDEN_MONITOR": "on", "MEMWARDEN_LIMIT": "50%"})
