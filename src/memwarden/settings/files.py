"""Settings files: finding one, reading it, and reporting all errors in it."""

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
#: No settings file is larger: it may be a device without an end.
_MOST_BYTES = 1 << 20


class Fault(NamedTuple):
    """An error in a settings file; ``key`` is empty where the whole file is wrong."""

    path: str
    key: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """Content of a file: values by name (``rules`` as written), and all errors."""

    path: str
    values: Mapping[str, Any] = field(repr=False)  # some of them are secret
    faults: tuple[Fault, ...]

    @property
    def rules(self) -> tuple[Mapping[str, Any], ...]:
        """The ``[[rules]]`` as written."""
        return tuple(self.values.get("rules", ()))

    def must_be_fine(self) -> SettingsFile:
        """Return itself; raises :class:`SettingsError` with all errors."""
        if self.faults:
            raise SettingsError("; ".join(map(str, self.faults)))
        return self


class Found(NamedTuple):
    """The file in use, if any, and those that were skipped, with the reason."""

    path: str | None
    skipped: tuple[str, ...]


# --- where -------------------------------------------------------------------------------------------


def config_directory(environment: Mapping[str, str], platform: str = sys.platform) -> str | None:
    """Return the directory for this user's settings, or None without a home.

    Linux: ``$XDG_CONFIG_HOME/memwarden``, by default ``~/.config/memwarden`` (XDG base directories); macOS:
    ``~/Library/Application Support/memwarden``; Windows: ``%APPDATA%\\memwarden``.
    """
    if platform == "win32":
        base = environment.get("APPDATA")
        if not base and (profile := environment.get("USERPROFILE")):
            base = ntpath.join(profile, "AppData", "Roaming")
        return ntpath.join(base, "memwarden") if base else None
    config = environment.get("XDG_CONFIG_HOME", "")
    if posixpath.isabs(config):  # the specification ignores a relative one
        return posixpath.join(config, "memwarden")
    home = environment.get("HOME", "")
    if not posixpath.isabs(home):
        return None
    below = ("Library", "Application Support") if platform == "darwin" else (".config",)
    return posixpath.join(home, *below, "memwarden")


def find(environment: Mapping[str, str], directory: str | None = None) -> Found:
    """Return the first settings file that exists.

    ``memwarden.toml`` in the working directory; else the nearest ``pyproject.toml`` with a ``[tool.memwarden]``
    from there upward, as far as the home directory or the root; else ``memwarden.toml`` in the user's
    configuration directory.
    """
    skipped: list[str] = []
    for path in _places(environment, directory):
        if not os.path.isfile(path):  # a pipe of that name would block
            continue
        if os.path.basename(path) == PROJECT and not _has_table(path):
            continue
        if _is_planted(path):
            skipped.append(
                f"{path}: belongs to another user, in a world-writable folder; use it with --config if you trust it"
            )
            continue
        return Found(path, tuple(skipped))
    return Found(None, tuple(skipped))


def _places(environment: Mapping[str, str], directory: str | None) -> Iterable[str]:
    home = environment.get("USERPROFILE" if sys.platform == "win32" else "HOME", "")
    try:
        here = os.getcwd() if directory is None else os.path.abspath(directory)
    except FileNotFoundError:  # the working directory was removed
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
    """Return whether a pyproject.toml has our table; a broken file has it only if a line starts it."""
    try:
        text = _text(path)
    except (OSError, UnicodeDecodeError):
        return False
    if "memwarden" not in text:  # as in most: no need to parse it
        return False
    try:
        tool = _parsed(text).get("tool")
    except (ValueError, RecursionError):
        lines = (line.lstrip("[ \t\"'") for line in text.splitlines())
        return any(re.match(r"tool\b[\"'. \t]*memwarden\b", line) for line in lines)
    return isinstance(tool, dict) and "memwarden" in tool


def _is_planted(path: str) -> bool:
    """Return whether another user could have put the file there, as in ``/tmp``."""
    if not hasattr(os, "getuid"):
        return False
    try:
        folder, file = os.stat(os.path.dirname(path)), os.lstat(path)  # of a link: its own owner
    except OSError:
        return False  # removed: reading it will fail
    return bool(folder.st_mode & stat.S_IWOTH) and file.st_uid not in (0, os.getuid())


# --- what --------------------------------------------------------------------------------------------


def read(
    path: str,
    environment: Mapping[str, str] | None = None,
    judge: Callable[[Mapping[str, Any]], object] | None = None,
) -> SettingsFile:
    """Return the content of the file with all errors in it; its content raises nothing.

    Of a ``pyproject.toml`` the table ``[tool.memwarden]`` is read. ``judge`` may check a rule further; it raises
    :class:`SettingsError`.
    """
    reading = _Reading(path, os.environ if environment is None else environment, judge)
    try:
        reading.take(_parsed(_text(path)))
    except RecursionError:
        reading.fault("", "is nested too deeply")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        reading.fault("", f"is not UTF-8: {error.object[error.start]:#04x} in line {line} begins no character")
    except OSError as error:
        reading.fault("", f"cannot be read: {error.strerror}")
    except ValueError as error:  # also of a path with a NUL
        reading.fault("", f"is not valid TOML: {error}")
    return SettingsFile(path=path, values=reading.values, faults=tuple(reading.faults))


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
    """One pass over a file."""

    def __init__(
        self, path: str, environment: Mapping[str, str], judge: Callable[[Mapping[str, Any]], object] | None
    ) -> None:
        self._path, self._environment, self._judge = path, environment, judge
        self.values: dict[str, Any] = {}
        self.faults: list[Fault] = []

    def fault(self, key: str, message: str) -> None:
        # A quoted key may contain anything, terminal control sequences included.
        self.faults.append(Fault(self._path, key if key.isprintable() else repr(key), message))

    def take(self, plain: Any) -> None:
        if os.path.basename(self._path) == PROJECT:
            tool = plain.get("tool")
            plain = tool.get("memwarden") if isinstance(tool, dict) else None
            if not isinstance(plain, dict):
                self.fault("", "has no table [tool.memwarden]")
                return
        known = {option.name: option for option in OPTIONS if option.in_file}
        for key, value in plain.items():
            if key == "rules":
                self._take_rules(value)
            elif key not in known:
                more = "; settings have no table of their own" if isinstance(value, dict) else ""
                self.fault(key, unknown(key, [*known, "rules"]) + more)
            else:
                taken = self._value(known[key].kind, value, key)
                if taken is not None:
                    self.values[key] = self._absolute(taken) if known[key].kind.is_path else taken

    def _take_rules(self, value: Any) -> None:
        if not isinstance(value, list) or not all(isinstance(rule, dict) for rule in value):
            self.fault("rules", "must be tables that start with [[rules]]")
            return
        self.values["rules"] = tuple(value)
        known = {key.name: key for key in RULE_KEYS}
        names: set[str] = set()
        for number, rule in enumerate(value, 1):
            at, before = f"rules[{number}]", len(self.faults)
            for key, each in rule.items():
                if key not in known:
                    self.fault(f"{at}.{key}", unknown(key, known))
                else:
                    self._value(known[key].kind, each, f"{at}.{key}")
            for wanted in RULE_KEYS:
                if wanted.required and wanted.name not in rule:
                    self.fault(at, f"`{wanted.name}` is missing")
            if len(self.faults) == before and not rule.get("then") and not rule.get("escalate"):
                self.fault(at, "has no action; name one in `then` or `escalate`")
            if len(self.faults) == before and rule["name"] in names:
                self.fault(f"{at}.name", f"another rule has the name {rule['name']!r}, too")
            names.add(str(rule.get("name")))
            if len(self.faults) == before and self._judge is not None:
                try:
                    self._judge(rule)
                except SettingsError as error:
                    self.fault(at, str(error))

    def _value(self, kind: Kind, value: Any, key: str) -> Any:
        try:
            return kind.take(value)
        except SettingsError as error:
            self.fault(key, str(error))
            return None

    def _absolute(self, path: str) -> str:
        """Return a path relative to the file, with ``~`` expanded."""
        home = self._environment.get("USERPROFILE" if sys.platform == "win32" else "HOME")
        if home and (path == "~" or path.startswith("~/")):
            return home + path[1:]
        return os.path.join(os.path.dirname(os.path.abspath(self._path)), path)


def unknown(word: str, known: Iterable[str]) -> str:
    """Return the error of an unknown name, with the one that may have been meant."""
    import difflib

    names = list(known)
    near = difflib.get_close_matches(word, names, 1)
    return "is not known; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}")
