"""Paths of ledgers: files below the user's runtime directory, for one host or container each."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from collections.abc import Mapping

from memwarden.admission.ledger.locked_file import is_abandoned
from memwarden.admission.ledger.reservation_file import boot
from memwarden.errors import ReadError, RecordError
from memwarden.process.namespaces import namespace
from memwarden.readers.linux.cgroup import locate
from memwarden.records.paths import make_private, state_directory

_PREFIX = "ledger-"
#: A ledger's name, and its host or container.
_FILE = re.compile(r"ledger-(.+)-([0-9a-f]{8})")


def runtime_directory(environment: Mapping[str, str] | None = None) -> str:
    """Return this user's directory for files of one boot of the machine; it may not exist yet.

    ``$XDG_RUNTIME_DIR/memwarden``; where that variable is not set (a cron job) the directory that it stands for
    under systemd, if there is one; else ``run`` below the directory for records.
    """
    env = os.environ if environment is None else environment
    base = env.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(base) and hasattr(os, "getuid"):
        base = f"/run/user/{os.getuid()}"
    if os.path.isabs(base) and os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK):
        return os.path.join(base, "memwarden")
    return os.path.join(state_directory(env), "run")


def host_id() -> str:
    """Return an id of this host or container, from its boot, its cgroup namespace and the topmost visible group."""
    try:
        top = locate().mount.root
    except ReadError:
        top = ""
    text = f"{boot()} {namespace('cgroup')} {top}"
    return f"{zlib.crc32(text.encode()):08x}"


def ledger_path(name: str) -> str:
    """Return the file of a ledger; make its folder, for this user alone. Raises :class:`RecordError`."""
    folder = runtime_directory()
    wrong = make_private(folder)
    if not wrong:
        mode = os.stat(folder).st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            wrong = f"{folder}: others may write there"
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
                wrong = ""
    if wrong:
        raise RecordError(f"ledger {name}: {wrong}; set XDG_RUNTIME_DIR to a folder of yours", path=folder)
    tidy(folder)
    return os.path.join(folder, f"{_PREFIX}{name}-{host_id()}")


def tidy(folder: str) -> None:
    """Remove files of other boots and containers: those that no process uses."""
    host = host_id()
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            match = _FILE.fullmatch(name)
            path = os.path.join(folder, name)
            if match is not None and match[2] != host and is_abandoned(path):
                os.unlink(path)


def ledgers() -> dict[str, str]:
    """Return the files of the ledgers of this host or container, by name."""
    folder, host = runtime_directory(), host_id()
    found = {}
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            name = entry.removeprefix(_PREFIX).removesuffix(f"-{host}")
            if entry == f"{_PREFIX}{name}-{host}":
                found[name] = os.path.join(folder, entry)
    return found
