"""A real cgroup v2 memory controller on any machine: a Linux kernel run as an ordinary process.

The guest (user-mode Linux, fetched by scripts/system.sh) sees this machine's files read-only, so
that the tests' own interpreter and checkout run in it unchanged, as root, with a cgroup v2
hierarchy, mounts and processes of its own. /tmp, /run, /mnt and /dev/shm are its own memory. It
needs no root on this machine.

    def test_ceiling(guest: Guest) -> None:
        result = guest.python("import os; print(os.listdir('/sys/fs/cgroup'))")
        assert result.returncode == 0, result.output

Not covered: PSI (the kernel is built without: `memory.pressure` is absent), more than one
processor, a network beyond loopback.
"""

import contextlib
import os
import platform
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support import without_xstate
from support.host import REPOSITORY, SOURCE, is_below, python_roots

_UML = REPOSITORY / ".cache" / "uml"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Set in the guest, so that a program may know where it is.
IN_GUEST = "MEMWARDEN_TEST_GUEST"

#: Directories of the guest that are memory instead of this machine's files.
_TMPFS = ("/dev/shm", "/run", "/mnt", "/tmp")


class GuestUnavailable(Exception):
    """This machine cannot run a guest; the message is the reason, in one line."""


class GuestError(Exception):
    """The guest ended without running the command to its end; the message has its console."""


@dataclass(frozen=True, slots=True)
class GuestResult:
    """How a command in the guest ended: 128 + n as the code stands for signal n.

    `output` is stdout and stderr as they came.
    """

    returncode: int
    output: str


@dataclass(frozen=True, slots=True)
class Guest:
    """The parts of a guest, found once. Each `run` boots it (about 2 s) and powers it off."""

    kernel: str
    busybox: str

    @classmethod
    def find(cls) -> Self:
        """Return what a guest needs, or raise `GuestUnavailable` with what is missing."""
        if platform.machine() != "x86_64":
            raise GuestUnavailable(f"user-mode Linux is not for {platform.machine()}")
        kernel = _UML / "linux.uml"
        busybox = shutil.which("busybox", path=f"{_PATH}:{_UML}")
        for part, path in (("kernel", kernel), ("busybox", busybox)):
            if path is None or not os.access(path, os.X_OK):
                raise GuestUnavailable(f"the guest's {part} is missing (see scripts/system.sh)")
        return cls(str(kernel), str(busybox))

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 60,
        *,
        memory_mib: int = 512,
        swap_mib: int = 0,
        env: Mapping[str, str] | None = None,
        cwd: str = str(REPOSITORY),
    ) -> GuestResult:
        """Run a command as root in a freshly booted guest that has `+memory` in its root group.

        With `swap_mib` the guest has a swap device, for `memory.swap.*`. Raises TimeoutError, with
        the output until then, when the guest has not powered off in time.
        """
        with _folder() as folder:
            out = folder / "out"
            out.mkdir()
            variables = {
                "PATH": _PATH,
                "HOME": "/tmp",
                "LANG": "C.UTF-8",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": SOURCE,
                IN_GUEST: "1",
                **(env or {}),
            }
            options = []
            if without_xstate.is_needed():
                name, _, value = without_xstate.NO_AVX.partition("=")
                variables[name] = value
                options = [without_xstate.NO_AVX]  # the kernel hands it to its first program
            init = folder / "init"
            init.write_text(self._init(argv, variables, cwd, out))
            init.chmod(0o755)
            options += [f"mem={memory_mib}M", "rootfstype=hostfs", "rootflags=/", "ro"]
            options += [f"init={init}", "quiet", "con=null", "con0=null,fd:1", "ssl=null"]
            options += ["umid=guest", f"uml_dir={folder}/"]
            if swap_mib:
                swap = folder / "swap"
                swap.touch()
                os.truncate(swap, swap_mib << 20)
                options += [f"ubd0={swap}"]
            in_time = self._boot(options, folder, memory_mib, timeout_s)
            console = (folder / "console").read_text(errors="replace")
            output, code = out / "output", out / "returncode"
            written = output.read_text(errors="replace") if output.exists() else ""
            if not in_time:
                raise TimeoutError(f"guest still runs after {timeout_s} s: {written or console}")
            if not code.exists():
                raise GuestError(f"the guest ended early: {console}{written}")
            return GuestResult(int(code.read_text()), written)

    def python(self, code: str, timeout_s: float = 60, **options: Any) -> GuestResult:
        """Run Python source in the guest with the tests' own interpreter."""
        return self.run([sys.executable, "-c", code], timeout_s, **options)

    def pytest(self, *arguments: str, timeout_s: float = 110, **options: Any) -> GuestResult:
        """Run the project's own pytest in the guest.

        Name the files guest_*.py: pytest outside does not collect these on its own, and takes
        them inside because they are named.

            result = guest.pytest("tests/live/guest_cgroup2.py")
            assert result.returncode == 0, result.output
        """
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return self.run(argv, timeout_s, **options)

    def _init(self, argv: Sequence[str], variables: Mapping[str, str], cwd: str, out: Path) -> str:
        """Return the guest's first program: it mounts, runs the command and powers off.

        All by busybox, since the mount and poweroff of util-linux and systemd fail in this kernel.
        """
        quote, busybox = shlex.quote, shlex.quote(self.busybox)
        hidden = [path for path in python_roots() if any(is_below(path, top) for top in _TMPFS)]
        settings = " ".join(quote(f"{name}={value}") for name, value in variables.items())
        return "\n".join(
            [
                f"#!{self.busybox} sh",
                f"b={busybox}",
                "$b mount -t proc proc /proc",
                "$b mount -t sysfs sysfs /sys",
                "$b mkdir -p /dev/shm /dev/pts",
                "$b mount -t devpts devpts /dev/pts",
                "$b ln -s /proc/self/fd /dev/fd",
                *[f"$b mount -t tmpfs tmpfs {path}" for path in _TMPFS],
                "$b chmod 1777 /tmp /dev/shm",
                # A checkout below /tmp would be hidden by now.
                *[
                    f"$b mkdir -p {quote(path)}; $b mount -t hostfs -o {quote('ro,' + path)} none {quote(path)}"
                    for path in hidden
                ],
                f"$b mkdir /mnt/out; $b mount -t hostfs -o {quote(str(out))} none /mnt/out",
                "$b mount -t cgroup2 cgroup2 /sys/fs/cgroup",
                "echo +memory > /sys/fs/cgroup/cgroup.subtree_control",
                "$b ip link set lo up",
                "[ ! -e /dev/ubda ] || { $b mkswap /dev/ubda && $b swapon /dev/ubda; } >/dev/null",
                f"cd {quote(cwd)}",
                f"$b env -i {settings} {shlex.join(argv)} </dev/null >/mnt/out/output 2>&1",
                "echo $? > /mnt/out/returncode",
                "$b poweroff -f",
                "",
            ]
        )

    def _boot(self, options: Sequence[str], folder: Path, memory_mib: int, timeout_s: float) -> bool:
        """Run the kernel until it powers off; end it and return False when that takes too long."""
        # The guest's memory is a deleted file there; a /dev/shm of 64 MiB, as in containers, would
        # end in a bus error.
        place = "/dev/shm"
        with contextlib.suppress(OSError):
            free = os.statvfs(place)
            if free.f_bavail * free.f_frsize < memory_mib << 20:
                place = str(folder)
        argv = [self.kernel, *options]
        if without_xstate.is_needed():
            argv = [sys.executable, "-I", without_xstate.__file__, *argv]
        if shutil.which("setpriv"):
            # When this process is killed, the guest gets TERM; KILL would orphan its programs.
            argv = ["setpriv", "--pdeathsig", "TERM", "--", *argv]
        with open(folder / "console", "wb") as console:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "TMPDIR": place},
                start_new_session=True,
            )
            ended = False
            try:
                ended = _ended(process.pid, timeout_s)
            finally:
                # The guest's programs run in processes of this machine, which the guest's kernel
                # holds by ptrace: on TERM it ends them; killed, it would leave them running.
                if not ended:
                    process.terminate()
                    _ended(process.pid, 5)
                # Not yet waited for, so that the group's number is certainly still ours.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return ended


def run_in_guest(argv: Sequence[str], timeout_s: float = 60, memory_mib: int = 512) -> GuestResult:
    """Run a command in a guest, without the fixture; see `Guest.run`."""
    return Guest.find().run(argv, timeout_s, memory_mib=memory_mib)


def _ended(pid: int, timeout_s: float) -> bool:
    """Wait for the end of a child without taking its exit status, so that its number stays ours."""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(handle)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for one run, gone after it. Below /tmp, because the kernel's options are short."""
    with tempfile.TemporaryDirectory(prefix="mw-guest-", dir="/tmp") as name:
        yield Path(name)
