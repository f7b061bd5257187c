"""Webhooks against real receivers on 127.0.0.1 that are slow, refuse, break off, die and return."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from memwarden.actions.alerting.webhook import Webhook
from memwarden.model.decisions import Decision
from support.engine import SOON, no_thread_is_left, our_threads
from support.receiver import CERTIFICATE, Got, Receiver

SECRET = "whsec_" + base64.b64encode(b"a key for these tests, 32 bytes.").decode()


pytestmark = pytest.mark.usefixtures("direct_connections")


def decision(number: int = 0, *, undo: bool = False, rule: str = "early", **more: object) -> Decision:
    """A state change; ``number`` identifies it."""
    wall = 1_700_000_000.0 + number
    reason = f"level HIGH: {number}"
    values = {"rule": rule, "action": "webhook", "reason": reason, "wall": wall, "monotonic": float(number)}
    return Decision(**values, undo=undo, **more)  # type: ignore[arg-type]


def change(hook: Webhook, number: int) -> None:
    """The rule fires and is resolved in turn."""
    outcome = hook.undo(decision(number, undo=True)) if number % 2 else hook.run(decision(number))
    assert outcome.done, outcome.message
    assert outcome.message.startswith("queued"), outcome.message


def numbers(got: list[Got]) -> list[int]:
    """Which state changes were received, by their place in the order in which they happened."""
    return [int(each.json["decision"]["reason"].rpartition(" ")[2]) for each in got]


def once(got: list[Got]) -> list[Got]:
    """As a receiver does that drops what has a ``webhook-id`` that it knows."""
    return list({each.id: each for each in reversed(got)}.values())[::-1]


BAD = ["reset", 500, "cut", 503, "half", "slow", 502, "reset", "slow", (503, {"Retry-After": "0"}), 408, "cut", 500]


def test_each_state_change_arrives_once_in_order_through_all_that_goes_wrong() -> None:
    """A receiver that is not there yet, slow, resets, answers 5xx, breaks off, goes away and comes back: none lost."""
    receiver = Receiver(BAD * 6)
    hook = Webhook(receiver.url, retry=0.01, longest=0.05, timeout=2, secret=SECRET)
    total = 200
    started = time.monotonic()
    for number in range(total):
        change(hook, number)
        if number == 20:
            time.sleep(0.1)  # nothing has listened yet
            receiver.start()
        if number in (60, 120):
            receiver.wait_for(number // 4)
            receiver.stop()
        if number in (80, 140):
            time.sleep(0.2)
            receiver.start()
    assert time.monotonic() - started < SOON
    try:
        assert hook.outboxes[0].flush(60)
        assert hook.outboxes[0].delivered == total
        assert numbers(receiver.answered()) == list(range(total))
        assert len({got.id for got in receiver.got}) == total
        assert [got.json["sequence"] for got in receiver.answered()] == list(range(1, total + 1))
        states = [got.json["state"] for got in receiver.answered()]
        assert states == ["firing", "resolved"] * (total // 2)
        # All that was received, the unanswered too, is in order, and one id is one body.
        assert numbers(receiver.got) == sorted(numbers(receiver.got))
        assert len({(got.id, got.body) for got in receiver.got}) == total
        assert receiver.refused == 12
    finally:
        hook.close()
        receiver.stop()


def test_an_answer_that_was_lost_makes_a_duplicate_with_the_same_id() -> None:
    """The receiver took it and died before it answered: it is sent again, with the same id."""
    with Receiver(["cut", "half"]) as receiver:
        hook = Webhook(receiver.url, retry=0.01)
        change(hook, 0)
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    assert numbers(receiver.got) == [0, 0, 0]
    assert numbers(once(receiver.got)) == [0]


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[2], "ab", 0) as kept:
            kept.write(self.headers["webhook-id"].encode() + b" " + body + b"\\n")
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
class Server(http.server.HTTPServer):
    allow_reuse_address = True
server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def test_a_server_that_is_killed_and_returns_on_its_port(tmp_path: Path) -> None:
    """SIGKILL at any moment, ten times; each state change is in the server's file, in order, once by its id."""
    kept, port = tmp_path / "kept", 0
    stop, hook = threading.Event(), None

    def serve() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SERVER, str(port), str(kept)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline().strip().isdecimal()
        return child

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hook = Webhook(f"http://127.0.0.1:{port}/", retry=0.01, longest=0.1, timeout=2)
    made = 0

    def alert() -> None:
        nonlocal made
        while not stop.is_set():
            change(hook, made)
            made += 1
            time.sleep(0.005)

    alerting = threading.Thread(target=alert)
    alerting.start()
    child = None
    try:
        for turn in range(10):
            child = serve()
            time.sleep(0.05 + 0.013 * turn)
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
        stop.set()
        alerting.join()
        child = serve()
        assert hook.outboxes[0].flush(30)
    finally:
        stop.set()
        alerting.join()
        hook.close()
        if child is not None:
            child.kill()
            child.communicate()
    lines = [line.partition(b" ") for line in kept.read_bytes().splitlines()]
    unique = {identity: json.loads(body) for identity, _, body in lines}
    reasons = [int(body["decision"]["reason"].rpartition(" ")[2]) for body in unique.values()]
    assert reasons == list(range(made))
    assert len(lines) - made <= 10  # one for each death at most: the answer that was lost


@pytest.mark.parametrize("treatment", ["hang", "drip"])
def test_no_receiver_holds_a_try_for_longer_than_its_timeout(treatment: str) -> None:
    """Silent, or with one byte now and then for ever: the try ends, and the next one is taken."""
    with Receiver([treatment]) as receiver:
        hook = Webhook(receiver.url, retry=0.01, timeout=0.5)
        started = time.monotonic()
        change(hook, 0)
        assert not hook.outboxes[0].settle(SOON)
        assert hook.outboxes[0].trouble == "no answer within 0.5 s"
        assert hook.outboxes[0].flush(SOON)
        assert time.monotonic() - started < 3
        hook.close()
    assert numbers(receiver.answered()) == [0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413])
def test_a_refusal_is_an_error_in_the_log_and_loses_nothing(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Once in the log as an error, in each further outcome; then the receiver is repaired, and all arrives in order."""
    with Receiver([status] * 3) as receiver:
        hook = Webhook(receiver.url, retry=0.01, longest=0.1)
        change(hook, 0)
        assert not hook.outboxes[0].settle(SOON)
        outcome = hook.undo(decision(1, undo=True))
        assert outcome.done
        assert str(status) in outcome.message
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    assert numbers(receiver.answered()) == [0, 1]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert str(status) in errors[0]
    assert sum("accepts alerts again" in record.getMessage() for record in caplog.records) == 1


def test_the_time_that_a_receiver_asks_for_is_kept() -> None:
    """Retry-After of a 429: nothing comes before."""
    with Receiver([(429, {"Retry-After": "1"})]) as receiver:
        hook = Webhook(receiver.url, retry=0.01)
        started = time.monotonic()
        change(hook, 0)
        assert hook.outboxes[0].flush(SOON)
        assert time.monotonic() - started >= 1
        hook.close()
    assert len(receiver.got) == 2


def test_a_redirect_is_not_followed() -> None:
    """The body goes to the named receiver only."""
    with Receiver() as other, Receiver([(307, {"Location": other.url}), (302, {"Location": other.url})]) as receiver:
        hook = Webhook(receiver.url, longest=0.05)
        change(hook, 0)
        assert not hook.outboxes[0].settle(SOON)
        assert "307" in hook.outboxes[0].trouble
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    assert other.got == []
    assert numbers(receiver.answered()) == [0]


def test_the_body_is_signed_and_complete() -> None:
    """By the Standard Webhooks specification, checked here without our own code; the login of the address as header."""
    with Receiver() as receiver:
        url = receiver.url.replace("http://", "http://me:pass%20word@")
        hook = Webhook(url, secret=SECRET, headers={"X-Team": "memory"})
        hook.run(decision(7, details={"top": ["a\nb", {"c": 1.5}]}))
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    (got,) = receiver.got
    headers = got.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + got.body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["authorization"] == "Basic " + base64.b64encode(b"me:pass word").decode()
    assert (headers["x-team"], headers["content-type"]) == ("memory", "application/json")
    assert got.line == "POST /in/path-secret HTTP/1.1"
    body = got.json
    assert (body["type"], body["schema"], body["state"], body["sequence"]) == ("memwarden.alert", 1, "firing", 1)
    assert (body["pid"], body["host"], body["test"]) == (os.getpid(), socket.gethostname(), False)
    assert body["decision"]["details"] == {"top": ["a\nb", {"c": 1.5}]}
    assert body["decision"]["reason"] == "level HIGH: 7"
    assert "level HIGH: 7" in body["text"]
    assert "early" in body["text"]


def test_tls_is_verified(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver without a trusted certificate gets no byte of the alert; a trusted one does."""
    with Receiver(tls=True) as receiver:
        hook = Webhook(receiver.url, longest=0.1, secret=SECRET)
        change(hook, 0)
        assert not hook.outboxes[0].settle(SOON)
        assert "certificate is not trusted" in hook.outboxes[0].trouble
        assert receiver.got == []
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    assert numbers(receiver.answered()) == [0]
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As urllib does, ``no_proxy`` included."""
    with Receiver() as proxy, Receiver() as receiver:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        hook = Webhook("http://hooks.invalid/in")
        change(hook, 0)
        assert hook.outboxes[0].flush(SOON)
        hook.close()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        hook = Webhook(receiver.url)
        change(hook, 0)
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    assert proxy.got[0].line == "POST http://hooks.invalid/in HTTP/1.1"
    assert receiver.got[0].line == "POST /in/path-secret HTTP/1.1"


def test_closing_delivers_what_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Also where the next try would have been a minute away; and a second close does no harm."""
    receiver = Receiver()
    hook = Webhook(receiver.url, retry=60, patience=5)
    for number in range(3):
        change(hook, number)
    assert not hook.outboxes[0].settle(SOON)
    with receiver:
        hook.close()
        hook.close()
    assert numbers(receiver.answered()) == [0, 1, 2]
    assert not [record for record in caplog.records if "not delivered" in record.getMessage()]


@pytest.mark.parametrize("treatment", ["hang", None])
def test_closing_is_bounded_and_names_what_is_left(treatment: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """The receiver is silent or away; no thread is left, and the next start works."""
    receiver = Receiver([treatment] * 3)
    if treatment is not None:
        receiver.start()
    hook = Webhook(receiver.url, patience=0.3, retry=0.01)
    change(hook, 0)
    change(hook, 1)
    started = time.monotonic()
    hook.close()
    assert time.monotonic() - started < 1.5
    assert no_thread_is_left()
    shown = caplog.records[-1].getMessage()
    assert "not delivered" in shown
    assert "#1 early firing, #2 early resolved" in shown
    receiver.stop()
    receiver = Receiver()
    receiver.port = int(hook.outboxes[0].label.split(":")[2].split("/")[0])
    with receiver:
        change(hook, 2)
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    assert numbers(receiver.answered()) == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_after_fork_the_child_has_nothing_to_deliver_and_the_parent_goes_on() -> None:
    """The parent delivers its queue once; the child may send alerts of its own, with other ids."""
    receiver = Receiver()
    hook = Webhook(receiver.url, retry=0.05, longest=0.05)
    change(hook, 0)
    assert not hook.outboxes[0].settle(SOON)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            assert (hook.outboxes[0].waiting, hook.outboxes[0].trouble, our_threads()) == (0, "", [])
            hook.run(decision(100, rule="child"))
            code = 0 if hook.outboxes[0].flush(10) else 2
            hook.close()
        finally:
            os._exit(code)
    with receiver:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        change(hook, 1)
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    assert [number for number in numbers(receiver.got) if number < 100] == [0, 1]
    assert sorted(numbers(receiver.got)) == [0, 1, 100]
    assert len({got.id for got in receiver.got}) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_that_closes_at_once_does_not_touch_what_the_parent_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warden closes its actions in the child, and its fork hook may run before ours: the request goes on."""
    with Receiver(["slow"]) as receiver:
        hook = Webhook(receiver.url, retry=5)
        monkeypatch.setattr("memwarden.process.fork_hooks._parts", weakref.WeakSet())  # no fork hook
        change(hook, 0)
        until = time.monotonic() + SOON
        while not receiver.got and time.monotonic() < until:
            time.sleep(0.005)
        with hook.outboxes[0]._condition:  # held by a thread that is not in the child
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    signal.alarm(10)
                    started = time.monotonic()
                    hook.close()
                    code = 0 if time.monotonic() - started < 1 else 2
                finally:
                    os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert hook.outboxes[0].flush(2)
        hook.close()
    assert numbers(receiver.got) == [0]


def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Not in the log, in outcomes, in errors, or in repr; neither the path of the address, nor login, key or header."""
    caplog.set_level(logging.DEBUG)
    secrets = ["path-secret", "hunter2", "token-value", SECRET, SECRET.removeprefix("whsec_")]
    with Receiver([401, "cut", "half", 500, (302, {"Location": "http://x/path-secret"})]) as receiver:
        url = receiver.url.replace("http://", "http://me:hunter2@")
        hook = Webhook(url, secret=SECRET, headers={"X-Token": "token-value"}, retry=0.01, longest=0.02)
        shown = [repr(hook), hook.outboxes[0].label, repr(hook.outboxes[0])]
        shown.append(hook.run(decision(0)).message)
        hook.outboxes[0].settle(SOON)
        shown.append(hook.undo(decision(1, undo=True)).message)
        assert hook.outboxes[0].flush(SOON)
        hook.close()
    hook.run(decision(2))
    hook.outboxes[0].settle(SOON)
    shown.append(hook.outboxes[0].trouble)
    hook.close()
    shown += [record.getMessage() for record in caplog.records]
    assert len(shown) > 8
    for secret in secrets:
        assert not [line for line in shown if secret in line]
    assert all(secret not in got.body.decode() for got in receiver.got for secret in secrets)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc/self/fd")
def test_a_hundred_bad_tries_leave_no_descriptor_and_one_thread() -> None:
    """Whatever goes wrong, everything is given back."""
    with Receiver(([*BAD, "reset"]) * 8) as receiver:
        hook = Webhook(receiver.url, retry=0.001, longest=0.002)
        change(hook, 0)
        assert hook.outboxes[0].flush(SOON)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(1, 40):
            change(hook, number)
        assert hook.outboxes[0].flush(60)
        assert len(our_threads()) == 1
        until = time.monotonic() + SOON
        while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < until:
            time.sleep(0.01)  # the receiver, in this process too, closes its end a moment later
        assert len(os.listdir("/proc/self/fd")) == before
        hook.close()
    assert len(receiver.got) + receiver.refused > 100
