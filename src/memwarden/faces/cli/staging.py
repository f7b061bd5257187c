"""A temporary folder for incomplete output; the next program removes what a killed one left."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

from memwarden.errors import RecordError

_PREFIX = ".memwarden-map-"


class StagingDirectory:
    """A new folder below ``parent``, locked while this process or one forked from it lives.

    Raises :class:`RecordError` where it cannot be made.
    """

    def __init__(self, parent: str) -> None:
        remove_abandoned(parent)
        try:
            while True:
                self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with contextlib.suppress(OSError):  # a file system without locks
                    _lock(self._fd)
                if os.path.isdir(self.path):
                    return
                os.close(self._fd)  # another program has just taken it for abandoned
        except OSError as error:
            raise RecordError(f"{parent}: {error.strerror or error}; no output can be written", path=parent) from None

    def __enter__(self) -> StagingDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def remove_abandoned(parent: str) -> None:
    """Remove the folders of this user's killed programs below ``parent``."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                with contextlib.suppress(OSError):  # in use
                    fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        _lock(fd)
                        shutil.rmtree(entry.path, ignore_errors=True)
                    finally:
                        os.close(fd)


def _lock(fd: int) -> None:
    import fcntl  # not on Windows

    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
