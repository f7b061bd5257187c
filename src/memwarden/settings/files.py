"""Settings files: where one is found, what it holds, and everything that is wrong with it."""

from __future__ import annotations

import errno
import ntpath
import os
import posixpath
import re
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memwarden.errors import SettingsError
from memwarden.settings.options import OPTIONS, RULE_KEYS, Kind

NAME, PROJECT = "memwarden.toml", "pyproject.toml"
#: A file of settings is never larger; this is something else, such as a device without an end.
_MOST_BYTES = 1 << 20

_WHERE = re.compile(r" \(at line (\d+), column \d+\)$")


class Fault(NamedTuple):
    """Error in a settings file; ``line`` is 0 where it is unknown."""

    path: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """Content of a file: values by name (``rules`` as written), the line of each, and its errors."""

    path: str
    values: Mapping[str, Any] = field(repr=False)  # some of them are secret
    lines: Mapping[str, int]
    faults: tuple[Fault, ...]

    @property
    def rules(self) -> tuple[Mapping[str, Any], ...]:
        """The ``[[rules]]``, as they stand there."""
        return tuple(self.values.get("rules", ()))

    def must_be_fine(self) -> SettingsFile:
        """Itself; raises :class:`SettingsError` with every fault."""
        if self.faults:
            raise SettingsError("; ".join(map(str, self.faults)))
        return self


class Found(NamedTuple):
    """The file in force, if any, and those that were passed over, with the reason."""

    path: str | None
    skipped: tuple[str, ...]


# --- where -------------------------------------------------------------------------------------------


def config_directory(environment: Mapping[str, str], platform: str = sys.platform) -> str | None:
    """The directory for this user's settings, or None without a home.

    Linux: ``$XDG_CONFIG_HOME/memwarden``, by default ``~/.config/memwarden`` (XDG base directories); macOS:
    ``~/Library/Application Support/memwarden``; Windows: ``%APPDATA%\\memwarden``.
    """
    if platform == "win32":
        base = environment.get("APPDATA")
        if not base and (profile := environment.get("USERPROFILE")):
            base = ntpath.join(profile, "AppData", "Roaming")
        return ntpath.join(base, "memwarden") if base else None
    config = environment.get("XDG_CONFIG_HOME", "")
    if posixpath.isabs(config):  # the specification says that a relative one counts as not set
        return posixpath.join(config, "memwarden")
    home = environment.get("HOME", "")
    if not posixpath.isabs(home):
        return None
    below = ("Library", "Application Support") if platform == "darwin" else (".config",)
    return posixpath.join(home, *below, "memwarden")


def find(environment: Mapping[str, str], directory: str | None = None) -> Found:
    """The first settings file there is.

    ``memwarden.toml`` in the working directory; else the nearest ``pyproject.toml`` with a ``[tool.memwarden]``
    from there upward, as far as the home directory or the root; else ``memwarden.toml`` in the user's
    configuration directory.
    """
    skipped: list[str] = []
    for path in _places(environment, directory):
        if not os.path.isfile(path):  # a pipe of that name would hold us up
            continue
        if os.path.basename(path) == PROJECT and not _has_table(path):
            continue
        if _is_planted(path):
            skipped.append(f"{path}: another user's, in a directory open to all; name it with --config to use it")
            continue
        return Found(path, tuple(skipped))
    return Found(None, tuple(skipped))


def _places(environment: Mapping[str, str], directory: str | None) -> Iterable[str]:
    home = environment.get("USERPROFILE" if sys.platform == "win32" else "HOME", "")
    try:
        here = os.getcwd() if directory is None else os.path.abspath(directory)
    except FileNotFoundError:  # it was removed
        here = ""
    if here:
        yield os.path.join(here, NAME)
        while True:
            yield os.path.join(here, PROJECT)
            above = os.path.dirname(here)
            if above == here or (home and os.path.normpath(home) == here):
                break
            here = above
    if own := config_directory(environment):
        yield os.path.join(own, NAME)


def _has_table(path: str) -> bool:
    """Return True where a pyproject.toml has our table; a broken file counts only if it names the table."""
    try:
        text = _text(path)
    except (OSError, UnicodeDecodeError):
        return False
    if "memwarden" not in text:  # as in most: no need to understand it
        return False
    try:
        tool = _parsed(text).get("tool")
    except (ValueError, RecursionError):
        lines = (line.lstrip("[ \t\"'") for line in text.splitlines())
        return any(re.match(r"tool\b[\"'. \t]*memwarden\b", line) for line in lines)
    return isinstance(tool, dict) and "memwarden" in tool


def _is_planted(path: str) -> bool:
    """Return True where another user could have placed the file, as in ``/tmp``."""
    if not hasattr(os, "getuid"):
        return False
    try:
        folder, file = os.stat(os.path.dirname(path)), os.lstat(path)  # of a link, the owner of the link
    except OSError:
        return False  # gone, as reading it will tell
    return bool(folder.st_mode & stat.S_IWOTH) and file.st_uid not in (0, os.getuid())


# --- what --------------------------------------------------------------------------------------------


def read(
    path: str,
    environment: Mapping[str, str] | None = None,
    judge: Callable[[Mapping[str, Any]], object] | None = None,
) -> SettingsFile:
    """Return the content of the file with all its errors; no content raises.

    A file called ``pyproject.toml`` is read for its ``[tool.memwarden]``. ``judge`` may know more about a rule
    than its shape; it raises :class:`SettingsError`.
    """
    reading = _Reading(path, os.environ if environment is None else environment, judge)
    try:
        text = _text(path)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        reading.fault((), f"is not UTF-8: {error.object[error.start]:#04x} begins no character", line=line)
    except (OSError, ValueError) as error:
        reading.fault((), f"cannot be read: {getattr(error, 'strerror', None) or error}")
    else:
        reading.take(text)
    return SettingsFile(
        path=path,
        values=reading.values,
        lines={name: reading.line((name,)) for name in reading.values},
        faults=tuple(sorted(reading.faults, key=lambda fault: fault.line)),
    )


def _text(path: str) -> str:
    with open(path, "rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise OSError(errno.EFBIG, "larger than 1 MiB, which no settings file is")
    return raw.decode("utf-8-sig")


def _parsed(text: str) -> dict[str, Any]:
    import tomllib  # most runs have no file

    return tomllib.loads(text)


class _Reading:
    """One pass through a file."""

    def __init__(
        self, path: str, environment: Mapping[str, str], judge: Callable[[Mapping[str, Any]], object] | None
    ) -> None:
        self._path, self._environment, self._judge = path, environment, judge
        self._prefix = ("tool", "memwarden") if os.path.basename(path) == PROJECT else ()
        self._lines: Mapping[tuple[str, ...], int] = {}
        self.values: dict[str, Any] = {}
        self.faults: list[Fault] = []

    def fault(self, at: tuple[str, ...], message: str, key: str = "", line: int = 0) -> None:
        # A quoted key may hold anything, also what a terminal would obey.
        self.faults.append(Fault(self._path, line or self.line(at), key if key.isprintable() else repr(key), message))

    def line(self, at: tuple[str, ...]) -> int:
        """Return the line of it, or of the nearest thing around it; 0 where that is unknown."""
        full = (*self._prefix, *at)
        return next((self._lines[full[:end]] for end in range(len(full), 0, -1) if full[:end] in self._lines), 0)

    def take(self, text: str) -> None:
        try:
            plain: Any = _parsed(text)
        except RecursionError:
            self.fault((), "is nested too deep")
            return
        except ValueError as error:
            where = _WHERE.search(str(error))
            line = int(where[1]) if where else text.rstrip().count("\n") + 1 if "end of document" in str(error) else 0
            self.fault((), f"is no TOML: {_WHERE.sub('', str(error))}", line=line)
            return
        self._lines = _lines(text)
        for name in self._prefix:
            plain = plain.get(name) if isinstance(plain, dict) else None
        if not isinstance(plain, dict):
            self.fault((), "has no table [tool.memwarden]")
            return
        known = {option.name: option for option in OPTIONS if option.in_file}
        for key, value in plain.items():
            if key == "rules":
                self._take_rules(value)
            elif key not in known:
                more = "; settings stand in no table of their own" if isinstance(value, dict) else ""
                self.fault((key,), _unknown([*known, "rules"], key) + more, key)
            else:
                taken = self._value(known[key].kind, value, (key,), key)
                if taken is not None:
                    self.values[key] = self._placed(taken) if known[key].kind.is_path else taken

    def _take_rules(self, value: Any) -> None:
        if not isinstance(value, list) or not all(isinstance(rule, dict) for rule in value):
            self.fault(("rules",), "must be tables, each headed [[rules]]", "rules")
            return
        self.values["rules"] = tuple(value)
        known = {key.name: key for key in RULE_KEYS}
        names: set[str] = set()
        for number, rule in enumerate(value):
            at, before = ("rules", str(number)), len(self.faults)
            called = f"rules[{number + 1}]"  # as people count
            for key, each in rule.items():
                if key not in known:
                    self.fault((*at, key), _unknown(known, key), f"{called}.{key}")
                else:
                    self._value(known[key].kind, each, (*at, key), f"{called}.{key}")
            for wanted in RULE_KEYS:
                if wanted.required and wanted.name not in rule:
                    self.fault(at, f"`{wanted.name}` is missing", called)
            if len(self.faults) == before and not rule.get("then") and not rule.get("escalate"):
                self.fault(at, "says what to do neither by `then` nor by `escalate`", called)
            if len(self.faults) == before and rule["name"] in names:
                self.fault((*at, "name"), f"another rule is called {rule['name']!r}, too", f"{called}.name")
            names.add(str(rule.get("name")))
            if len(self.faults) == before and self._judge is not None:
                try:
                    self._judge(rule)
                except SettingsError as error:
                    self.fault(at, str(error), called)

    def _value(self, kind: Kind, value: Any, at: tuple[str, ...], key: str) -> Any:
        try:
            return kind.take(value)
        except SettingsError as error:
            self.fault(at, str(error), key)
            return None

    def _placed(self, path: str) -> str:
        """A path as the file means it."""
        home = self._environment.get("USERPROFILE" if sys.platform == "win32" else "HOME")
        if home and (path == "~" or path.startswith("~/")):
            return home + path[1:]
        return os.path.join(os.path.dirname(os.path.abspath(self._path)), path)


def _unknown(known: Iterable[str], key: str) -> str:
    return f"is not known; {nearest(key, known)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at what may have been meant."""
    import difflib

    names = list(known)
    near = difflib.get_close_matches(word, names, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """On which line each key stands, by its path; tables of an array are numbered from 0.

    A scan and no parser: tomllib tells no places. What stands in inline tables is told by the line of its key.
    """
    found: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    counted: dict[tuple[str, ...], int] = {}
    within = ""  # the quotes of the text of many lines that we are in
    for number, line in enumerate(text.split("\n"), 1):
        if not within:
            header = re.match(r"\s*(\[\[?)([^\[\]]+)\]", line)
            key, equals, _ = line.partition("=")
            if header:
                section = _parts(header[2])
                if header[1] == "[[":
                    found.setdefault(section, number)
                    counted[section] = counted.get(section, -1) + 1
                    section = (*section, str(counted[section]))
                found.setdefault(section, number)
            elif equals and re.fullmatch(r"[\w\s.\"'-]+", key):
                found.setdefault((*section, *_parts(key)), number)
        for quotes in re.findall(r'"""|\'\'\'', line):
            within = "" if within == quotes else within or quotes
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(re.sub(r"""^["']|["']$""", "", part.strip()) for part in dotted.split("."))
