"""What of this machine a container or a guest must see so that the tests' own Python runs there."""

import os
import sys
from pathlib import Path

#: The checkout whose tests run.
REPOSITORY = Path(__file__).resolve().parents[2]

#: What is tested is this checkout, wherever an editable install may point.
SOURCE = str(REPOSITORY / "src")

#: Directories of the system that hold programs and libraries; /lib may be a link into /usr.
SYSTEM = ("/usr", "/lib", "/lib64", "/bin")

#: On sys.path by accident at most; to show them read-only would take them away from the program.
_NEVER = frozenset(["/", "/tmp", "/run", "/dev", "/proc", "/sys", "/mnt"])


def python_roots() -> list[str]:
    """Return the directories that this Python, its packages and this checkout live in.

    System directories are left out, and so is what lies below another one of the list. A virtual
    environment alone is not enough: its interpreter and standard library are in `sys.base_prefix`,
    and an editable install has its source on `sys.path`.
    """
    named = [sys.prefix, sys.base_prefix, str(REPOSITORY), *sys.path]
    named.append(os.path.dirname(os.path.realpath(sys.executable)))
    # A prefix may be reached through a link; programs ask for it by both names.
    wanted = {os.path.abspath(path) for path in named} | {os.path.realpath(path) for path in named}
    roots: list[str] = []
    for path in sorted(wanted - _NEVER):
        if os.path.isdir(path) and not any(is_below(path, root) for root in (*SYSTEM, *roots)):
            roots.append(path)
    return roots


def is_below(path: str, root: str) -> bool:
    """Say whether an absolute path is the root or lies below it."""
    return path == root or path.startswith(root + "/")
