"""What an executor and its workers say to each other, over a real pair of sockets."""

import errno
import threading

import pytest

from memwarden.admission.pool.connection import (
    ERROR,
    READY,
    RESULT,
    Answer,
    WorkerConnection,
    answer,
    insist,
    next_task,
    receive,
)


@pytest.fixture
def pair():
    line, ends = WorkerConnection.open()
    yield line, ends
    line.close()
    ends.close()


def plain(answers):
    """Number and payload of each."""
    return [(each.number, bytes(each.payload)) for each in answers]


def test_a_task_arrives_as_it_was_sent(pair):
    """Number and payload; 0 and nothing is the end."""
    line, ends = pair
    line.send(7, b"task")
    line.send(0)
    assert next_task(ends) == (7, bytearray(b"task"))
    assert next_task(ends) == (0, bytearray())


def test_what_has_not_begun_can_be_taken_back(pair):
    """In whatever moment: each is either begun or taken back; one that is sent again is begun then."""
    line, ends = pair
    for number in (1, 2, 3):
        line.send(number, b"x" * number)
    assert next_task(ends) == (1, bytearray(b"x"))
    assert line.take_back() == [2, 3]
    assert line.take_back() == []
    line.send(4, b"four")
    line.send(2, b"xx")
    assert next_task(ends) == (4, bytearray(b"four"))
    assert next_task(ends) == (2, bytearray(b"xx"))
    line.send(0)
    assert next_task(ends) == (0, bytearray())


def test_nothing_is_begun_twice_and_nothing_is_lost(pair):
    """A worker takes as fast as it can while all is taken back, and sent again, as fast as it goes."""
    line, ends = pair
    begun = []

    def work():
        while (number := next_task(ends)[0]) != 0:
            begun.append(number)

    thread = threading.Thread(target=work)
    thread.start()
    waiting, taken = list(range(1, 1001)), 0
    while waiting:
        part, waiting, done = waiting[:16], waiting[16:], len(begun)
        for number in part:
            line.send(number, b"payload")
        while len(begun) == done:
            line.flush()
        back = line.take_back()
        taken += len(back)
        waiting = back + waiting
    line.send(0)
    thread.join()
    assert sorted(begun) == list(range(1, 1001))
    assert taken


def test_an_answer_arrives_as_it_was_given(pair):
    """All its figures, up to the largest."""
    line, ends = pair
    said = Answer(RESULT, (1 << 64) - 1, 0.125, 1 << 40, 1 << 41, 0, b"result")
    answer(ends.sock, said)
    assert line.read() == [said]
    assert line.read() == []
    assert not line.ended


def test_several_answers_come_in_order(pair):
    """Also empty ones."""
    line, ends = pair
    for number in range(5):
        answer(ends.sock, Answer(READY if number == 0 else ERROR, number, 0.0, 0, 0, 0, b"x" * number))
    assert plain(line.read()) == [(number, b"x" * number) for number in range(5)]


def test_an_answer_in_pieces_is_put_together(pair):
    """Whatever the pieces, nothing is told before it is whole."""
    line, ends = pair
    heard = []

    class Piecewise:
        def send(self, data):
            for byte in bytes(data):
                ends.sock.send(bytes([byte]))
                heard.extend(line.read())
            return len(data)

    answer(Piecewise(), Answer(RESULT, 3, 0.0, 1, 2, 3, b"whole"))
    assert plain(heard) == [(3, b"whole")]


def test_what_does_not_fit_into_the_socket_goes_later(pair):
    """Sending never waits; ``full`` says that more is to go, and ``flush`` sends it."""
    line, ends = pair
    payload = bytes(range(256)) * 40_000
    line.send(1, payload)
    line.send(2, b"second")
    assert line.full
    got = []

    def work():
        got.extend(next_task(ends) for _ in range(2))

    thread = threading.Thread(target=work)
    thread.start()
    while line.full:
        line.flush()
    thread.join()
    assert got == [(1, bytearray(payload)), (2, bytearray(b"second"))]


def test_a_large_answer_does_not_keep_the_reader(pair):
    """One call reads about a megabyte; with ``whole`` all that is there."""
    line, ends = pair
    payload = b"\xa5" * 5_000_000
    thread = threading.Thread(target=answer, args=(ends.sock, Answer(RESULT, 1, 0.0, 0, 0, 0, payload)))
    thread.start()
    calls, heard = 0, []
    while not heard:
        heard = line.read()
        calls += 1
    thread.join()
    assert plain(heard) == [(1, payload)]
    assert calls > 4


@pytest.mark.parametrize("part", [0, 10, 60])
def test_the_end_is_noticed(pair, part):
    """Before, within and after an answer; what was whole counts, half a one does not."""
    line, ends = pair
    answer(ends.sock, Answer(RESULT, 1, 0.0, 0, 0, 0, b"first"))
    whole = b"".join(_frame(Answer(RESULT, 2, 0.0, 0, 0, 0, b"second" * 10)))
    ends.sock.sendall(whole[:part])
    ends.sock.close()
    assert plain(line.read(whole=True)) == [(1, b"first")]
    assert line.ended


def _frame(said):
    parts = []

    class Keeping:
        def send(self, data):
            parts.append(bytes(data))
            return len(data)

    answer(Keeping(), said)
    return parts


def test_sending_to_one_who_is_gone_harms_nobody(pair):
    """Reading says that it is gone."""
    line, ends = pair
    ends.sock.close()
    line.send(1, b"x" * 1_000_000)
    assert not line.full
    line.read()
    assert line.ended


def test_a_worker_notices_that_the_executor_is_gone(pair):
    """Between tasks, and in the middle of one."""
    line, ends = pair
    line.close()
    with pytest.raises(EOFError):
        next_task(ends)
    assert receive(ends.sock, 0) == bytearray()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS, errno.EFAULT])
def test_a_call_that_finds_no_memory_is_made_again(number, monkeypatch):
    """Nothing was done by it; and it passes."""
    monkeypatch.setattr("memwarden.admission.pool.connection.time.sleep", lambda seconds: None)
    failures = [OSError(number, "")] * 3

    def call(data):
        if failures:
            raise failures.pop()
        return len(data)

    assert insist(call, memoryview(b"four")) == 4


def test_other_errors_are_the_callers():
    """A connection that is reset does not come back."""

    def call(data):
        raise ConnectionResetError(errno.ECONNRESET, "")

    with pytest.raises(ConnectionResetError):
        insist(call, memoryview(b"x"))
