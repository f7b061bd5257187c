"""Start and reaping of workers, by a fork server."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from multiprocessing import get_context

import pytest

from memwarden.admission.pool.connection import NOT_STARTED, READY, ResultItem, WorkerConnection
from memwarden.admission.pool.fork_server import ForkServer
from memwarden.admission.pool.worker import WorkerConfig
from support import chores

pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
METHODS = ["fork", "spawn", "forkserver"]
CONFIG = WorkerConfig(None, (), (), 1 << 20, 0)


@pytest.fixture(params=METHODS)
def spawner(request: pytest.FixtureRequest) -> Iterator[ForkServer]:
    made = ForkServer(get_context(request.param), CONFIG)
    yield made
    made.close()


def start(spawner: ForkServer) -> tuple[WorkerConnection, ResultItem]:
    """A started worker's connection and its first message."""
    connection, sock = WorkerConnection.open()
    spawner.start(sock)
    sock.close()
    return connection, chores.until(connection.read)[0]


@pytest.mark.parametrize("number", [0, signal.SIGKILL])
def test_a_worker_is_started_and_reaped(spawner: ForkServer, number: int) -> None:
    """It reports its pid, and its exit code is returned once."""
    connection, message = start(spawner)
    assert message.kind == READY
    assert message.number != os.getpid()
    if number:
        os.kill(message.number, number)
    else:
        connection.send(0)
    assert spawner.reap(message.number) == -number
    assert chores.is_gone(message.number)
    assert spawner.reap(message.number) is None
    connection.close()


def test_a_pid_that_is_not_a_worker_has_no_exit_code(spawner: ForkServer) -> None:
    """And the server goes on."""
    assert spawner.reap(os.getpid()) is None
    connection, message = start(spawner)
    assert message.kind == READY
    connection.close()


def test_a_worker_exits_when_its_connection_closes(spawner: ForkServer) -> None:
    """As it does when the program is killed."""
    connection, message = start(spawner)
    connection.close()
    chores.until(lambda: chores.is_gone(message.number))
    assert spawner.reap(message.number) == 0


def test_closing_a_fork_server_kills_what_is_left(spawner: ForkServer) -> None:
    """Workers that are stopped cannot exit by themselves."""
    connection, message = start(spawner)
    os.kill(message.number, signal.SIGSTOP)
    spawner.close()
    chores.until(lambda: chores.is_gone(message.number))
    connection.close()


def test_a_failing_initializer_is_reported() -> None:
    """The worker sends its error and exits."""
    server = ForkServer(get_context("fork"), CONFIG._replace(initializer=chores.unfit))
    connection, message = start(server)
    assert message.kind == NOT_STARTED
    assert b"no disk" in message.payload
    connection.close()
    server.close()


def test_no_worker_can_be_started_by_a_server_that_is_gone() -> None:
    """The caller gets an OSError, and no exit code."""
    server = ForkServer(get_context("fork"), CONFIG)
    server._process.kill()
    server._process.join()
    ours, theirs = socket.socketpair()
    with pytest.raises(BrokenPipeError):
        server.start(theirs)
    assert server.reap(1) is None
    server.close()
    ours.close()
    theirs.close()
