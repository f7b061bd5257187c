"""Memory groups of our own: their place, their ownership, and their removal.

A group is created only where no limit is escaped and no other accounting is disturbed: below a group given by name,
at the top of the mounted hierarchy (on a host the root, in a container the container's own group), or, if our own
path has a limit below that, below our own group. In version 2 a group with processes cannot delegate memory; then
the next one above serves, up to the one with the limit.

The creator of a group holds a lock (``flock``) on its directory for life, so a group that can be locked was left by
a monitor that was killed. This works across pid namespaces, where pids mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

from memwarden.contain.kernel import key_of, send
from memwarden.errors import ActionFailed, CeilingUnavailable, ReadError
from memwarden.model.facts import ProcessKey
from memwarden.readers.linux.cgroup import CgroupReader, keyed_number, locate
from memwarden.readers.linux.files import read_once

PARENT = "memwarden"


def write(directory: str, name: str, value: str) -> None:
    """Write a control file. Raises OSError."""
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(directory: str, name: str) -> bytes:
    """Return the content of a control file. Raises :class:`ReadError`."""
    return read_once(name, f"{directory}/{name}")


def counter(directory: str, name: str, key: bytes) -> int:
    """Return the number after ``key`` in a file of lines; 0 if there is none, or no such file."""
    try:
        return keyed_number(read(directory, name), key, f"{directory}/{name}") or 0
    except ReadError:
        return 0


def parent_for(version: int, given: str | None) -> str:
    """Return the directory in which a group with a limit may be created. Raises :class:`CeilingUnavailable`."""
    parent = _parent_for(version, given)
    if version == 2:
        try:
            delegated = hands_memory_down(parent)
        except ReadError as error:
            raise CeilingUnavailable(str(error)) from None
        if not delegated:
            raise CeilingUnavailable(
                f"{parent} does not delegate the memory controller (cgroup.subtree_control), and memwarden does not "
                "change groups that it did not create; name a delegated group with --cgroup"
            )
        _need_entry(parent)
    return parent


def _parent_for(version: int, given: str | None) -> str:
    try:
        location = locate()
    except ReadError as error:
        raise CeilingUnavailable(f"no memory controller is visible: {error}") from None
    if location.mount.version != version:
        raise CeilingUnavailable(f"the memory controller is on cgroup version {location.mount.version} here")
    if given is not None:
        if not os.path.isfile(os.path.join(given, "cgroup.procs")):
            raise CeilingUnavailable(f"--cgroup {given}: not a control group")
        return os.path.abspath(given)
    below_top = location.ancestors[:-1]
    if version == 1:
        return location.directory if _limited(below_top) else location.mount.point
    if not any(_limits(directory) for _, directory in below_top):
        return location.mount.point
    for _, directory in below_top:
        if hands_memory_down(directory):
            return directory
        if _limits(directory):
            break  # above it that limit would be escaped
    return location.directory


def _limited(below_top: list[tuple[str, str]]) -> bool:
    paths = {path for path, _ in below_top}
    with contextlib.closing(CgroupReader()) as reader:
        groups, _ = reader.sample()
    return any(group.limit is not None and group.path in paths for group in groups)


def _limits(directory: str) -> bool:
    """Return whether a version 2 group limits memory (``memory.high`` included)."""
    for name in ("memory.max", "memory.high"):
        with contextlib.suppress(ReadError):
            if not read(directory, name).startswith(b"max"):
                return True
    return False


def hands_memory_down(directory: str) -> bool:
    """Return whether groups below a version 2 group can have limits. Raises :class:`ReadError` if it is absent."""
    return b"memory" in read(directory, "cgroup.subtree_control").split()


def _need_entry(parent: str) -> None:
    """Raise :class:`CeilingUnavailable` if a process of ours may not be moved below ``parent`` (version 2).

    The kernel requires write access to ``cgroup.procs`` of the nearest common ancestor of source and destination.
    """
    try:
        location = locate()
    except ReadError:
        return
    shared = os.path.commonpath([location.directory, os.path.realpath(parent)])
    procs = f"{shared}/cgroup.procs"
    if os.path.exists(procs) and not os.access(procs, os.W_OK, effective_ids=True):
        raise CeilingUnavailable(
            f"a process from {location.directory} may not enter a group below {parent}: {procs} cannot be written;"
            " start memwarden inside a group that was delegated to you, and name that with --cgroup"
        )


class OwnCgroup:
    """A group that we created, locked, and remove. ``path`` is its directory."""

    def __init__(self, parent: str) -> None:
        """Create a group below ``parent``/memwarden. Raises :class:`CeilingUnavailable`."""
        if fcntl is None:
            raise CeilingUnavailable("this system has no file locks, without which a group cannot be created safely")
        top = os.path.join(parent, PARENT)
        self._lock = -1
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(top)
            sweep(top)
            for number in range(100):
                self.path = os.path.join(top, f"run-{os.getpid()}-{time.monotonic_ns()}-{number}")
                os.mkdir(self.path)
                if self._take():
                    return
            raise CeilingUnavailable(f"{top}: groups created there vanish at once")
        except OSError as error:
            raise CeilingUnavailable(f"no group can be created in {parent}: {error.strerror}") from None

    def _take(self) -> bool:
        """Lock the group; False if a sweep removed it between creation and locking."""
        try:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if os.path.isdir(self.path):
            return True
        os.close(self._lock)
        return False

    def pids(self) -> list[int]:
        """Return the pids in this group and in groups below it."""
        return group_pids(self.path)

    def members(self) -> list[ProcessKey]:
        """Return the same with start times, without those that exit meanwhile."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(ReadError):
                found.append(key_of(pid))
        return found

    def kill(self) -> None:
        """Send SIGKILL to each member that is there now."""
        for key in self.members():
            # Still in the group after its start time was read: it is a member, whatever had its pid before.
            if key.pid in self.pids():
                with contextlib.suppress(ActionFailed):
                    send(key, signal.SIGKILL)

    def close(self, patience: float = 1.0) -> bool:
        """Remove the group; False if it is not empty (a later start removes it)."""
        until = time.monotonic() + patience
        while os.path.isdir(self.path):
            try:
                _remove(self.path)
            except OSError:
                # A killed process leaves its group a moment after its parent could reap it.
                if time.monotonic() > until or self.pids():
                    break
                time.sleep(0.005)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        gone = not os.path.isdir(self.path)
        if gone:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self.path))  # fails while another monitor has a group there
        return gone


def group_pids(path: str) -> list[int]:
    """Return the pids in a group and below it; none if it is gone."""
    pids: list[int] = []
    for directory, _, files in os.walk(path):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                pids += [int(line) for line in file]
    return pids


def _remove(path: str) -> None:
    for directory, _, _ in os.walk(path, topdown=False):
        os.rmdir(directory)


def sweep(top: str) -> list[str]:
    """Remove groups that a killed monitor left; return those that still have processes.

    Such a group is thawed and gets the kernel's OOM killer back, so that nothing in it waits for a monitor forever.
    """
    occupied = []
    with contextlib.suppress(OSError):
        for entry in os.listdir(top):
            path = os.path.join(top, entry)
            if not entry.startswith("run-") or not os.path.isdir(path):
                continue
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if group_pids(path):
                    occupied.append(path)
                    for name in ("memory.oom_control", "cgroup.freeze"):
                        if os.path.exists(f"{path}/{name}"):
                            write(path, name, "0")
                else:
                    _remove(path)
            except OSError:
                pass  # locked: its creator lives
            finally:
                os.close(fd)
    return occupied
