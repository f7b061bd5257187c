"""Precedence of the sources: argument, flag, environment, file, default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memwarden.errors import SettingsError
from memwarden.settings.files import Fault, SettingsFile, find, read, unknown
from memwarden.settings.options import OPTIONS, Option


class Source(NamedTuple):
    """Source of a value: ``argument``, ``flag``, ``environment``, ``file``, ``found`` or ``default``."""

    kind: str
    #: The flag, the variable, or the file.
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.where}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values in use, and the source of each."""

    limit: str | None
    interval: float
    duration: float | None
    record: str | None
    preset: str | None
    webhook: tuple[str, ...] | None = field(repr=False)
    webhook_secret: str | None = field(repr=False)
    webhook_secret_file: str | None
    alerts: tuple[str, ...] | None = field(repr=False)
    live: bool
    grace: float
    ceiling: str
    cgroup: str | None
    monitor: bool
    quiet: bool
    termination_log: str | None
    #: The settings file that was read, named or found.
    config: str | None
    #: The file's rules as written.
    rules: tuple[Mapping[str, Any], ...]
    sources: Mapping[str, Source]
    #: Files that were skipped, with the reason.
    skipped: tuple[str, ...]


def resolve(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    arguments: Mapping[str, Any] | None = None,
    directory: str | None = None,
) -> Settings:
    """Return the settings from arguments of a program, flags (None: not given), environment and file.

    The search for a file starts in ``directory``, by default the working directory. Raises :class:`SettingsError` that
    names the source; for a file with all errors in it.
    """
    arguments = arguments or {}
    known = [option.name for option in OPTIONS]
    for name in arguments:
        if name not in known:
            raise SettingsError(f"{name}: {unknown(name, known)}")
    given = {option.name: _given(option, arguments, flags, environment) for option in OPTIONS}
    skipped: tuple[str, ...] = ()
    named = given["config"]
    if named is None:
        path, skipped = find(environment, directory)
        if path is not None:
            given["config"] = path, Source("found")
    else:
        path = named[0]
    file = None if path is None else read(path, environment).must_be_fine()
    values, sources = {}, {}
    for option in OPTIONS:
        values[option.name], sources[option.name] = given[option.name] or _from_file(option.name, option.default, file)
    values["rules"], sources["rules"] = _from_file("rules", (), file)
    return Settings(**values, sources=sources, skipped=skipped)


def environment_faults(environment: Mapping[str, str]) -> list[Fault]:
    """Return an error for each MEMWARDEN_ variable that is invalid or unknown."""
    options = {option.variable: option for option in OPTIONS}
    faults = []
    for name in sorted(environment):
        if name in options:
            try:
                _given(options[name], {}, {}, environment)
            except SettingsError as error:
                faults.append(Fault("environment", "", str(error)))
        elif name.startswith("MEMWARDEN_"):
            faults.append(Fault("environment", name, unknown(name, options)))
    return faults


def _given(
    option: Option, arguments: Mapping[str, Any], flags: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Any, Source] | None:
    """Return the value of argument, flag or environment, in this order, or None."""
    argument, flag = arguments.get(option.name), flags.get(option.name)
    text = option.from_variable(environment.get(option.variable, ""))
    try:
        if argument is not None:
            where = option.name
            return option.kind.take(argument), Source("argument")
        if flag is not None:
            where = option.flag
            return option.kind.parse(flag), Source("flag", option.flag)
        if text:
            where = option.variable
            return option.kind.parse(text), Source("environment", option.variable)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    return None


def _from_file(name: str, default: Any, file: SettingsFile | None) -> tuple[Any, Source]:
    if file is None or name not in file.values:
        return default, Source("default")
    return file.values[name], Source("file", file.path)
