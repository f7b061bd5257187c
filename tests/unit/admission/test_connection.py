"""Call items and result items over a real pair of sockets."""

import errno
import threading

import pytest

from memwarden.admission.pool.connection import (
    ERROR,
    READY,
    RESULT,
    ResultItem,
    WorkerConnection,
    receive,
    receive_call,
    retry_no_memory,
    send_result,
)


@pytest.fixture
def pair():
    connection, sock = WorkerConnection.open()
    yield connection, sock
    connection.close()
    sock.close()


def payloads(items):
    """Number and payload of each item."""
    return [(each.number, each.payload) for each in items]


def test_a_call_arrives_as_it_was_sent(pair):
    """Number and payload; 0 without a payload asks the worker to exit."""
    connection, sock = pair
    assert connection.send(7, b"task")
    assert connection.send(0)
    assert receive_call(sock) == (7, bytearray(b"task"))
    assert receive_call(sock) == (0, bytearray())


def test_a_result_arrives_as_it_was_sent(pair):
    """All figures, up to the largest."""
    connection, sock = pair
    item = ResultItem(RESULT, (1 << 64) - 1, 0.125, 1 << 40, 1 << 41, 0, b"result")
    send_result(sock, item)
    assert connection.read() == [item]
    assert connection.read() == []
    assert not connection.closed


def test_several_results_come_in_order(pair):
    """Also empty ones."""
    connection, sock = pair
    for number in range(5):
        send_result(sock, ResultItem(READY if number == 0 else ERROR, number, 0.0, 0, 0, 0, b"x" * number))
    assert payloads(connection.read()) == [(number, b"x" * number) for number in range(5)]


def test_a_result_in_pieces_is_joined(pair):
    """Whatever the pieces, nothing is returned before it is complete."""
    connection, sock = pair
    received = []

    class Piecewise:
        def send(self, data):
            for byte in bytes(data):
                assert not received
                sock.send(bytes([byte]))
                received.extend(connection.read())
            return len(data)

    send_result(Piecewise(), ResultItem(RESULT, 3, 0.0, 1, 2, 3, b"whole"))
    assert payloads(received) == [(3, b"whole")]


def test_what_does_not_fit_into_the_socket_is_sent_later(pair):
    """``send`` never waits; ``flush`` sends the rest."""
    connection, sock = pair
    payload = bytes(range(256)) * 40_000
    assert not connection.send(1, payload)
    assert not connection.send(2, b"second")
    received = []

    def work():
        received.extend(receive_call(sock) for _ in range(2))

    thread = threading.Thread(target=work)
    thread.start()
    while not connection.flush():
        pass
    thread.join()
    assert received == [(1, bytearray(payload)), (2, bytearray(b"second"))]


@pytest.mark.parametrize("drain", [False, True])
def test_a_large_result_comes_in_parts(pair, drain):
    """One call makes one read; with ``drain`` it reads all that is there."""
    connection, sock = pair
    payload = b"\xa5" * 5_000_000
    thread = threading.Thread(target=send_result, args=(sock, ResultItem(RESULT, 1, 0.0, 0, 0, 0, payload)))
    thread.start()
    calls, items = 0, []
    while not items:
        items = connection.read(drain=drain)
        calls += 1
    thread.join()
    assert payloads(items) == [(1, payload)]
    assert drain or calls > 50


@pytest.mark.parametrize("part", [0, 10, 60])
def test_the_end_is_noticed(pair, part):
    """Before, within and after a result; a complete one counts, a part of one does not."""
    connection, sock = pair
    send_result(sock, ResultItem(RESULT, 1, 0.0, 0, 0, 0, b"first"))
    parts = []

    class Recorder:
        def send(self, data):
            parts.append(bytes(data))
            return len(data)

    send_result(Recorder(), ResultItem(RESULT, 2, 0.0, 0, 0, 0, b"second" * 10))
    sock.sendall(b"".join(parts)[:part])
    sock.close()
    assert payloads(connection.read(drain=True)) == [(1, b"first")]
    assert connection.closed


def test_sending_to_a_worker_that_is_gone_is_harmless(pair):
    """Reading reports the end."""
    connection, sock = pair
    sock.close()
    assert connection.send(1, b"x" * 1_000_000)
    connection.read()
    assert connection.closed


def test_a_worker_notices_that_the_executor_is_gone(pair):
    """Between tasks, and in the middle of one."""
    connection, sock = pair
    connection.close()
    with pytest.raises(EOFError):
        receive_call(sock)
    assert receive(sock, 0) == bytearray()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS, errno.EFAULT])
def test_a_call_that_finds_no_memory_is_repeated(number, monkeypatch):
    """It has done nothing, and succeeds later."""
    monkeypatch.setattr("memwarden.admission.pool.connection.time.sleep", lambda seconds: None)
    failures = [OSError(number, "")] * 3

    def call(data):
        if failures:
            raise failures.pop()
        return len(data)

    assert retry_no_memory(call, memoryview(b"four")) == 4
    assert failures == []


def test_other_errors_are_raised():
    """A connection that is reset does not come back."""

    def call(data):
        raise ConnectionResetError(errno.ECONNRESET, "")

    with pytest.raises(ConnectionResetError):
        retry_no_memory(call, memoryview(b"x"))
