"""The old ``customer_snapshot.utils.config``: settings of the transcript program, by its own variables.

They are read once, when a :class:`Config` is made; attributes may be assigned afterwards. A comment after a value is
ignored, a malformed value raises :class:`~memwarden.errors.SettingsError` with the variable's name, and no directory is
made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from memwarden.errors import SettingsError
from memwarden.settings.options import Switch


class _Variable(NamedTuple):
    name: str
    default: int | bool
    least: int = 0


#: Each attribute with its variable. "MB" are 2**20 bytes, ``max_file_size`` is bytes, chunks are counted in words.
VARIABLES = {
    "enable_memory_monitoring": _Variable("ENABLE_MEMORY_MONITORING", False),
    "memory_limit_mb": _Variable("MEMORY_LIMIT_MB", 1024, 1),
    "streaming_threshold_mb": _Variable("STREAMING_THRESHOLD_MB", 10),
    "gc_frequency": _Variable("GC_FREQUENCY", 1000, 1),
    "enable_memory_profiling": _Variable("ENABLE_MEMORY_PROFILING", False),
    "max_file_size": _Variable("MAX_FILE_SIZE", 50 << 20, 1),
    "chunk_size": _Variable("CHUNK_SIZE", 500, 1),
    "chunk_overlap": _Variable("CHUNK_OVERLAP", 100),
}


class Config:
    """Settings: the environment over the file ``env_file`` (lines of ``NAME=value``), over the defaults."""

    #: True: monitoring starts by itself (:func:`memwarden.compat.optimizer_service.autostart`).
    enable_memory_monitoring: bool
    #: Limit of this process for alerts.
    memory_limit_mb: int
    #: A file above this is streamed.
    streaming_threshold_mb: int
    #: Garbage is collected once in so many operations.
    gc_frequency: int
    #: True: the profiling decorators measure.
    enable_memory_profiling: bool
    #: Bytes of the largest file that is loaded whole; streaming has no such limit.
    max_file_size: int
    #: Words in a chunk of text, and how many of them two chunks have in common.
    chunk_size: int
    chunk_overlap: int

    def __init__(
        self, env_file: str | os.PathLike[str] | None = None, *, environment: Mapping[str, str] | None = None
    ) -> None:
        values = {} if env_file is None else _read(env_file)
        values.update(os.environ if environment is None else environment)
        for attribute, variable in VARIABLES.items():
            setattr(self, attribute, _value(variable, values.get(variable.name, "")))
        if self.chunk_overlap >= self.chunk_size:
            raise SettingsError(f"CHUNK_OVERLAP: {self.chunk_overlap} must be less than CHUNK_SIZE, {self.chunk_size}")

    @classmethod
    def get_default(cls) -> Config:
        """Return settings from the environment alone."""
        return cls()

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes by name."""
        return {attribute: getattr(self, attribute) for attribute in VARIABLES}


def _read(path: str | os.PathLike[str]) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{os.fspath(path)}: cannot be read: {error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals:
            raise SettingsError(f"{os.fspath(path)}:{number}: {line.strip()[:40]!r} is no NAME=value")
        found[name.strip()] = value
    return found


def _value(variable: _Variable, text: str) -> int | bool:
    value = re.sub(r"(^|\s)#.*", "", text).strip().strip("'\"")
    if not value:
        return variable.default
    try:
        if isinstance(variable.default, bool):
            return Switch().parse(value)
        number = int(value)
        if number >= variable.least:
            return number
    except ValueError:  # a SettingsError is one, too
        pass
    least = f"a whole number of {variable.least} or more, such as {variable.default}"
    allowed = "true or false" if isinstance(variable.default, bool) else least
    raise SettingsError(f"{variable.name}: {value[:40]!r} must be {allowed}")
