"""Fixtures for tests on the real thing: a container engine, a kernel with cgroup v2, and terminals."""

import os
import sys
from collections.abc import Callable, Iterator

import pytest

from memwarden.actions.alerting.outbox import Outbox
from memwarden.process.fork_hooks import _parts
from support.docker import Docker, DockerUnavailable
from support.engine import no_thread_is_left, our_threads
from support.guest import Guest, GuestUnavailable

if sys.platform != "win32":
    from support.screen import Screen


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A private Docker engine; containers run the tests' own interpreter, without a network.

    Skips, with the reason, where there is no root or no dockerd.

        def test_limit(docker):
            result = docker.run([sys.executable, "-c", "print(1)"], memory=64 << 20)
            assert (result.returncode, result.stdout) == (0, "1\\n")
    """
    try:
        engine = Docker()
    except DockerUnavailable as reason:
        pytest.skip(str(reason))
    with engine:
        yield engine


@pytest.fixture(scope="session")
def guest() -> Guest:
    """A Linux guest with a real cgroup v2 memory controller; each run boots it, in about 2 s.

    Skips, with the reason, where its kernel has not been fetched.

        def test_group(guest):
            result = guest.python("import os; os.mkdir('/sys/fs/cgroup/mine')")
            assert result.returncode == 0, result.output

        def test_all_of_them(guest):  # the file's tests run inside; see `Guest.pytest`
            result = guest.pytest("tests/live/guest_cgroup2.py")
            assert result.returncode == 0, result.output
    """
    try:
        return Guest.find()
    except GuestUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def screen() -> Iterator[Callable[..., Screen]]:
    """Opens programs on terminals, and closes them."""
    opened: list[Screen] = []

    def open_screen(*command: str, **size: int) -> Screen:
        opened.append(Screen(*command, **size))
        return opened[-1]

    yield open_screen
    for each in opened:
        each.close()


@pytest.fixture
def direct_connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections without a proxy, and no thread of an outbox left at the end."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    yield
    left = our_threads() if not no_thread_is_left() else []
    for outbox in [part for part in _parts if isinstance(part, Outbox)]:  # a failure must not affect later tests
        outbox.close(0.0)
    assert left == []
