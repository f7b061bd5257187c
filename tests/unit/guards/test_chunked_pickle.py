"""Objects on their way through a pipe."""

import os
import pickle
import threading

import pytest

from memwarden.guards.limit.chunked_pickle import Incoming, NotSent, Outgoing


def through_a_pipe(send):
    """What comes out of a pipe into which ``send`` writes."""
    reading, writing = os.pipe()

    def sending():
        try:
            send(Outgoing(writing))
        finally:
            os.close(writing)

    thread = threading.Thread(target=sending)
    thread.start()
    try:
        with Incoming(reading) as incoming:
            return pickle.load(incoming)
    finally:
        thread.join()
        os.close(reading)


@pytest.mark.parametrize("value", [None, [], list(range(100_000)), b"x" * 5_000_000, {"a": ["b", 1.5]}, ""])
def test_what_goes_in_comes_out(value):
    """Small or larger than any pipe."""

    def send(outgoing):
        pickle.dump(value, outgoing, protocol=5)
        outgoing.finish()

    assert through_a_pipe(send) == value


def test_what_could_not_be_written_to_its_end_says_why():
    """Though a part of it had been sent already."""

    def send(outgoing):
        pickle.dump([b"y" * 3_000_000], outgoing)
        outgoing.fail("no café")

    def send_half(outgoing):
        try:
            pickle.dump([b"y" * 3_000_000, lambda: 1], outgoing)
        except (pickle.PicklingError, AttributeError) as error:
            outgoing.fail(f"no café: {error}")

    assert through_a_pipe(send) == [b"y" * 3_000_000], "what is whole needs no more"
    with pytest.raises(NotSent, match="no café"):
        through_a_pipe(send_half)


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\5\x80\5]", b"\0\0\0\3\x80\5]"])
def test_an_end_in_the_middle_is_an_end(sent):
    """However little had come."""
    with pytest.raises(EOFError):
        through_a_pipe(lambda outgoing: outgoing._send(sent) if sent else None)
