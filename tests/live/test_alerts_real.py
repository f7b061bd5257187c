"""Alerts through Apprise to real receivers on 127.0.0.1: its JSON service over HTTP, and e-mail over SMTP."""

from __future__ import annotations

import email
import email.policy
import logging
import socket
import sys
import time
from types import TracebackType

import pytest

from memwarden.actions.alerting.alerts import Alerts
from memwarden.errors import ExtraMissing, SettingsError
from memwarden.model.decisions import Decision
from support.engine import SOON
from support.receiver import Receiver

pytestmark = pytest.mark.usefixtures("direct_connections")


def decision(number: int = 0, *, undo: bool = False, **more: object) -> Decision:
    """A state change; ``number`` identifies it."""
    values = {"rule": "early", "action": "alerts", "reason": f"level <b>HIGH</b>: {number}", "wall": 1e9}
    return Decision(**values, monotonic=float(number), undo=undo, **more)  # type: ignore[arg-type]


def json_url(receiver: Receiver, more: str = "") -> str:
    """The receiver as Apprise's JSON service, with every kind of secret in it."""
    return f"json://me:hunter2@127.0.0.1:{receiver.port}/path-secret?+X-Key=header-secret{more}"


class Mailbox:
    """A mail server for one connection after the other, on a thread; ``mails`` are what it took."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def __enter__(self) -> Mailbox:
        import threading

        self._socket = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._serve, name="mailbox", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(10)
            with connection, connection.makefile("rwb", 0) as stream:
                stream.write(b"220 ready\r\n")
                while line := stream.readline().upper():
                    if line.startswith(b"DATA"):
                        stream.write(b"354 go on\r\n")
                        data = b""
                        while (part := stream.readline()) != b".\r\n":
                            data += part
                        mail = email.message_from_bytes(data, policy=email.policy.default)
                        assert isinstance(mail, email.message.EmailMessage)
                        self.mails.append(mail)
                    stream.write(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 fine\r\n")


def test_each_state_change_arrives_in_order_through_failures() -> None:
    """Over HTTP: a receiver that is away, resets, refuses and answers 5xx; each change is taken once, in order."""
    receiver = Receiver(["reset", 500, 401, 503, "cut"])
    alerts = Alerts(json_url(receiver), retry=0.01, longest=0.05)
    for number in range(20):
        undo = bool(number % 2)
        (alerts.undo if undo else alerts.run)(decision(number, undo=undo))
    assert not alerts.outboxes[0].settle(SOON)
    with receiver:
        assert alerts.outboxes[0].flush(30)
        alerts.close()
    taken = receiver.answered()
    assert [got.json["message"].partition("HIGH</b>: ")[2].partition(" ")[0] for got in taken] == [
        str(number) for number in range(20)
    ]
    assert [got.json["type"] for got in taken] == ["warning", "success"] * 10
    assert [got.json["title"] for got in taken[:2]] == ["memwarden: early firing", "memwarden: early resolved"]


def test_a_mail_arrives() -> None:
    """Over SMTP, as plain people read it, with nothing in it taken for HTML."""
    with Mailbox() as mailbox:
        alerts = Alerts(f"mailto://127.0.0.1:{mailbox.port}/?from=me@example.org&to=you@example.org")
        alerts.run(decision(7, details={"test": True}))
        assert alerts.outboxes[0].flush(SOON)
        alerts.close()
    (mail,) = mailbox.mails
    assert mail["Subject"] == "memwarden: early firing"
    body = mail.get_body(("plain",))
    assert body is not None
    assert "[TEST] early: level <b>HIGH</b>: 7" in body.get_content()
    html = mail.get_body(("html",))
    assert html is None or "<b>HIGH" not in html.get_content()


def test_a_service_that_is_down_does_not_hold_up_another() -> None:
    """Each address has its own queue, and the one that fails is named by its place and kind."""
    with Receiver() as receiver:
        alerts = Alerts(["json://127.0.0.1:1/", json_url(receiver)], patience=0.1)
        outcome = alerts.run(decision(0))
        assert alerts.outboxes[1].flush(SOON)
        assert not alerts.outboxes[0].settle(SOON)
        assert "alerts 1 (json)" in outcome.message
        assert len(receiver.answered()) == 1
        started = time.monotonic()
        alerts.close()
        assert time.monotonic() - started < 2


def test_no_address_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Not in our log nor in that of the libraries below, on the finest level; not in outcomes, errors or repr."""
    secrets = ["hunter2", "path-secret", "header-secret"]
    for name in ("", "apprise", "urllib3", "urllib3.connectionpool"):
        caplog.set_level(1, name or None)
    with Receiver([500, "reset", 404]) as receiver:
        alerts = Alerts(json_url(receiver), retry=0.01, longest=0.02)
        shown = [repr(alerts), alerts.run(decision(0)).message]
        assert not alerts.outboxes[0].settle(SOON)
        shown += [alerts.outboxes[0].trouble, alerts.undo(decision(1, undo=True)).message]
        assert alerts.outboxes[0].flush(SOON)
        alerts.close()
    for bad in ("hunter2", "hunter2://path-secret", "slack://hunter2", "mailto://me:hunter2@x:99999999"):
        with pytest.raises(SettingsError) as caught:
            Alerts(["json://127.0.0.1/", bad])
        shown.append(str(caught.value))
        assert "number 2" in shown[-1]
    shown += [record.getMessage() for record in caplog.records]
    assert len(shown) > 8
    for secret in secrets:
        assert not [line for line in shown if secret in line]
    assert "error=500" in "".join(shown)


def test_what_others_log_through_apprise_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """We are guests: only what is logged while we send, on our own thread, is kept from its log."""
    caplog.set_level(logging.DEBUG, "apprise")
    with Receiver() as receiver:
        alerts = Alerts(json_url(receiver))
        alerts.run(decision(0))
        assert alerts.outboxes[0].flush(SOON)
        alerts.close()
    logging.getLogger("apprise").warning("from the program itself")
    assert caplog.messages == ["from the program itself"]
    assert logging.getLogger("apprise").filters == []


def test_without_the_library_the_error_has_the_command_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for and missing is an error, at once."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'memwarden\[alerts\]'"):
        Alerts("json://127.0.0.1/")


@pytest.mark.parametrize("urls", [[], [5], ["json://127.0.0.1/", None]])
def test_bad_addresses_are_settings_errors(urls: list[str]) -> None:
    """None at all, or what is no text."""
    with pytest.raises(SettingsError, match="alerts urls"):
        Alerts(urls)
