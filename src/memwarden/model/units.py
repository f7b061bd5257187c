"""Sizes and durations as people write them, turned into bytes and seconds once.

``512MiB``, ``512M`` and ``512Mi`` are powers of 1024, as cgroup files, systemd, Docker and Kubernetes
mean them; ``512MB`` is 10**6 bytes (IEC 80000-13 and SI); a bare number is bytes; ``80%`` is a share of
a limit that the caller knows.
"""

from __future__ import annotations

import re

from memwarden.errors import SettingsError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_BINARY = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(i?)(b?)|(%))\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*", re.IGNORECASE | re.ASCII)
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str | int, *, of: int | None = None) -> int:
    """The number of bytes that ``text`` means; ``of`` is the limit in bytes that a percentage refers to.

    Raises :class:`SettingsError` for anything that is not a positive size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text <= 0:
            raise SettingsError(f"size {text!r}: must be more than zero bytes")
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SettingsError(f"size {text!r}: not understood; write 512MiB, 2G, 500MB, 80% or a number of bytes")
    number, prefix, binary, unit, percent = match.groups()
    if percent:
        if of is None:
            raise SettingsError(f"size {text!r}: a percentage needs a known limit; write 512MiB or 2G")
        if float(number) > 100:
            raise SettingsError(f"size {text!r}: more than 100% of the limit")
        size = int(of * float(number) / 100)
    else:
        prefix = prefix.lower()
        if binary and not prefix:
            raise SettingsError(f"size {text!r}: not understood; write 512MiB, 2G, 500MB or a number of bytes")
        factor = _DECIMAL[prefix] if prefix and unit and not binary else _BINARY[prefix]
        # Whole numbers stay exact beyond 2**53; only a fraction goes through a float.
        size = int(float(number) * factor) if "." in number else int(number) * factor
    if size <= 0:
        raise SettingsError(f"size {text!r}: must be more than zero bytes")
    return size


def parse_duration(text: str | float) -> float:
    """The number of seconds that ``text`` means: ``500ms``, ``2s``, ``5m``, ``1h``, ``1d`` or bare seconds."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text)
    else:
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise SettingsError(f"duration {text!r}: not understood; write 500ms, 2s, 5m, 1h or a number of seconds")
        seconds = float(match[1]) * _SECONDS[match[2].lower()]
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"duration {text!r}: must be more than zero and finite")
    return seconds
