"""Default paths of records: the platform's directory for state of a program."""

from __future__ import annotations

import ntpath
import os
import posixpath
import sys
from collections.abc import Mapping


def state_directory(environment: Mapping[str, str] | None = None, platform: str = sys.platform) -> str:
    """Return the directory for this user's records (not created yet).

    Linux: ``$XDG_STATE_HOME/memwarden``, by default ``~/.local/state/memwarden`` (XDG base directories);
    macOS: ``~/Library/Application Support/memwarden``; Windows: ``%LOCALAPPDATA%\\memwarden``. Without a
    home directory: this user's directory below the system's temporary one.
    """
    env = os.environ if environment is None else environment
    if platform == "win32":
        base = env.get("LOCALAPPDATA") or env.get("APPDATA")
        if base:
            return ntpath.join(base, "memwarden")
        if profile := env.get("USERPROFILE"):
            return ntpath.join(profile, "AppData", "Local", "memwarden")
    else:
        state = env.get("XDG_STATE_HOME", "")
        if posixpath.isabs(state):  # the specification ignores a relative one
            return posixpath.join(state, "memwarden")
        home = env.get("HOME", "")
        if posixpath.isabs(home):
            below = ("Library", "Application Support") if platform == "darwin" else (".local", "state")
            return posixpath.join(home, *below, "memwarden")
    import tempfile  # imports hashing, random numbers and compression: 10 ms

    owner = os.getuid() if hasattr(os, "getuid") else env.get("USERNAME", "user")
    return os.path.join(tempfile.gettempdir(), f"memwarden-{owner}")


def make_private(folder: str) -> str:
    """Create a folder for this user only; returns an error message, or ``""``.

    Below a shared temporary directory another user may have created a folder of that name before us.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        owner = os.stat(folder).st_uid
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    if hasattr(os, "getuid") and owner not in (os.getuid(), 0):
        return f"{folder}: belongs to another user ({owner})"
    return ""


def prune(folder: str, keep: int = 200) -> None:
    """Remove the oldest JSON line records (``*.jsonl`` and rotated ones) beyond ``keep``; other files stay."""
    try:
        names = [name for name in os.listdir(folder) if ".jsonl" in name]
        paths = sorted((os.path.join(folder, name) for name in names), key=os.path.getmtime, reverse=True)
        for path in paths[keep:]:
            os.unlink(path)
    except OSError:
        return  # does not exist yet, or another run is pruning
