"""Every test of the engine leaves no thread."""

from collections.abc import Iterator

import pytest

from support.engine import no_thread_is_left, our_threads


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A thread that outlives its test would be noticed in another one."""
    yield
    assert no_thread_is_left(), our_threads()
