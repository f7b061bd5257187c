"""Another system's Python, as far as a Linux machine can play it.

``python elsewhere.py win32 tests/unit …`` runs pytest in a process that is made as poor as Windows' Python once the
tests' own tools are imported. What it proves: no module and no test needs a name that only Linux has. What it does
not: anything that macOS and Windows do in another way (paths, permissions, files that are open, what psutil tells).
"""

from __future__ import annotations

import importlib
import sys

#: Makes a POSIX system look as poor as another one, once the standard library is there: modules and names that the
#: other one does not have are gone, and psutil, which chose its platform when it was imported, goes on reading this
#: machine. What Windows lacks is what the standard library's documentation calls "Unix" or names systems without it.
POOR = """
import asyncio, getpass, inspect, json, logging, os, pathlib, queue, select, shutil, signal, socket, sqlite3
import subprocess, sys, tempfile, threading, time, importlib.resources, psutil
try:
    import click, click._termui_impl
except ImportError:
    pass
for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "posix", "syslog"):
    sys.modules[name] = None
sys.platform = PLATFORM
LINUX = ("pidfd_open", "eventfd", "EFD_", "memfd_create", "prlimit", "sched_", "pipe2", "waitid", "P_PID", "P_ALL",
         "posix_fallocate", "splice", "getxattr", "SCHED_", "O_PATH", "O_DIRECT", "O_TMPFILE")
UNIX = ("O_CLOEXEC", "O_NOFOLLOW", "O_NOCTTY", "O_NONBLOCK", "O_SYNC", "O_ASYNC", "O_NDELAY", "pread", "pwrite",
        "getuid", "geteuid", "getgid", "getegid", "getgroups", "getpgrp", "getpgid", "setpgid", "setsid", "getsid",
        "sysconf", "fork", "register_at_fork", "WNOHANG", "WEXITED", "WNOWAIT", "WIF", "WSTOP", "WTERM", "tcgetpgrp",
        "tcsetpgrp", "ctermid", "uname", "killpg", "nice", "setpriority", "getpriority", "PRIO_", "statvfs",
        "fstatvfs", "fchmod", "fchown", "chown", "lchown", "mkfifo", "mknod", "getloadavg", "posix_", "wait3",
        "wait4", "sendfile", "readv", "writev", "fpathconf", "pathconf", "confstr", "initgroups", "chroot", "openpty")
SIGNALS = ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV", "SIG_DFL", "SIG_IGN", "signal")
gone = LINUX + UNIX + ("O_DIRECTORY",) if PLATFORM == "win32" else LINUX
for name in [name for name in vars(os) if name.startswith(gone)]:
    delattr(os, name)
if PLATFORM == "win32":
    for name in [name for name in vars(signal) if name.startswith(("SIG", "pthread_", "sig", "pidfd", "alarm"))]:
        if name not in SIGNALS:
            delattr(signal, name)
    del time.tzset
    import selectors  # chooses its way when it is imported
    selectors.DefaultSelector = selectors.SelectSelector
    for name in ("poll", "epoll", "EPOLLIN", "POLLIN", "POLLPRI", "PIPE_BUF"):
        delattr(select, name)
else:
    for name in ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo"):
        delattr(signal, name)
    del select.epoll
"""

#: The systems to try: elsewhere the real one, as it is.
OTHERS = ["darwin", "win32"] if sys.platform == "linux" else [sys.platform]
if sys.platform != "linux":
    POOR = POOR.partition("for name in")[0]


#: What chooses its system when it is imported has to have chosen this one.
TOOLS = (
    "concurrent.futures", "ctypes.util", "http.client", "hypothesis", "multiprocessing", "pathlib", "urllib.request",
    "zipfile", "zoneinfo",
)  # fmt: skip


def main(platform: str, *arguments: str) -> int:
    """Pytest with these arguments, on that system; returns its exit code."""
    import pytest

    class Elsewhere:
        def pytest_collection(self) -> None:
            for name in TOOLS:
                importlib.import_module(name)
            exec(POOR, {"PLATFORM": platform})

    # The other way to keep time needs SIGALRM.
    return int(pytest.main(["--timeout-method=thread", *arguments], plugins=[Elsewhere()]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
