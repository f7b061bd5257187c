"""One connection to an SQLite file that survives forks, moved files and errors.

SQLite keeps its locks in tables of the process (``os_unix.c``: one entry for each open file), which a fork copies while
the kernel's locks are not inherited. A child that opens the parent's file again relies on locks that it does not
have, and closing an inherited connection may remove the log of other processes
(https://www.sqlite.org/howtocorrupt.html, 2.6). So every connection is closed before a fork, which waits for a running
transaction, and is opened at its next use. If the wait timed out, or the fork bypassed Python, the child never touches
the inherited connection and refuses that file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from memwarden.errors import RecordError
from memwarden.process.fork_hooks import RECORDS, at_fork
from memwarden.records.paths import make_private

if TYPE_CHECKING:
    import sqlite3

#: Timeout for a lock of another program. Ours are held for milliseconds; the warden drops a recorder that is busy
#: for 10 s.
BUSY_SECONDS = 2.0
#: SQLite polls a lock ever more rarely, up to ten times a second, and may never get it beside a steady writer. So its
#: own timeout is short, and we retry.
_SQLITE_SECONDS = 0.025
#: Time that a fork waits for a transaction of another thread.
FORK_SECONDS = 1.0

_WAYS_OUT = {
    "FULL": "free some space",
    "IOERR": "see whether the disk is full or failing",
    "CORRUPT": "move it away and a new one is created ('sqlite3 FILE .recover' may save its contents)",
    "NOTADB": "move it away",
    "BUSY": f"another program has locked it for more than {BUSY_SECONDS:g} s: stop that program",
    "READONLY": "make the file and its folder writable",
    "CANTOPEN": "make the file and its folder accessible",
}
_WAYS_OUT["LOCKED"] = _WAYS_OUT["PROTOCOL"] = _WAYS_OUT["BUSY"]
_WAYS_OUT["PERM"] = _WAYS_OUT["AUTH"] = _WAYS_OUT["READONLY"]

_FileId = tuple[int, int]
#: A plain set, since it can be copied in one step while other threads add to it; a WeakSet cannot.
_databases: set[weakref.ref[SqliteConnection]] = set()
#: In a child: files with inherited connections, and these connections, which must never be closed.
_inherited: set[_FileId] = set()
_abandoned: list[sqlite3.Connection] = []
#: Held while a file is created: closing a descriptor of a file that SQLite has open would drop SQLite's locks.
_create_lock = threading.Lock()
#: Locks that the forking thread holds during the fork.
_held: dict[int, list[threading.Lock]] = {}


def _record_error(path: str, error: Exception, otherwise: str) -> RecordError:
    """Return the error of SQLite or of the system as a record error with a way out."""
    if isinstance(error, RecordError):
        return error
    if isinstance(error, OSError):
        text, way = error.strerror or str(error), _WAYS_OUT["CANTOPEN"]
    else:
        # SQLITE_READONLY_DIRECTORY and its like are refinements of SQLITE_READONLY.
        word = str(getattr(error, "sqlite_errorname", "")).removeprefix("SQLITE_").partition("_")[0]
        text, way = str(error) or repr(error), _WAYS_OUT.get(word, "check the file with 'sqlite3 FILE .dump'")
    return RecordError(f"record {path}: {text}; {way}, or {otherwise}", path=path)


def retry_while_locked(do: Callable[[], object]) -> None:
    """Call ``do``, which needs a lock, again for up to ``BUSY_SECONDS`` while another process has the lock."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            do()
            return
        except Exception as error:
            if not str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
        time.sleep(0.002)


class SqliteConnection:
    """A file and at most one connection to it; ``prepare`` is called with each new one.

    Use it inside ``with database.locked():``. Errors there are raised as :class:`RecordError` and close the
    connection; the next use opens it again.
    """

    def __init__(self, path: str, prepare: Callable[[sqlite3.Connection], None], *, writes: bool) -> None:
        self.path = path
        #: Number of forks since this object was created.
        self.generation = 0
        self._prepare, self._writes = prepare, writes
        self._otherwise = "record to another path" if writes else "read another file"
        self._db: sqlite3.Connection | None = None
        self._file: _FileId | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        _databases.add(weakref.ref(self, _databases.discard))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the connection for this thread until the block ends."""
        self._check_fork()
        with self._lock:
            try:
                yield
            except BaseException as error:
                self.disconnect()
                if isinstance(error, Exception):
                    raised = _record_error(self.path, error, self._otherwise)
                    if raised is not error:  # an error that is its own cause cannot be pickled with its causes (tblib)
                        raise raised from error
                raise

    def connection(self) -> sqlite3.Connection:
        """Return the connection, inside ``locked()``; a new one where there is none or the file was replaced."""
        if self._db is not None:
            with contextlib.suppress(OSError):
                if _file_id(os.stat(self.path)) == self._file:
                    return self._db
            self.disconnect()  # moved or removed: nothing written there would be found
        try:
            import sqlite3
        except ImportError as error:
            raise RecordError(
                f"record {self.path}: this Python was built without sqlite3 ({error}); record JSON lines instead",
                path=self.path,
            ) from None
        self._file = file = self._create()
        if file in _inherited:
            raise RecordError(
                f"record {self.path}: this process was forked while its parent wrote there; record to another file, "
                "or start workers by spawn",
                path=self.path,
            )
        db = sqlite3.connect(
            _uri(self.path, self._mode()),
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # we start transactions ourselves
            check_same_thread=False,  # the lock ensures it
        )
        self._db = db
        if not self._writes:
            db.execute("PRAGMA query_only = ON")
        self._prepare(db)
        if self._writes:
            db.execute(f"PRAGMA busy_timeout = {_SQLITE_SECONDS * 1000:.0f}")
        return db

    def disconnect(self) -> None:
        """Close the connection, inside ``locked()``. An open transaction is rolled back."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(Exception):
                db.close()

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            self._leave_inherited()
            self.generation += 1
            self._pid, self._lock = os.getpid(), threading.Lock()

    def _leave_inherited(self) -> None:
        """In a child: never close the parent's connection, not even at the end of this process.

        One extra reference keeps the interpreter from closing it when it clears its modules.
        """
        db, self._db = self._db, None
        if db is None:
            return
        assert self._file is not None
        _inherited.add(self._file)
        _abandoned.append(db)
        with contextlib.suppress(ImportError, AttributeError):
            import ctypes

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))

    def _mode(self) -> str:
        if self._writes or os.access(self.path, os.W_OK):
            return "rw"  # readers, too: the last connection to close removes the log, and must be able to
        # In a read-only folder SQLite cannot create the shared files of readers and writers, and needs none.
        immutable = not os.path.exists(self.path + "-wal") and not os.access(os.path.dirname(self.path), os.W_OK)
        return "ro&immutable=1" if immutable else "ro"

    def _create(self) -> _FileId:
        if self._writes:
            folder = os.path.dirname(self.path)
            if not os.path.isdir(folder) and (wrong := make_private(folder)):
                raise RecordError(
                    f"record {self.path}: {wrong}; make it a folder of yours, or {self._otherwise}", path=self.path
                )
            with _create_lock:
                with contextlib.suppress(FileExistsError):
                    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
                    os.close(os.open(self.path, flags, 0o600))
        status = os.lstat(self.path)
        if self._writes and stat.S_ISLNK(status.st_mode):  # another user may have created it in a shared directory
            raise RecordError(
                f"record {self.path}: is a link, and links are not followed; name the file itself", path=self.path
            )
        status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(f"record {self.path}: is no regular file; name another one", path=self.path)
        return _file_id(status)


def _file_id(status: os.stat_result) -> _FileId:
    return status.st_dev, status.st_ino


def _uri(path: str, mode: str) -> str:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    if os.name == "nt":
        quoted = "/" + quoted.replace("\\", "/")
    return f"file:{quoted}?mode={mode}"


# --- fork ---------------------------------------------------------------------------------------------


def _all() -> list[SqliteConnection]:
    return [database for each in list(_databases) if (database := each()) is not None]


def _before_fork() -> None:
    held = _held[threading.get_ident()] = []
    for database in _all():
        lock = database._lock
        if lock.acquire(timeout=FORK_SECONDS):
            held.append(lock)
            database.disconnect()


def _after_fork_in_parent() -> None:
    for lock in _held.pop(threading.get_ident(), ()):
        lock.release()


def _after_fork_in_child() -> None:
    global _create_lock
    _create_lock = threading.Lock()
    _held.clear()
    for database in _all():
        if database._pid != os.getpid():  # otherwise another hook has used it here already
            database._leave_inherited()
            database._lock = threading.Lock()  # the forking thread, which held it, does not exist in the child
            database._pid = -1  # a grandchild may get the pid of an ended ancestor


at_fork(RECORDS, before=_before_fork, parent=_after_fork_in_parent, child=_after_fork_in_child)
