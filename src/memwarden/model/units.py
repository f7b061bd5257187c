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
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|)\s*", re.IGNORECASE | re.ASCII)
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

#: No kernel counts further (a signed number of 64 bits), and every system call refuses more.
_MOST, _MOST_DIGITS = (1 << 63) - 1, 40


def size_text(count: float) -> str:
    """Bytes in the largest unit that leaves at least one of it: ``512 B``, ``1.5 MiB``, ``2.00 GiB``."""
    for unit, digits in (("B", 0), ("KiB", 1), ("MiB", 1)):
        if abs(count) < 1024:
            return f"{count:.{digits}f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB" if abs(count) < 1024 else f"{count / 1024:.2f} TiB"


def seconds_text(count: float) -> str:
    """A duration: ``12 ms``, ``3.2 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if count < 0.9995:
        return f"{count * 1000:.0f} ms"
    if count < 60:
        return f"{count:.1f} s"
    whole = round(count)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _shown(value: object) -> str:
    """Return a value as text short enough for a message; an int of thousands of digits has none."""
    try:
        text = repr(value)
    except ValueError:
        return "with thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}…"


def parse_size(text: str | int, *, of: int | None = None) -> int:
    """The number of bytes that ``text`` means; ``of`` is the limit in bytes that a percentage refers to.

    Raises :class:`SettingsError` for anything that is not a positive size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if not 0 < text <= _MOST:
            raise SettingsError(f"size {_shown(text)}: must be more than zero bytes and less than 8 EiB")
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SettingsError(f"size {_shown(text)}: not understood; write 512MiB, 2G, 500MB, 80% or a number of bytes")
    number, prefix, binary, unit, percent = match.groups()
    if len(number) > _MOST_DIGITS:
        raise SettingsError(f"size {_shown(text)}: more digits than a size has")
    # In whole numbers, because a float makes 1000 bytes of 1.001kB.
    whole, _, fraction = number.partition(".")
    digits = int(whole + fraction)
    scale: int = 10 ** len(fraction)
    if percent:
        if of is None:
            raise SettingsError(f"size {_shown(text)}: a percentage needs a known limit; write 512MiB or 2G")
        if digits > 100 * scale:
            raise SettingsError(f"size {_shown(text)}: more than 100% of the limit")
        size = of * digits // (100 * scale)
    else:
        prefix = prefix.lower()
        if binary and not prefix:
            raise SettingsError(f"size {_shown(text)}: not understood; write 512MiB, 2G, 500MB or a number of bytes")
        factor = _DECIMAL[prefix] if prefix and unit and not binary else _BINARY[prefix]
        size = digits * factor // scale
    if not 0 < size <= _MOST:
        raise SettingsError(f"size {_shown(text)}: must be more than zero bytes and less than 8 EiB")
    return size


def parse_duration(text: str | float) -> float:
    """The number of seconds that ``text`` means: ``500ms``, ``2s``, ``5m``, ``1h``, ``1d`` or bare seconds."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text) if abs(text) < _MOST else float("inf")
    else:
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise SettingsError(
                f"duration {_shown(text)}: not understood; write 500ms, 2s, 5m, 1h or a number of seconds"
            )
        seconds = float(match[1]) * _SECONDS[match[2].lower()]
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"duration {_shown(text)}: must be more than zero and finite")
    return seconds
