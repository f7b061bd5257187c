"""What the kernel wakes us for, so that a look need not wait for its time.

A :class:`Wakeup` is a descriptor to poll beside one's own. It says that something happened, not what: the look
that follows reads the figures. Registering changes nothing in a group and needs no group of our own.

* stalls (version 2 and the machine): a trigger in ``memory.pressure``, when tasks waited for 150 ms within 2 s.
  Without CAP_SYS_RESOURCE Linux 6.5 and later takes windows of whole 2 s, and earlier ones nothing.
* version 2: ``memory.events`` changes when the group reaches a limit, is slowed down, or somebody is killed.
* version 1: usage that passes a number of bytes either way, reclaim that gets hard, and the limit itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from memwarden.errors import ReadError
from memwarden.model.facts import CgroupMemory, Gap
from memwarden.readers.linux.cgroup import CgroupReader, locate, locate_unified
from memwarden.readers.linux.files import read_error

#: Seconds of waiting within a window of so many that wake us. In a group that thrashes 0.15 comes after a second.
STALL, WINDOW = 0.15, 2.0
#: Shares of a limit at which the level may change (see :mod:`memwarden.assess.pressure`).
SHARES = (0.70, 0.80, 0.90, 0.95)
#: Thresholds are set anew when what is wanted has moved by this share of the limit.
_SLACK = 0.02
#: The level of version 1's reclaim that wakes: work is done in vain, and caches are given up.
PRESSURE_LEVEL = "medium"

_POLLIN, _POLLPRI = getattr(select, "POLLIN", 1), getattr(select, "POLLPRI", 2)
_DEAD = getattr(select, "POLLERR", 8) | getattr(select, "POLLHUP", 16) | getattr(select, "POLLNVAL", 32)


class Wakeup(ABC):
    """A descriptor to poll for ``events``. ``name`` says what it is about, ``where`` of which file."""

    def __init__(self, name: str, where: str, fd: int, events: int) -> None:
        self.name, self.where, self.events = name, where, events
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._fd

    @abstractmethod
    def clear(self) -> bool:
        """Take note, so that the next event can wake; False when none will come any more (its group is gone)."""

    def follow(self, groups: Sequence[CgroupMemory]) -> None:  # noqa: B027 - most depend on nothing
        """Take in the groups as they are now, where the wake-up depends on them."""

    def close(self) -> None:
        """Give the descriptor back; in a child after a fork the parent's registration stands."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class StallTrigger(Wakeup):
    """Wakes when tasks waited for memory for ``stall`` seconds within ``window``. Raises :class:`ReadError`."""

    def __init__(self, path: str, name: str = "stalls", stall: float = STALL, window: float = WINDOW) -> None:
        super().__init__(name, path, _open(name, path, os.O_RDWR | os.O_NONBLOCK), _POLLPRI)
        try:
            try:
                self._arm(stall, window)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                even = min(10.0, -(-window // 2) * 2)  # all that an ordinary user is granted
                self._arm(stall * even / window, even)
        except OSError as error:
            self.close()
            failed = read_error(name, path, error)
            raise ReadError(name, path, failed.why, failed.detail) from None

    def _arm(self, stall: float, window: float) -> None:
        os.write(self._fd, b"some %d %d\0" % (round(stall * 1e6), round(window * 1e6)))

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
        # A change shows as POLLPRI and POLLERR, and so does the end of the group: reading tells them apart.
        try:
            return bool(os.pread(self._fd, 4096, 0))
        except OSError:
            return False


class GroupEvent(Wakeup):
    """Wakes by a version 1 group's ``cgroup.event_control``: for ``file`` with ``argument``.

    Raises :class:`ReadError`.
    """

    def __init__(self, directory: str, file: str, argument: str = "", name: str = "") -> None:
        super().__init__(name or file, f"{directory}/{file}", -1, _POLLIN)
        self._directory, self._file = directory, file
        self._fd = self._register((argument,))

    def _register(self, arguments: Iterable[str]) -> int:
        """A descriptor that counts each of these."""
        control = _open(self.name, f"{self._directory}/{self._file}", os.O_RDONLY)
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
        return os.path.exists(self._directory)  # the kernel tells the end of a group as an event like any


class UsageThresholds(GroupEvent):
    """Wakes when a version 1 group's usage passes one of ``values`` (bytes), upwards or downwards.

    The kernel compares with all that is charged, file cache included; :meth:`follow` therefore moves the values by
    the cache that could be dropped, and when the limit is another one. Raises :class:`ReadError`.
    """

    def __init__(self, directory: str, values: Sequence[int], path: str = "", name: str = "usage") -> None:
        self.values = tuple(sorted(values))
        self._path = path
        Wakeup.__init__(self, name, f"{directory}/memory.usage_in_bytes", -1, _POLLIN)
        self._directory, self._file = directory, "memory.usage_in_bytes"
        self._fd = self._register(map(str, self.values))

    def move(self, values: Sequence[int]) -> None:
        """Put others in their place, under the same descriptor. Raises :class:`ReadError`."""
        if self._fd < 0:
            return
        event = self._register(map(str, sorted(values)))
        os.dup2(event, self._fd, inheritable=False)  # which ends the old registration
        os.close(event)
        self.values = tuple(sorted(values))

    def follow(self, groups: Sequence[CgroupMemory]) -> None:
        for group in groups:
            if group.path == self._path and group.limit:
                values = thresholds(group)
                slack = group.limit * _SLACK
                pairs = zip(values, self.values, strict=False)
                if values and (len(values) != len(self.values) or any(abs(a - b) > slack for a, b in pairs)):
                    with contextlib.suppress(ReadError):  # the group goes: clear() will say so
                        self.move(values)


def thresholds(group: CgroupMemory, shares: Sequence[float] = SHARES) -> list[int]:
    """The usage at which the working set reaches these shares of the limit; those that the limit lies below are
    left out: there the kernel drops cache, and passes the limit back and forth while it does."""
    if not group.limit:
        return []
    return [value for share in shares if (value := int(group.limit * share) + group.reclaimable) < group.limit]


def own_wakeups(
    pid: int | None = None, *, proc: str = "/proc", sys_fs_cgroup: str = "/sys/fs/cgroup"
) -> tuple[tuple[Wakeup, ...], tuple[Gap, ...]]:
    """Everything that this machine grants for the groups of a process (this one where no pid is given), and why the
    rest is refused. The caller closes what it is given."""
    if sys.platform != "linux":
        return (), (Gap("wake-ups", sys.platform, "absent", "only Linux wakes those who wait for memory"),)
    granted: list[Wakeup] = []
    refused: list[Gap] = []

    def ask(make: Callable[..., Wakeup], *arguments: object) -> None:
        try:
            granted.append(make(*arguments))
        except ReadError as error:
            refused.append(Gap(error.what, error.where, error.why, _words(error)))

    who: int | str = "self" if pid is None else pid
    ask(StallTrigger, f"{proc}/pressure/memory", "stalls of the machine")
    ask(_stalls, who, proc, sys_fs_cgroup)
    try:
        location = locate(who, proc, sys_fs_cgroup)
        with contextlib.closing(CgroupReader(pid, proc, sys_fs_cgroup)) as reader:
            groups, _ = reader.sample()
    except ReadError as error:
        refused.append(Gap("events of the group", error.where, error.why, error.detail))
        return tuple(granted), tuple(refused)
    limited = {group.path: group for group in groups if group.limit}
    for path, directory in location.ancestors:
        if path not in limited and path != location.path:
            continue  # nothing is decided there
        if location.mount.version == 2:
            ask(EventsFile, f"{directory}/memory.events", f"events of {path}")
            continue
        if path in limited:
            ask(UsageThresholds, directory, thresholds(limited[path]), path, f"usage of {path}")
        else:
            words = "no limit stands on this group, and a threshold is a share of one"
            refused.append(Gap(f"usage of {path}", f"{directory}/memory.usage_in_bytes", "absent", words))
        ask(GroupEvent, directory, "memory.oom_control", "", f"out of memory in {path}")
        ask(GroupEvent, directory, "memory.pressure_level", PRESSURE_LEVEL, f"hard reclaim in {path}")
    return tuple(granted), tuple(refused)


def _stalls(who: int | str, proc: str, sys_fs_cgroup: str) -> Wakeup:
    try:
        location = locate_unified(who, proc, sys_fs_cgroup)
    except ReadError as error:
        raise ReadError("stalls of the group", error.where, error.why, error.detail) from None
    return StallTrigger(f"{location.directory}/memory.pressure", f"stalls of {location.path}")


def _words(error: ReadError) -> str:
    """The system's own, and the way out."""
    way = ""
    if error.what.startswith("stalls"):
        if error.why == "denied":
            way = "the file must be one that may be written; before Linux 6.5 that takes CAP_SYS_RESOURCE, too"
        elif not error.where.endswith("/cgroup") and error.why == "absent":
            way = "Linux 5.2 with CONFIG_PSI has it; where it is built in but off, boot with psi=1"
    elif error.why == "denied":
        way = "only who may write to the group can register: its owner, where /sys/fs/cgroup is writable"
    return ": ".join(filter(None, (error.detail, way)))


def _open(what: str, path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise read_error(what, path, error) from None


def _state(fd: int, events: int) -> int:
    """What poll says of a descriptor now; asking takes a trigger's event."""
    if fd < 0:
        return _DEAD
    poll = select.poll()
    poll.register(fd, events)
    return next((state for _, state in poll.poll(0)), 0)
