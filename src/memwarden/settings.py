"""What can be set: one table, from which flags, environment variables, help and documentation are made.

A flag wins over the environment, the environment over the default. Rooms receive plain values; nothing
else looks anything up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memwarden.errors import SettingsError
from memwarden.model.units import parse_duration, parse_size


def _size(text: str) -> str:
    if not text.strip().endswith("%"):  # a percentage waits for the limit that it refers to
        parse_size(text)
    return text


def _duration(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if not least <= seconds <= most:
            raise SettingsError(f"{text!r} is out of range: from {least:g} to {most:g} seconds")
        return seconds

    return parse


def _choice(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise SettingsError(f"{text!r} is not known; choose one of {', '.join(known)}")
        return text

    return parse


def _yes(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("", "0", "false", "no", "off"):
        return False
    raise SettingsError(f"{text!r} is neither yes nor no")


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    name: str
    unit: str
    default: Any
    parse: Callable[[str], Any]
    #: What it is for, in one sentence.
    sentence: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "MEMWARDEN_" + self.name.upper()

    @property
    def is_switch(self) -> bool:
        return self.parse is _yes


OPTIONS: tuple[Option, ...] = (
    Option("limit", "SIZE", None, _size, "Hold the whole process tree to this: 512MiB, 2G, 500MB, 80%."),
    Option("interval", "SECONDS", 0.5, _duration(0.01, 3600), "Record a sample this often; looking adapts by itself."),
    Option("record", "PATH", None, str, "Write the record to this file instead of the platform's state directory."),
    Option("live", "", False, _yes, "Show a status line at the bottom of the terminal while the command runs."),
    Option("grace", "SECONDS", 5.0, _duration(0.001, 3600), "How long a tree may take to end before it is killed."),
    Option(
        "ceiling",
        "KIND",
        "auto",
        _choice("auto", "cgroup2", "cgroup1", "polling"),
        "How to hold the limit: auto (the best that the machine grants), cgroup2, cgroup1 or polling.",
    ),
    Option("cgroup", "DIRECTORY", None, str, "A control group that was handed to you; the command's is made below it."),
    Option("quiet", "", False, _yes, "Print no report; it still stands in the record."),
    Option(
        "termination_log",
        "PATH",
        None,
        str,
        "Where to leave the verdict for a container's supervisor (as PID 1 by default /dev/termination-log).",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values in force. ``sources`` says where each came from: ``flag``, ``environment`` or ``default``."""

    limit: str | None
    interval: float
    record: str | None
    live: bool
    grace: float
    ceiling: str
    cgroup: str | None
    quiet: bool
    termination_log: str | None
    sources: Mapping[str, str]


def resolve(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from flags (None: not given) and environment. Raises :class:`SettingsError` naming the culprit."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        given = flags.get(option.name)
        if given is not None:
            values[option.name] = _parsed(option, option.flag, given)
            sources[option.name] = "flag"
        elif (text := environment.get(option.variable)) not in (None, ""):
            values[option.name] = _parsed(option, option.variable, text)
            sources[option.name] = "environment"
        else:
            values[option.name] = option.default
            sources[option.name] = "default"
    return Settings(**values, sources=sources)


def _parsed(option: Option, where: str, given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return option.parse(given)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
