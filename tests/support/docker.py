"""A private Docker engine for tests: its own namespaces, socket, data and cgroups.

The engine is a direct child of the test process and changes nothing on the machine: no bridge, no
iptables, no image from a registry. Its one image is empty; a container shows the host's programs
and this checkout read-only, so that the tests' own interpreter runs under a container's limits.

    def test_limit(docker: Docker) -> None:
        result = docker.run([sys.executable, "-c", "print(1)"], memory=64 << 20)
        assert (result.returncode, result.stdout) == (0, "1\\n")

Not covered: networks (containers have none), images and builds, volumes.
"""

import contextlib
import glob
import http.client
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support.host import REPOSITORY, SOURCE, SYSTEM, python_roots

_IMAGE = "memwarden-test/host:1"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


# Privileged containers would have writable cgroups, but start only where no capability is missing.
_MAY_REMOUNT = {"CapAdd": ["SYS_ADMIN"], "SecurityOpt": ["apparmor=unconfined"]}
_WRITABLE_GROUPS = [
    "sh",
    "-c",
    "for g in /sys/fs/cgroup /sys/fs/cgroup/*; do"
    ' [ -L "$g" ] || mount -o remount,bind,rw "$g" 2>/dev/null; done; exec "$@"',
    "sh",
]

_serial = itertools.count(1)


class DockerUnavailable(Exception):
    """This machine cannot run an engine; the message is the reason, in one line."""


class DockerError(Exception):
    """The engine did not start, or answered a request with an error."""


@dataclass(frozen=True, slots=True)
class ContainerResult:
    """How a container ended. 128 + n as the code stands for signal n, so 137 for the OOM killer."""

    returncode: int
    stdout: str
    stderr: str
    oom_killed: bool


class Container:
    """A started container; `Docker.start` makes it and removes it."""

    def __init__(self, engine: "Docker", container_id: str) -> None:
        self._engine = engine
        self.id = container_id
        #: The cgroup of the container as the host names it, in every v1 hierarchy or in the v2 one.
        self.cgroup = f"/{engine.cgroup_parent}/{container_id}"

    @property
    def pid(self) -> int:
        """The first process of the container, as the host numbers it; 0 once it has ended."""
        return int(self.inspect()["State"]["Pid"])

    def inspect(self) -> dict[str, Any]:
        """Return all that the engine knows of the container."""
        return dict(self._engine.call("GET", f"/containers/{self.id}/json"))

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to the container's first process."""
        self._engine.call("POST", f"/containers/{self.id}/kill?signal={int(signum)}")

    def output(self) -> tuple[str, str]:
        """Return what the container has written to stdout and to stderr so far."""
        raw = self._engine.request("GET", f"/containers/{self.id}/logs?stdout=1&stderr=1")
        streams = {1: bytearray(), 2: bytearray()}
        at = 0
        # Frames of: stream number, three zeros, length in four bytes, payload.
        while at + 8 <= len(raw):
            end = at + 8 + int.from_bytes(raw[at + 4 : at + 8], "big")
            streams[raw[at]] += raw[at + 8 : end]
            at = end
        return streams[1].decode(errors="replace"), streams[2].decode(errors="replace")

    def wait_for_output(self, text: str, timeout_s: float = 30) -> None:
        """Wait until the container has written the text, to stdout or stderr."""
        _until(
            lambda: any(text in stream for stream in self.output()),
            timeout_s,
            lambda: f"no {text!r} after {timeout_s} s in {self.output()}",
        )

    def wait(self, timeout_s: float = 60) -> ContainerResult:
        """Wait until the container has ended; raise TimeoutError, with its output, otherwise."""
        try:
            answer = self._engine.call("POST", f"/containers/{self.id}/wait", timeout_s=timeout_s)
        except TimeoutError:
            out, err = self.output()
            raise TimeoutError(f"container still runs after {timeout_s} s: {out}{err}") from None
        code = int(answer["StatusCode"])
        oom_killed = self._oom_killed()
        # The engine hears of an OOM kill by another road than of the exit, maybe a little later.
        deadline = time.monotonic() + 0.5
        while code == 137 and not oom_killed and time.monotonic() < deadline:
            time.sleep(0.05)
            oom_killed = self._oom_killed()
        return ContainerResult(code, *self.output(), oom_killed)

    def _oom_killed(self) -> bool:
        # Its own word is not enough: containerd 1.6 lost the news in 1 of 40 kills (measured, four
        # containers at a time). The kernel's log has it, save above ten kills in five seconds.
        return bool(self.inspect()["State"]["OOMKilled"]) or _kernel_log_names(self.id)


class Docker:
    """A running engine. Use it as a context manager, or take the session's fixture `docker`.

    Raises `DockerUnavailable` where no engine can run: no root, no dockerd, no new namespaces.
    """

    def __init__(self) -> None:
        _demand_engine()
        #: The parent group of all containers; no other engine, here or elsewhere, has its name.
        self.cgroup_parent = f"memwarden-test-docker-{os.getpid()}-{next(_serial)}"
        # A unix socket's path is limited to some 100 characters, so not below a long TMPDIR.
        self._folder = Path(tempfile.mkdtemp(prefix="mw-docker-", dir="/tmp"))
        self.socket = self._folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            try:
                self._launch("overlay2")
            except DockerError:
                # Where /tmp itself is an overlay, one on top is refused; copies are slow but work.
                self.close()
                self._folder.mkdir()
                self._launch("vfs")
            self._import_image()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, argv: Sequence[str], *, timeout_s: float = 60, **options: Any) -> ContainerResult:
        """Run a command in a new container to its end. The options are those of `start`."""
        with self.start(argv, **options) as container:
            return container.wait(timeout_s)

    @contextlib.contextmanager
    def start(
        self,
        argv: Sequence[str],
        *,
        memory: int = 64 << 20,
        env: Mapping[str, str] | None = None,
        workdir: str = str(REPOSITORY),
        writable: Sequence[Path] = (),
        own_groups: bool = False,
        host_config: Mapping[str, Any] | None = None,
    ) -> Iterator[Container]:
        """Start a command in a new container, removed at the end of the block, running or not.

        `memory` in bytes is the limit of memory and of memory with swap; 0 means none. `writable`
        names directories of the host to bind for writing. With `own_groups` the command may make
        cgroups below its container's; without, as is usual, it sees them read-only. `host_config`
        adds to the engine's HostConfig: {"CgroupnsMode": "private"}, {"PidsLimit": 50} and so on.

            with docker.start([sys.executable, "server.py"]) as container:
                print(container.pid, container.cgroup, container.output())
        """
        variables = {
            "PATH": _PATH,
            "HOME": "/tmp",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": SOURCE,
            **(env or {}),
        }
        shown = [path for path in (*SYSTEM, *python_roots()) if os.path.isdir(path)]
        body = {
            "Image": _IMAGE,
            "Cmd": [*(_WRITABLE_GROUPS if own_groups else []), *argv],
            "Env": [f"{name}={value}" for name, value in variables.items()],
            "WorkingDir": workdir,
            "HostConfig": {
                "Memory": memory,
                "MemorySwap": memory,
                "NetworkMode": "none",
                "Mounts": [_bind(path, read_only=True) for path in shown]
                + [_bind(str(path), read_only=False) for path in writable],
                **(_MAY_REMOUNT if own_groups else {}),
                **(host_config or {}),
            },
        }
        container = Container(self, self.call("POST", "/containers/create", body)["Id"])
        try:
            self.call("POST", f"/containers/{container.id}/start")
            yield container
        finally:
            self.call("DELETE", f"/containers/{container.id}?force=1&v=1")

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = 60) -> Any:
        """Ask the engine's HTTP interface; return its answer read from JSON, None if empty."""
        payload = None if body is None else json.dumps(body).encode()
        answer = self.request(method, path, payload, timeout_s=timeout_s)
        return json.loads(answer) if answer else None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 60,
    ) -> bytes:
        """Ask the engine's HTTP interface and return the bytes that it answers."""
        connection = _UnixConnection(self.socket, timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": content_type})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise DockerError(f"{method} {path}: {response.status} {answer.decode().strip()}")
        return answer

    def close(self) -> None:
        """Stop the engine, remove its containers, files and groups. Twice is harmless."""
        process, self._process = self._process, None
        try:
            if process is not None:
                self._stop(process)
        finally:
            _remove_groups(self.cgroup_parent)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, storage_driver: str) -> None:
        folder = self._folder
        # /dev/null is refused as configuration, and /etc/docker/daemon.json is not ours.
        (folder / "daemon.json").write_text("{}")
        options = {
            "host": f"unix://{self.socket}",
            "data-root": folder / "data",
            "exec-root": folder / "exec",
            "pidfile": folder / "dockerd.pid",
            "config-file": folder / "daemon.json",
            "bridge": "none",
            "iptables": "false",
            "ip6tables": "false",
            "ip-forward": "false",
            "ip-masq": "false",
            "userland-proxy": "false",
            "storage-driver": storage_driver,
            "group": "root",
            "exec-opt": "native.cgroupdriver=cgroupfs",
            "cgroup-parent": f"/{self.cgroup_parent}",
        }
        # Each of these execs the next, so the child's pid is the engine's. setpriv has the kernel
        # end the engine when this process (its starting thread, in fact) is gone; a /run of its
        # own keeps /run/docker and /run/containerd off the machine.
        argv = ["setpriv", "--pdeathsig", "TERM", "--", *_UNSHARE]
        argv += ["sh", "-c", 'mount -t tmpfs -o mode=755 tmpfs /run && exec dockerd "$@"', "sh"]
        argv += [f"--{name}={value}" for name, value in options.items()]
        with open(folder / "dockerd.log", "wb") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "PATH": _PATH},
                # A Ctrl-C in the terminal is for the tests, which then stop the engine in order.
                start_new_session=True,
            )
        _until(self._answers, 30, lambda: f"dockerd does not answer: {self._log_tail()}")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise DockerError(f"dockerd ended at once: {self._log_tail()}")
        try:
            return self.request("GET", "/_ping", timeout_s=5) == b"OK"
        except (OSError, http.client.HTTPException):
            return False

    def _log_tail(self) -> str:
        lines = (self._folder / "dockerd.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])

    def _import_image(self) -> None:
        """Make an image of empty directories, for the host's to be bound over."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in ("usr", "lib", "lib64", "bin", "proc", "sys", "dev", "etc", "tmp"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                tar.addfile(entry)
        repository, tag = _IMAGE.split(":")
        path = f"/images/create?fromSrc=-&repo={repository}&tag={tag}"
        answer = self.request("POST", path, archive.getvalue(), content_type="application/x-tar")
        if b'"error"' in answer:
            raise DockerError(f"the empty image was refused: {answer.decode()}")

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            # An engine that is stopped gives each container ten seconds; ours need no farewell.
            with contextlib.suppress(OSError, http.client.HTTPException, DockerError):
                for container in self.call("GET", "/containers/json?all=1"):
                    self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


_UNSHARE = ["unshare", "--net", "--mount", "--propagation", "private", "--"]


def _demand_engine() -> None:
    """Raise with the reason where an engine cannot run."""
    if os.geteuid() != 0:
        raise DockerUnavailable("a Docker engine of our own needs root")
    for program in ("dockerd", "setpriv", "unshare"):
        if shutil.which(program, path=_PATH) is None:
            raise DockerUnavailable(f"{program} is not installed (see scripts/system.sh)")
    probe = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise DockerUnavailable(f"no namespaces may be made here: {probe.stderr.strip()}")


def _bind(path: str, *, read_only: bool) -> dict[str, object]:
    return {"Type": "bind", "Source": path, "Target": path, "ReadOnly": read_only}


def _kernel_log_names(container_id: str) -> bool:
    """Say whether the kernel has logged an OOM kill in the group of this container."""
    group = f"/{container_id},".encode()
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        while True:
            try:
                record = os.read(log, 8192)
            except BrokenPipeError:
                continue  # overwritten while we read; the next read takes the oldest there is
            except OSError:
                return False  # nothing more to read, or not permitted
            if b"oom-kill:" in record and group in record:
                return True
    finally:
        os.close(log)


def _remove_groups(name: str) -> None:
    """Remove our groups in every hierarchy, with what a killed engine may have left in them."""
    tops = [*glob.glob(f"/sys/fs/cgroup/*/{name}"), *glob.glob(f"/sys/fs/cgroup/{name}")]
    folders = [folder for top in tops for folder, _, _ in os.walk(top, topdown=False)]

    def gone() -> bool:
        for folder in folders:
            with contextlib.suppress(OSError):
                for pid in Path(folder, "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                os.rmdir(folder)
        return not any(os.path.isdir(folder) for folder in folders)

    _until(gone, 5, lambda: f"cgroups remain: {folders}")


def _until(done: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise DockerError(complaint())
        time.sleep(0.02)
