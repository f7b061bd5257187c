"""Fixtures for tests on the real thing: a container engine and a kernel with cgroup v2."""

from collections.abc import Iterator

import pytest

from support.docker import Docker, DockerUnavailable


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
