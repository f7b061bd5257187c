"""Kernel notifications that start a sample before its time.

A :class:`Wakeup` is a descriptor to poll. It reports that something happened, not what: the sample that follows reads
the figures. Registering changes nothing in a group and needs no group of our own.

* stalls (version 2 and the machine): a trigger in ``memory.pressure``, when tasks waited for 150 ms within 2 s.
  Without CAP_SYS_RESOURCE Linux 6.5 and later accepts windows of whole 2 s, earlier versions none.
* version 2: ``memory.events`` changes when the group reaches a limit, is throttled, or a process is killed.
* version 1: usage that crosses a number of bytes either way, reclaim under pressure, and the limit itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from memwarden.errors import ReadError
from memwarden.model.facts import CgroupMemory, Gap
from memwarden.readers.linux.cgroup import CgroupReader, locate, locate_unified
from memwarden.readers.linux.files import read_error

#: Seconds of waiting within 2 s that wake; a thrashing group reaches them after about a second.
STALL = 0.15
#: Shares of a limit at which the pressure level may change (see :mod:`memwarden.assess.pressure`).
SHARES = (0.70, 0.80, 0.90, 0.95)
#: Thresholds are registered again when they have moved by this share of the limit.
_SLACK = 0.02
#: Reclaim pressure of version 1 that wakes: caches are evicted, and reclaim makes little progress.
PRESSURE_LEVEL = "medium"

_POLLIN, _POLLPRI = getattr(select, "POLLIN", 1), getattr(select, "POLLPRI", 2)
_DEAD = getattr(select, "POLLERR", 8) | getattr(select, "POLLHUP", 16) | getattr(select, "POLLNVAL", 32)


class Wakeup(ABC):
    """A descriptor to poll for ``events``; ``name`` and the file ``where`` describe it."""

    def __init__(self, name: str, where: str, fd: int, events: int) -> None:
        self.name, self.where, self.events = name, where, events
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, -1 when closed."""
        return self._fd

    @abstractmethod
    def clear(self) -> bool:
        """Acknowledge, so that the next event can wake; False when none can come any more (its group is gone)."""

    def follow(self, groups: Sequence[CgroupMemory]) -> None:  # noqa: B027 - most do not depend on them
        """Adjust to the groups as they are now, where the wakeup depends on them."""

    def close(self) -> None:
        """Close the descriptor; in a child after fork the parent's registration stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class StallTrigger(Wakeup):
    """Wakes when tasks waited for memory for ``stall`` seconds within 2 s. Raises :class:`ReadError`."""

    def __init__(self, path: str, name: str = "stalls", stall: float = STALL) -> None:
        super().__init__(name, path, _open(name, path, os.O_RDWR | os.O_NONBLOCK), _POLLPRI)
        try:
            os.write(self._fd, b"some %d 2000000\0" % round(stall * 1e6))
        except OSError as error:
            self.close()
            raise read_error(name, path, error) from None

    def clear(self) -> bool:
        return not _state(self._fd, self.events) & _DEAD


class EventsFile(Wakeup):
    """Wakes when a version 2 group's file of counters (``memory.events``) changes. Raises :class:`ReadError`."""

    def __init__(self, path: str, name: str = "events") -> None:
        super().__init__(name, path, _open(name, path, os.O_RDONLY), _POLLPRI)
        if not self.clear():  # read once: until then it always counts as changed
            self.close()
            raise ReadError(name, path, "gone", "the group was removed")

    def clear(self) -> bool:
        # A change shows as POLLPRI and POLLERR, and so does the removal of the group: a read fails after that only.
        try:
            return bool(os.pread(self._fd, 4096, 0))
        except OSError:
            return False


class GroupEvent(Wakeup):
    """Wakes by a version 1 group's ``cgroup.event_control``: for ``file`` with each of ``arguments``.

    Raises :class:`ReadError`.
    """

    def __init__(self, directory: str, file: str, arguments: Sequence[str] = ("",), name: str = "") -> None:
        super().__init__(name or file, f"{directory}/{file}", -1, _POLLIN)
        self._directory = directory
        self._fd = self._register(arguments)

    def _register(self, arguments: Iterable[str]) -> int:
        """Return a descriptor that counts the events of these arguments."""
        control = _open(self.name, self.where, os.O_RDONLY)
        try:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                registry = os.open(f"{self._directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    for argument in arguments:
                        os.write(registry, f"{event} {control} {argument}".rstrip().encode())
                finally:
                    os.close(registry)
            except OSError:
                os.close(event)
                raise
            return event
        except OSError as error:
            raise read_error(self.name, self.where, error) from None
        finally:
            os.close(control)

    def clear(self) -> bool:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return os.path.exists(self._directory)  # the removal of a group is an event, too


class UsageThresholds(GroupEvent):
    """Wakes when a version 1 group's usage crosses one of ``values`` (bytes), upwards or downwards.

    The kernel compares all that is charged, file cache included; so :meth:`follow` moves the values by the reclaimable
    cache, and when the limit changes. Raises :class:`ReadError`.
    """

    def __init__(self, directory: str, values: Sequence[int], path: str = "", name: str = "usage") -> None:
        self.values = tuple(sorted(values))
        self._path = path
        super().__init__(directory, "memory.usage_in_bytes", [*map(str, self.values)], name)

    def move(self, values: Sequence[int]) -> None:
        """Replace the values under the same descriptor. Raises :class:`ReadError`."""
        if self._fd < 0:
            return
        event = self._register(map(str, sorted(values)))
        os.dup2(event, self._fd, inheritable=False)  # which drops the old registration
        os.close(event)
        self.values = tuple(sorted(values))

    def follow(self, groups: Sequence[CgroupMemory]) -> None:
        for group in groups:
            if group.path == self._path and group.limit:
                values = thresholds(group)
                slack = group.limit * _SLACK
                pairs = zip(values, self.values, strict=False)
                if values and (len(values) != len(self.values) or any(abs(a - b) > slack for a, b in pairs)):
                    with contextlib.suppress(ReadError):  # the group was removed: clear() will report it
                        self.move(values)


def thresholds(group: CgroupMemory) -> list[int]:
    """Return the usages at which the working set reaches :data:`SHARES` of the limit.

    Usages above the limit are left out: there the kernel drops cache, and crosses the limit back and forth.
    """
    if not group.limit:
        return []
    return [value for share in SHARES if (value := int(group.limit * share) + group.reclaimable) < group.limit]


def own_wakeups(
    pid: int | None = None, *, proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup"
) -> tuple[tuple[Wakeup, ...], tuple[Gap, ...]]:
    """Return all wakeups that this machine grants for the groups of a process (by default this one), and a gap for
    each that it refuses. The caller closes the wakeups."""
    if sys.platform != "linux":
        return (), (Gap("wake-ups", sys.platform, "absent", "memory wakeups need Linux"),)
    granted: list[Wakeup] = []
    refused: list[Gap] = []

    def ask(make: Callable[..., Wakeup], *arguments: object) -> None:
        try:
            granted.append(make(*arguments))
        except ReadError as error:
            refused.append(Gap(error.what, error.where, error.why, _detail(error)))

    process: int | str = "self" if pid is None else pid
    ask(StallTrigger, f"{proc}/pressure/memory", "stalls of the machine")
    ask(_stalls, process, proc, sys_fs_cgroup)
    try:
        location = locate(process, proc, sys_fs_cgroup)
        with contextlib.closing(CgroupReader(pid, proc, sys_fs_cgroup)) as reader:
            groups, _ = reader.sample()
    except ReadError as error:
        refused.append(Gap("events of the group", error.where, error.why, error.detail))
        return tuple(granted), tuple(refused)
    limited = {group.path: group for group in groups if group.limit}
    for path, directory in location.ancestors:
        if path not in limited and path != location.path:
            continue  # no limit, so no verdict depends on it
        if location.mount.version == 2:
            ask(EventsFile, f"{directory}/memory.events", f"events of {path}")
            continue
        if path in limited:
            ask(UsageThresholds, directory, thresholds(limited[path]), path, f"usage of {path}")
        else:
            detail = "the group has no limit, and a threshold is a share of one"
            refused.append(Gap(f"usage of {path}", f"{directory}/memory.usage_in_bytes", "absent", detail))
        ask(GroupEvent, directory, "memory.oom_control", ("",), f"out of memory in {path}")
        ask(GroupEvent, directory, "memory.pressure_level", (PRESSURE_LEVEL,), f"hard reclaim in {path}")
    return tuple(granted), tuple(refused)


def _stalls(process: int | str, proc: str, sys_fs_cgroup: str) -> Wakeup:
    try:
        location = locate_unified(process, proc, sys_fs_cgroup)
    except ReadError as error:
        raise ReadError("stalls of the group", error.where, error.why, error.detail) from None
    return StallTrigger(f"{location.directory}/memory.pressure", f"stalls of {location.path}")


def _detail(error: ReadError) -> str:
    """Return the system's message and the way out."""
    way = ""
    if error.what.startswith("stalls"):
        if error.why == "denied":
            way = "the file must be writable; before Linux 6.5 CAP_SYS_RESOURCE is needed, too"
        elif not error.where.endswith("/cgroup") and error.why == "absent":
            way = "Linux 5.2 with CONFIG_PSI has it; where it is built in but off, boot with psi=1"
    elif error.why == "denied":
        way = "registering needs write access to the group: its owner has it where /sys/fs/cgroup is writable"
    return ": ".join(filter(None, (error.detail, way)))


def _open(what: str, path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise read_error(what, path, error) from None


def _state(fd: int, events: int) -> int:
    """Return the poll events of a descriptor now; this consumes a trigger's event."""
    if fd < 0:
        return _DEAD
    poll = select.poll()
    poll.register(fd, events)
    return next((state for _, state in poll.poll(0)), 0)
