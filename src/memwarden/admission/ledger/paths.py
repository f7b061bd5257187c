"""Where the processes of one user in one host or container meet: a file below the user's runtime directory."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from collections.abc import Mapping

from memwarden.admission.ledger.reservation_file import boot, is_abandoned
from memwarden.errors import ReadError, RecordError
from memwarden.process.namespaces import namespace
from memwarden.readers.linux.cgroup import locate
from memwarden.records.paths import make_private, state_directory

_PREFIX = "ledger-"
#: A ledger's name, where it belongs, and a bell's ticket.
_FILE = re.compile(r"ledger-(.+)-([0-9a-f]{8})(\.[0-9a-f]+)?")


def runtime_directory(environment: Mapping[str, str] | None = None) -> str:
    """This user's directory for what does not outlive the machine's boot (not made yet).

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


def group_word() -> str:
    """Which host or container this is: its boot, its namespace of groups, and the group at the top of what it sees."""
    try:
        top = locate().mount.root
    except ReadError:
        top = ""
    words = f"{boot()} {namespace('cgroup')} {top}"
    return f"{zlib.crc32(words.encode()):08x}"


def ledger_path(name: str) -> str:
    """The file of a ledger; its folder is made, for this user alone. Raises :class:`RecordError`."""
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
    return os.path.join(folder, f"{_PREFIX}{name}-{group_word()}")


def tidy(folder: str) -> None:
    """Remove what other boots and containers left: files in which nobody takes part, and bells without a file."""
    word = group_word()
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            match = _FILE.fullmatch(name)
            if match is None or match[2] == word:
                continue
            path = os.path.join(folder, name)
            bell = match[3]
            if (is_abandoned(path)) if bell is None else (not os.path.exists(path.removesuffix(bell))):
                os.unlink(path)


def ledgers() -> dict[str, str]:
    """The files of the ledgers that there are here, by name."""
    folder, word = runtime_directory(), group_word()
    found = {}
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            name = entry.removeprefix(_PREFIX).removesuffix(f"-{word}")
            if entry == f"{_PREFIX}{name}-{word}":
                found[name] = os.path.join(folder, entry)
    return found
