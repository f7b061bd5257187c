"""One connection to an SQLite file that survives forks, moved files and trouble.

SQLite keeps its locks in tables of the process (``os_unix.c``: one entry for each open file), and these come along
in a fork while the kernel's locks do not. A child that opens a file again which its parent held open believes in
locks that it has not got, and one that closes what it inherited may remove the log of the others
(https://www.sqlite.org/howtocorrupt.html, 2.6). So every connection here is closed before a fork, which waits for a
transaction under way, and is opened again when it is next used. Where that could not be waited for, or somebody
forked without Python's knowledge, the child leaves what it inherited alone for ever and refuses that file.
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

#: How long a lock of another program is waited for. Ours are held for milliseconds; the warden sets a receiver aside
#: that is busy for 10 s.
BUSY_SECONDS = 2.0
#: SQLite asks for a lock ever more rarely, up to ten times a second: beside one who writes all the time it may
#: never come by it. So it gives up early, and we ask again.
_ASK_SECONDS = 0.025
#: How long a fork waits for a transaction of another thread.
FORK_SECONDS = 1.0

_WAYS_OUT = {
    "FULL": "free some space",
    "IOERR": "see whether the disk is full or failing",
    "CORRUPT": "move it away and a new one is begun ('sqlite3 FILE .recover' may save what it holds)",
    "NOTADB": "move it away",
    "BUSY": f"another program holds it for longer than {BUSY_SECONDS:g} s: end that",
    "READONLY": "make the file and its folder writable",
    "CANTOPEN": "make the file and its folder accessible",
}
_WAYS_OUT["LOCKED"] = _WAYS_OUT["PROTOCOL"] = _WAYS_OUT["BUSY"]
_WAYS_OUT["PERM"] = _WAYS_OUT["AUTH"] = _WAYS_OUT["READONLY"]

_FileId = tuple[int, int]
#: A plain set, since it can be copied in one step while other threads add to it; a WeakSet cannot.
_databases: set[weakref.ref[SqliteConnection]] = set()
#: In a child: the files whose connections were inherited, and these, which must never be closed.
_inherited: set[_FileId] = set()
_abandoned: list[sqlite3.Connection] = []
#: Held while a file is made: closing a descriptor of a file that SQLite has open would drop SQLite's locks.
_making = threading.Lock()
#: What the thread that forks holds meanwhile.
_held: dict[int, list[threading.Lock]] = {}


def _trouble(path: str, error: Exception, otherwise: str) -> RecordError:
    """What an error of SQLite or of the system means for a record, with a way out."""
    if isinstance(error, RecordError):
        return error
    if isinstance(error, OSError):
        said, way = error.strerror or str(error), _WAYS_OUT["CANTOPEN"]
    else:
        # SQLITE_READONLY_DIRECTORY and its like are refinements of SQLITE_READONLY.
        word = str(getattr(error, "sqlite_errorname", "")).removeprefix("SQLITE_").partition("_")[0]
        said, way = str(error) or repr(error), _WAYS_OUT.get(word, "see whether the file is sound")
    return RecordError(f"record {path}: {said}; {way}, or {otherwise}", path=path)


def patiently(do: Callable[[], object]) -> None:
    """Do something that needs a lock, again and again for ``BUSY_SECONDS`` where somebody else has it."""
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

    Everything goes on inside ``with database.turn():``. What goes wrong there is raised as :class:`RecordError`,
    and the connection is given up: the next turn begins anew.
    """

    def __init__(self, path: str, prepare: Callable[[sqlite3.Connection], None], *, writes: bool) -> None:
        self.path = path
        #: Counts the forks that this object came through.
        self.generation = 0
        self._prepare, self._writes = prepare, writes
        self._otherwise = "record to another place" if writes else "read another file"
        self._db: sqlite3.Connection | None = None
        self._file: _FileId | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        _databases.add(weakref.ref(self, _databases.discard))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """For this thread alone, until the block ends."""
        self._renew()
        with self._lock:
            try:
                yield
            except BaseException as error:
                self.give_up()
                if isinstance(error, Exception):
                    trouble = _trouble(self.path, error, self._otherwise)
                    if trouble is not error:  # an error that is its own cause cannot be pickled with its causes (tblib)
                        raise trouble from error
                raise

    def connection(self) -> sqlite3.Connection:
        """The connection, within a turn; a new one where there is none or the file is no longer the same."""
        if self._db is not None:
            with contextlib.suppress(OSError):
                if _file_id(os.stat(self.path)) == self._file:
                    return self._db
            self.give_up()  # moved or removed: what is written there now, nobody would find
        try:
            import sqlite3
        except ImportError as error:
            raise RecordError(
                f"record {self.path}: this Python was built without sqlite3 ({error}); record JSON lines instead",
                path=self.path,
            ) from None
        self._file = file = self._make()
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
            isolation_level=None,  # transactions are ours to begin
            check_same_thread=False,  # the lock sees to it
        )
        self._db = db
        if not self._writes:
            db.execute("PRAGMA query_only = ON")
        self._prepare(db)
        if self._writes:
            db.execute(f"PRAGMA busy_timeout = {_ASK_SECONDS * 1000:.0f}")
        return db

    def give_up(self) -> None:
        """Close the connection, within a turn. An open transaction is rolled back."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(Exception):
                db.close()

    def _renew(self) -> None:
        if self._pid != os.getpid():
            self._leave_inherited()
            self.generation += 1
            self._pid, self._lock = os.getpid(), threading.Lock()

    def _leave_inherited(self) -> None:
        """In a child: leave the parent's connection alone; not even the end of this process may close it.

        A reference more than there is keeps the interpreter from doing so when it clears its modules.
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
            return "rw"  # who only reads, too: the last one to close tidies the log away, and must be able to
        # Where nobody may write SQLite cannot make the files that readers and writers share, and needs none.
        alone = not os.path.exists(self.path + "-wal") and not os.access(os.path.dirname(self.path), os.W_OK)
        return "ro&immutable=1" if alone else "ro"

    def _make(self) -> _FileId:
        if self._writes:
            folder = os.path.dirname(self.path)
            if not os.path.isdir(folder) and (wrong := make_private(folder)):
                raise RecordError(
                    f"record {self.path}: {wrong}; make it a folder of yours, or {self._otherwise}", path=self.path
                )
            with _making:
                with contextlib.suppress(FileExistsError):
                    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
                    os.close(os.open(self.path, flags, 0o600))
        status = os.lstat(self.path)
        if self._writes and stat.S_ISLNK(status.st_mode):  # somebody else may have laid it in a shared directory
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
            database.give_up()


def _after_fork_in_parent() -> None:
    for lock in _held.pop(threading.get_ident(), ()):
        lock.release()


def _after_fork_in_child() -> None:
    global _making
    _making = threading.Lock()
    _held.clear()
    for database in _all():
        if database._pid != os.getpid():  # else another hook has used it here already
            database._leave_inherited()
            database._lock = threading.Lock()  # the forking thread held it, and is not there to let go
            database._pid = -1  # a grandchild may get the number of an ancestor that is gone


at_fork(RECORDS, before=_before_fork, parent=_after_fork_in_parent, child=_after_fork_in_child)
