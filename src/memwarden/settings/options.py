"""Table of options, from which flags, variables, file keys, schema, help and documentation are made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from memwarden.errors import SettingsError
from memwarden.model.units import parse_duration, parse_size

#: What TOML calls the types that it knows.
_TYPE_NAMES = {str: "text", int: "a whole number", float: "a float", bool: "a boolean", list: "an array"}
_DAY = 86400.0
#: Those of ASCII, in a pattern of JSON Schema, whose own ``\s`` knows more of them.
_BLANKS = r"[ \t\n\r\f\v]*"


class Kind:
    """Syntax of a value, in text (:meth:`parse`) and in a file or a program (:meth:`take`).

    Those without figures of their own are no dataclasses: each of these costs a start of the command a millisecond.
    """

    __slots__ = ()

    #: The types that a file may use.
    types: ClassVar[tuple[type, ...]] = (str,)
    #: Whether a ``#`` after a blank begins a comment where the value stands in a variable.
    comments: ClassVar[bool] = True
    is_path: ClassVar[bool] = False

    @property
    def allowed(self) -> str:
        """Return the allowed values, in a few words."""
        return "text"

    def parse(self, text: Any) -> Any:
        """The value; raises :class:`SettingsError`."""
        if not text.strip():
            raise SettingsError(f"is empty; write {self.allowed}")
        return text

    def take(self, value: Any) -> Any:
        """The value of something that has a type already; raises :class:`SettingsError`."""
        if type(value) not in self.types:  # not isinstance: True is an int in Python and none in a file
            kind = "a table" if isinstance(value, Mapping) else _TYPE_NAMES.get(type(value), type(value).__name__)
            raise SettingsError(f"must be {self.allowed}, not {kind}")
        return self.parse(value)

    def schema(self) -> dict[str, Any]:
        """Return the allowed values, as JSON Schema."""
        return {"type": "string", "pattern": r"\S"}


class Text(Kind):
    """Words, taken as they are."""

    comments: ClassVar[bool] = False


class Path(Kind):
    """A file or a directory. In a settings file a relative one counts from that file."""

    comments: ClassVar[bool] = False
    is_path: ClassVar[bool] = True

    @property
    def allowed(self) -> str:
        return "a path"

    def take(self, value: Any) -> Any:
        return Kind.take(self, os.fspath(value) if isinstance(value, os.PathLike) else value)


class Size(Kind):
    """A size, kept as it was written, because a percentage waits for the limit that it refers to."""

    types: ClassVar[tuple[type, ...]] = (str, int)

    @property
    def allowed(self) -> str:
        return "512MiB, 2G, 500MB, 80% or a number of bytes"

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
        return f"500ms, 2s, 5min, 1h or seconds, {self._range}"

    @property
    def _range(self) -> str:
        return f"from {_shown(self.least)} to {_shown(self.most)}"

    def parse(self, text: Any) -> float:
        if self.least == 0 and text in (0, "0", "0s"):
            return 0.0
        if text == self.most:  # infinite ones have no text
            return float(text)
        seconds = parse_duration(text)
        if not self.least <= seconds <= self.most:
            raise SettingsError(f"{text!r} is out of range: {self._range}")
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
    """Yes or no. A file and a program say it as true or false, a variable in the usual words."""

    types: ClassVar[tuple[type, ...]] = (bool,)

    @property
    def allowed(self) -> str:
        return "true or false"

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

    @property
    def allowed(self) -> str:
        return "a name or an array of names"

    def parse(self, text: Any) -> Any:
        for name in [text] if isinstance(text, str) else text:
            if not isinstance(name, str) or not name.strip():
                raise SettingsError(f"must be {self.allowed}")
        return text

    def schema(self) -> dict[str, Any]:
        name = {"type": "string", "pattern": r"\S"}
        return {"anyOf": [name, {"type": "array", "items": name}]}


class Addresses(Kind):
    """One or several addresses, separated by blanks in a variable. They contain passwords: no message quotes them."""

    types: ClassVar[tuple[type, ...]] = (str, list, tuple)

    @property
    def allowed(self) -> str:
        return "an address or an array of addresses"

    def parse(self, text: Any) -> tuple[str, ...]:
        addresses = tuple(text.split() if isinstance(text, str) else text)
        if (isinstance(text, str) and not addresses) or not all(isinstance(a, str) and a.strip() for a in addresses):
            raise SettingsError(f"must be {self.allowed}")
        return addresses

    def schema(self) -> dict[str, Any]:
        address = {"type": "string", "pattern": r"\S"}
        return {"anyOf": [address, {"type": "array", "items": address}]}


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    name: str
    unit: str
    default: Any
    kind: Kind
    #: What it is for, in one sentence.
    sentence: str
    #: Whether a settings file may hold it.
    in_file: bool = True
    #: Whether its value is never shown.
    secret: bool = False
    #: Whether a command takes it as an option; every user can read command lines.
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
        """Return a variable's text without blanks around it, and without a comment where no value contains one."""
        return re.sub(r"(^|\s)#.*", "", text).strip() if self.kind.comments else text.strip()


#: Names in `memwarden.policy.presets`; packages of one layer do not import each other, so a test compares the two.
PRESETS = ("desktop", "container", "worker", "video", "gpu", "aggressive", "relaxed", "high-threshold", "server")

OPTIONS: tuple[Option, ...] = (
    Option("limit", "SIZE", None, Size(), "Hold the whole process tree to this: 512MiB, 2G, 500MB, 80%."),
    Option("interval", "SECONDS", 0.5, Duration(0.01, 3600), "Record a sample this often; looking adapts by itself."),
    Option("duration", "SECONDS", None, Duration(0.01, 366 * _DAY), "Stop watching after this time."),
    Option(
        "record",
        "PATH",
        None,
        Path(),
        "Write the record to this file instead of the platform's state directory; where its name ends with .sqlite, "
        ".sqlite3 or .db as a history in SQLite.",
    ),
    Option(
        "preset",
        "NAME",
        None,
        Choice(PRESETS),
        "Rules to begin with; those of a settings file are added to them.",
    ),
    Option(
        "webhook", "URL", None, Addresses(), "Post alerts to this address; may be given more than once.", secret=True
    ),
    Option(
        "webhook_secret",
        "TEXT",
        None,
        Text(),
        "Sign what is posted with this: whsec_ and base64, or plain text.",
        secret=True,
        has_flag=False,
    ),
    Option("webhook_secret_file", "PATH", None, Path(), "Sign what is posted with the secret in this file."),
    Option(
        "alerts",
        "URL",
        None,
        Addresses(),
        "Send alerts over the service with this Apprise address; may be given more than once.",
        secret=True,
    ),
    Option("live", "", False, Switch(), "Show a status line at the bottom of the terminal while the command runs."),
    Option("grace", "SECONDS", 5.0, Duration(0.001, 3600), "How long a tree may take to end before it is killed."),
    Option(
        "ceiling",
        "KIND",
        "auto",
        Choice(("auto", "cgroup2", "cgroup1", "polling")),
        "How to hold the limit: auto (the best that the machine grants), cgroup2, cgroup1 or polling.",
    ),
    Option(
        "cgroup", "DIRECTORY", None, Path(), "A control group that was handed to you; the command's is made below it."
    ),
    Option("monitor", "", False, Switch(), "Watch a program that calls `autostart()`.", has_flag=False),
    Option("quiet", "", False, Switch(), "Print no report; it still stands in the record."),
    Option(
        "termination_log",
        "PATH",
        None,
        Path(),
        "Where to leave the verdict for a container's supervisor (as PID 1 by default /dev/termination-log).",
    ),
    Option("config", "PATH", None, Path(), "Read settings from this file and look for no other.", in_file=False),
)


@dataclass(frozen=True, slots=True)
class RuleKey:
    """A key of a ``[[rules]]`` table. Only its shape is known here; what it means is known to the policy."""

    name: str
    kind: Kind
    default: Any
    sentence: str
    required: bool = False


_SOME_TIME = Duration(0, 366 * _DAY)

RULE_KEYS: tuple[RuleKey, ...] = (
    RuleKey("name", Text(), None, "What it is called in decisions and records.", required=True),
    RuleKey("when", Text(), None, "The condition, such as `level >= HIGH` or `used > 80%`.", required=True),
    RuleKey("for", _SOME_TIME, 0, "How long the condition must hold before the rule fires."),
    RuleKey("band", Text(), None, "How far the figure must come back to clear."),
    RuleKey("settle", _SOME_TIME, 0, "How long it must be back to clear."),
    RuleKey("rest", Duration(0, float("inf")), 60, "How long the rule rests before it fires again."),
    RuleKey("then", Names(), None, "The actions that it runs, in this order."),
    RuleKey("escalate", Names(), None, "Further actions, one at a time, each only while the condition still holds."),
    RuleKey("step", _SOME_TIME, 5, "The time from one action of `escalate` to the next."),
    RuleKey("hold", _SOME_TIME, 60, "What can be taken back (a pause) is taken back after this time at the latest."),
    RuleKey("severity", Choice(("info", "warning", "critical")), "warning", "How bad it is, for the alerts."),
    RuleKey("dry_run", Switch(), False, "Only say what an action that harms would do."),
)
