"""A folder for what is not finished, removed at the end; what a killed program left is removed by the next one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

from memwarden.errors import RecordError

_PREFIX = ".memwarden-map-"


class StagingDirectory:
    """A folder of our own below ``parent``, locked for as long as we or who was forked from us lives.

    Raises :class:`RecordError` where none can be made.
    """

    def __init__(self, parent: str) -> None:
        tidy(parent)
        try:
            while True:
                self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with contextlib.suppress(OSError):  # a file system without locks: nobody else can have one, either
                    _lock(self._fd)
                if os.path.isdir(self.path):
                    return
                os.close(self._fd)  # another one that began took it for left behind
        except OSError as error:
            raise RecordError(f"{parent}: {error.strerror or error}; no room for output", path=parent) from None

    def __enter__(self) -> StagingDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def tidy(parent: str) -> None:
    """Remove what programs of this user left below ``parent`` when they were killed."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                with contextlib.suppress(OSError):  # somebody is at work in it
                    fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        _lock(fd)
                        shutil.rmtree(entry.path, ignore_errors=True)
                    finally:
                        os.close(fd)


def _lock(fd: int) -> None:
    import fcntl  # not on Windows

    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
