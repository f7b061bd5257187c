"""Presets: an interval and rules for a usual kind of service.

A preset names actions only; which of them can do something depends on what the program registered
(caches, non-essential processes, a gate).
"""

from __future__ import annotations

from dataclasses import dataclass

from memwarden.errors import SettingsError
from memwarden.policy.rules import Rule

#: Gentle first. Each step waits for the outcome of the last one, and for a sample that is still critical.
EMERGENCY = ("stop-admitting", "collect", "trim", "caches", "pause", "terminate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """An interval in seconds, and rules."""

    name: str
    interval: float
    rules: tuple[Rule, ...]
    sentence: str


def _notify(name: str, when: str, *, sustain: float = 0.0, rest: float = 60.0, severity: str = "warning") -> Rule:
    return Rule(name=name, when=when, then="notify", sustain=sustain, rest=rest, severity=severity)


def emergency() -> Rule:
    """Return the rule of the emergency order, above 90 % of the nearest limit."""
    # By the figure, not by the level, which is left half a minute late: a step would come after recovery.
    return Rule(
        name="emergency",
        when="used > 90%",
        sustain=2,
        settle=30,
        then="notify",
        escalate=EMERGENCY,
        severity="critical",
    )


def _percent(name: str, interval: float, percent: float, sentence: str) -> Preset:
    return Preset(name=name, interval=interval, rules=(_notify("usage", f"used > {percent:g}%"),), sentence=sentence)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="desktop",
            interval=5.0,
            rules=(
                _notify("pressure", "level >= HIGH", sustain=30, rest=600),
                _notify("critical", "level >= CRITICAL", rest=300, severity="critical"),
                _notify("stalls", "psi.full > 10%", sustain=10, rest=300),
            ),
            sentence="A personal computer: notify, and rarely.",
        ),
        Preset(
            name="container",
            interval=1.0,
            rules=(
                Rule(name="pressure", when="level >= HIGH", sustain=10, then=("collect", "notify")),
                emergency(),
                _notify("stalls", "psi.full > 10%", sustain=10),
            ),
            sentence="A service in a container: collect when memory is short, the emergency order above 90 %.",
        ),
        Preset(
            name="worker",
            interval=1.0,
            rules=(
                _notify("usage warning", "used > 80%"),
                _notify("usage critical", "used > 90%", severity="critical"),
                _notify("growth warning", "growth > 100MiB", rest=600),
                _notify("growth critical", "growth > 500MiB", rest=600, severity="critical"),
                _notify("leak", "leak >= CONFIRMED", rest=3600),
                _notify("available warning", "available < 500MiB"),
                _notify("available critical", "available < 200MiB", severity="critical"),
            ),
            sentence="A long-lived worker: usage, growth since its start, available memory, each with a warning and a "
            "critical threshold; and a confirmed leak.",
        ),
        Preset(
            name="video",
            interval=2.0,
            rules=(
                Rule(name="moderate", when="level >= MODERATE", then="collect", severity="info"),
                Rule(name="high", when="level >= HIGH", then=("collect", "caches", "trim", "notify")),
                emergency(),
            ),
            sentence="Encoders beside Python: collect at MODERATE, clean up at HIGH, the emergency order at CRITICAL.",
        ),
        Preset(
            name="gpu",
            interval=300.0,
            # The machine and the container by themselves: "used" would be the GPU's share where that is higher.
            rules=(
                _notify("gpu", "gpu.used > 88%", rest=1800),
                _notify("leak", "leak >= CONFIRMED", rest=3600),
                _notify("machine", "machine.used > 80%", rest=1800),
                _notify("container", "container.used > 80%", rest=1800),
            ),
            sentence="A model server on a 24 GB GPU. Loaded models use 18 to 20 GB, and 80 % (19.2 GB) is within that, "
            "so the GPU alerts above 88 % (21.1 GB), machine and container above 80 %; and a confirmed leak.",
        ),
        _percent("aggressive", 60, 75, "A sample a minute, an alert above 75 %."),
        _percent("relaxed", 900, 85, "A sample every 15 minutes, an alert above 85 %."),
        _percent("high-threshold", 300, 95, "A sample every 5 minutes, an alert above 95 % only."),
        _percent("server", 600, 85, "A large server with models: a sample every 10 minutes, an alert above 85 %."),
    )
}


def preset(name: str) -> Preset:
    """Return the preset of this name. Raises :class:`SettingsError`."""
    found = PRESETS.get(name)
    if found is None:
        raise SettingsError(f"preset {name!r}: not known; choose one of {', '.join(PRESETS)}")
    return found


def interval_for(duration: float) -> float:
    """Return the sampling interval for a run of ``duration`` seconds: 60 below an hour, 300 up to a day, else 600."""
    if duration < 3600:
        return 60.0
    return 300.0 if duration <= 86400 else 600.0
