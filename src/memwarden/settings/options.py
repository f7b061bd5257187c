"""The options: one table for flags, variables, file keys, schema, help and documentation."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from memwarden.errors import SettingsError
from memwarden.model.units import parse_duration, parse_size

#: Names of the types in TOML.
_TYPE_NAMES = {str: "text", int: "a whole number", float: "a float", bool: "a boolean", list: "an array"}
_DAY = 86400.0
#: ASCII blanks in a pattern of JSON Schema, where ``\s`` includes others.
_BLANKS = r"[ \t\n\r\f\v]*"


class Kind:
    """Type of an option: its values as text (:meth:`parse`) and in a file or program (:meth:`take`).

    Kinds without fields are no dataclasses: each of these adds a millisecond to the start of the command.
    """

    __slots__ = ()

    #: Types that a file may use.
    types: ClassVar[tuple[type, ...]] = (str,)
    #: True if a ``#`` after a blank starts a comment in an environment variable.
    comments: ClassVar[bool] = True
    is_path: ClassVar[bool] = False

    @property
    def allowed(self) -> str:
        """Allowed values, in a few words."""
        return "text"

    def parse(self, text: Any) -> Any:
        """Return the value of a text; raises :class:`SettingsError`."""
        if not text.strip():
            raise SettingsError(f"is empty; write {self.allowed}")
        return text

    def take(self, value: Any) -> Any:
        """Return the value of a typed object; raises :class:`SettingsError`."""
        if type(value) not in self.types:  # not isinstance: True is an int in Python, but not in TOML
            kind = "a table" if isinstance(value, Mapping) else _TYPE_NAMES.get(type(value), type(value).__name__)
            raise SettingsError(f"must be {self.allowed}, not {kind}")
        return self.parse(value)

    def schema(self) -> dict[str, Any]:
        """Return the allowed values as JSON Schema."""
        return {"type": "string", "pattern": r"\S"}


class Text(Kind):
    """Any text."""

    comments: ClassVar[bool] = False


class Path(Kind):
    """A file or a directory. In a settings file a relative path is relative to that file."""

    comments: ClassVar[bool] = False
    is_path: ClassVar[bool] = True

    allowed = "a path"

    def take(self, value: Any) -> Any:
        return Kind.take(self, os.fspath(value) if isinstance(value, os.PathLike) else value)


class Size(Kind):
    """A size, kept as text, because a percentage refers to a limit that is known later."""

    types: ClassVar[tuple[type, ...]] = (str, int)
    allowed = "512MiB, 2G, 500MB, 80% or a number of bytes"

    def parse(self, text: Any) -> str:
        parse_size(text, of=1 << 62)
        return str(text)

    def schema(self) -> dict[str, Any]:
        pattern = rf"^{_BLANKS}[0-9]+(\.[0-9]+)?{_BLANKS}(([KkMmGgTt][Ii]?)?[Bb]?|%){_BLANKS}$"
        return {"type": ["string", "integer"], "pattern": pattern, "minimum": 1, "maximum": (1 << 63) - 1}


def _shown(seconds: float) -> str:
    if seconds in (0, float("inf")):
        return f"{seconds:g}"
    return f"{seconds:g} s" if seconds < _DAY else f"{seconds / _DAY:g} days"


@dataclass(frozen=True, slots=True)
class Duration(Kind):
    """Seconds, from ``least`` to ``most``."""

    least: float
    most: float
    types: ClassVar[tuple[type, ...]] = (str, int, float)

    @property
    def allowed(self) -> str:
        return f"500ms, 2s, 5min, 1h or seconds, from {_shown(self.least)} to {_shown(self.most)}"

    def parse(self, text: Any) -> float:
        if self.least == 0 and text in (0, "0", "0s"):
            return 0.0
        if text == self.most:  # infinity has no text form
            return float(text)
        seconds = parse_duration(text)
        if not self.least <= seconds <= self.most:
            raise SettingsError(f"{text!r} is out of range: write {self.allowed}")
        return seconds

    def schema(self) -> dict[str, Any]:
        pattern = rf"^{_BLANKS}[0-9]+(\.[0-9]+)?{_BLANKS}([Mm]?[Ss]|[Mm][Ii][Nn]|[MmHhDd])?{_BLANKS}$"
        most = {} if self.most == float("inf") else {"maximum": self.most}
        return {"type": ["string", "number"], "pattern": pattern, "minimum": self.least, **most}


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of a few words."""

    known: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.known)}"

    def parse(self, text: Any) -> str:
        if text not in self.known:
            raise SettingsError(f"{text!r} is not known; choose one of {', '.join(self.known)}")
        return str(text)

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.known)}


class Switch(Kind):
    """Yes or no: true or false in a file and a program, also 1, yes, on and 0, no, off in a variable."""

    types: ClassVar[tuple[type, ...]] = (bool,)
    allowed = "true or false"

    def parse(self, text: Any) -> bool:
        lowered = str(text).strip().lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off"):
            return False
        raise SettingsError(f"{text!r} is neither yes nor no")

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Names(Kind):
    """A name, or an array of names."""

    types: ClassVar[tuple[type, ...]] = (str, list)
    allowed = "a name or an array of names"

    def parse(self, text: Any) -> Any:
        for name in [text] if isinstance(text, str) else text:
            if not isinstance(name, str) or not name.strip():
                raise SettingsError(f"must be {self.allowed}")
        return text

    def schema(self) -> dict[str, Any]:
        name = {"type": "string", "pattern": r"\S"}
        return {"anyOf": [name, {"type": "array", "items": name}]}


class Addresses(Names):
    """Addresses, separated by blanks in a variable. They may contain passwords: errors never quote them."""

    types: ClassVar[tuple[type, ...]] = (str, list, tuple)
    allowed = "an address or an array of addresses"

    def parse(self, text: Any) -> tuple[str, ...]:
        return tuple(super().parse((text.split() or text) if isinstance(text, str) else text))


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    name: str
    unit: str
    default: Any
    kind: Kind
    #: Help text, one sentence.
    sentence: str
    #: True if a settings file may contain it.
    in_file: bool = True
    #: True if its value is never shown.
    secret: bool = False
    #: True if commands have a flag for it; flags are visible to all users in process listings.
    has_flag: bool = True

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "MEMWARDEN_" + self.name.upper()

    @property
    def is_switch(self) -> bool:
        return isinstance(self.kind, Switch)

    def from_variable(self, text: str) -> str:
        """Return a variable's value without surrounding blanks, and without a comment where it cannot be part of it."""
        return re.sub(r"(^|\s)#.*", "", text).strip() if self.kind.comments else text.strip()


#: Names of `memwarden.policy.presets`; packages of one layer do not import each other, so a test compares the two.
PRESETS = ("desktop", "container", "worker", "video", "gpu", "aggressive", "relaxed", "high-threshold", "server")

OPTIONS: tuple[Option, ...] = (
    Option("limit", "SIZE", None, Size(), "Limit the memory of the whole process tree: 512MiB, 2G, 500MB or 80%."),
    Option(
        "interval",
        "SECONDS",
        0.5,
        Duration(0.01, 3600),
        "Interval of recorded samples. Near the limit memory is sampled more often.",
    ),
    Option("duration", "SECONDS", None, Duration(0.01, 366 * _DAY), "Stop after this time."),
    Option(
        "record",
        "PATH",
        None,
        Path(),
        "Write the record to this file, by default in the platform's state directory; as SQLite if its name ends with "
        ".sqlite, .sqlite3 or .db.",
    ),
    Option(
        "preset",
        "NAME",
        None,
        Choice(PRESETS),
        "Use the rules of this preset; rules of a settings file are added.",
    ),
    Option("webhook", "URL", None, Addresses(), "Post alerts to this URL. May be given more than once.", secret=True),
    Option(
        "webhook_secret",
        "TEXT",
        None,
        Text(),
        "Sign webhook posts with this secret: whsec_ and base64, or plain text.",
        secret=True,
        has_flag=False,
    ),
    Option("webhook_secret_file", "PATH", None, Path(), "Sign webhook posts with the secret in this file."),
    Option(
        "alerts",
        "URL",
        None,
        Addresses(),
        "Send alerts to the service with this Apprise URL. May be given more than once.",
        secret=True,
    ),
    Option("live", "", False, Switch(), "Show a status line at the bottom of the terminal while the command runs."),
    Option(
        "grace",
        "SECONDS",
        5.0,
        Duration(0.001, 3600),
        "Time between SIGTERM and SIGKILL when the process tree is stopped.",
    ),
    Option(
        "ceiling",
        "KIND",
        "auto",
        Choice(("auto", "cgroup2", "cgroup1", "polling")),
        "How to enforce the limit: auto (the best available), cgroup2, cgroup1 or polling.",
    ),
    Option("cgroup", "DIRECTORY", None, Path(), "Create the command's control group below this delegated one."),
    Option("monitor", "", False, Switch(), "Monitor a program that calls `autostart()`.", has_flag=False),
    Option("quiet", "", False, Switch(), "Print no report; the record still has it."),
    Option(
        "termination_log",
        "PATH",
        None,
        Path(),
        "Write the exit report to this file for the container runtime (as PID 1 by default /dev/termination-log).",
    ),
    Option("config", "PATH", None, Path(), "Read settings from this file only.", in_file=False),
)


@dataclass(frozen=True, slots=True)
class RuleKey:
    """A key of a ``[[rules]]`` table: its type. The policy has its meaning."""

    name: str
    kind: Kind
    default: Any
    sentence: str
    required: bool = False


_SOME_TIME = Duration(0, 366 * _DAY)

RULE_KEYS: tuple[RuleKey, ...] = (
    RuleKey("name", Text(), None, "Name of the rule in decisions and records.", required=True),
    RuleKey("when", Text(), None, "Condition, such as `level >= HIGH` or `used > 80%`.", required=True),
    RuleKey("for", _SOME_TIME, 0, "Time that the condition must hold before the rule fires."),
    RuleKey("band", Text(), None, "Distance from the threshold at which the rule clears (hysteresis)."),
    RuleKey("settle", _SOME_TIME, 0, "Time that the figure must be back before the rule clears."),
    RuleKey("rest", Duration(0, float("inf")), 60, "Time before the rule fires again."),
    RuleKey("then", Names(), None, "Actions to run, in this order."),
    RuleKey("escalate", Names(), None, "Further actions, one at a time while the condition holds."),
    RuleKey("step", _SOME_TIME, 5, "Time from one action of `escalate` to the next."),
    RuleKey("hold", _SOME_TIME, 60, "Undo reversible actions (a pause) after this time at the latest."),
    RuleKey("severity", Choice(("info", "warning", "critical")), "warning", "Severity of alerts."),
    RuleKey("dry_run", Switch(), False, "Report harmful actions instead of running them."),
)
