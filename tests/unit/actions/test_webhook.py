"""Arguments and body of a webhook; tests/live sends to real receivers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from memwarden.actions.alerting.outbox import Message
from memwarden.actions.alerting.payload import body_of, text_of
from memwarden.actions.alerting.webhook import Webhook, _refusal, _retry_after, key_of, sign
from memwarden.errors import ExtraMissing, SettingsError
from memwarden.model.decisions import Decision
from memwarden.model.serialize import to_dict

URL = "https://hooks.example.org/T0/secret-path?key=secret-value"


def decision(reason: str = "because", **more: Any) -> Decision:
    """Return a decision."""
    return Decision(rule="r", action="webhook", reason=reason, wall=1_700_000_000.5, monotonic=5.0, **more)


MESSAGE = Message(id="msg_x_1", number=1, rule="r", state="firing", decision=decision())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"url": "ftp://hooks.example.org/secret-path"}, ["url", "https:// or http://"]),
        ({"url": "hooks.example.org/secret-path"}, ["url", "https:// or http://"]),
        ({"url": "https:///secret-path"}, ["url", "host"]),
        ({"url": "https://me:secret-path@"}, ["url", "host"]),
        ({"url": "https://host:70000/secret-path"}, ["url", "port"]),
        ({"url": "https://host:0/secret-path"}, ["url", "port"]),
        ({"url": "https://[::1/secret-path"}, ["url", "host"]),
        ({"url": f"https://{'x' * 64}.org/secret-path"}, ["url", "host"]),
        ({"url": "https://host/secret-path\r\nX: y"}, ["url", "control characters"]),
        ({"url": ""}, ["url", "no address"]),
        ({"url": None}, ["url", "no address"]),
        ({"timeout": 0}, ["timeout", "more than zero"]),
        ({"timeout": "soon"}, ["timeout", "soon"]),
        ({"timeout": float("nan")}, ["timeout"]),
        ({"retry": -1}, ["retry"]),
        ({"longest": float("inf")}, ["longest"]),
        ({"patience": None}, ["patience"]),
        ({"headers": {"X-Key": "secret-path\nX: y"}}, ["headers", "X-Key"]),
        ({"headers": {"X-Key": "secret-path\u00e4"}}, ["headers", "X-Key"]),
        ({"headers": {"X-Key": 5}}, ["headers", "X-Key"]),
        ({"headers": {"X Key": "1"}}, ["headers", "X Key"]),
        ({"headers": {"X:": "1"}}, ["headers", "X:"]),
        ({"headers": {"Content-Length": "1"}}, ["headers", "Content-Length"]),
        ({"headers": {"Webhook-Id": "1"}}, ["headers", "Webhook-Id"]),
        ({"secret": "  "}, ["secret", "empty"]),
        ({"secret": "whsec_secret-path"}, ["secret", "base64"]),
        ({"secret": "whsec_"}, ["secret", "base64"]),
        ({"secret": b"secret-path"}, ["secret"]),
    ],
)
def test_bad_input_is_named_and_no_secret_with_it(more: dict[str, Any], words: list[str]) -> None:
    """Which argument, what is wrong; never the address or the value, which may be a key."""
    with pytest.raises(SettingsError) as caught:
        Webhook(**{"urls": URL, **{"urls" if name == "url" else name: value for name, value in more.items()}})
    text = str(caught.value)
    assert text.startswith("webhook ")
    assert all(word in text for word in words)
    assert "secret-path" not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "https://hooks.example.org/…"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80/"),
        ("HTTPS://Me:Key@Example.ORG:8443/a%20b#frag", "https://example.org:8443/…"),
        ("http://[::1]:8080/x", "http://[::1]:8080/…"),
        ("https://b\u00fccher.example/\u00e4?\u00f6=1", "https://xn--bcher-kva.example/…"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """Scheme, host and port; never the path, the query or the login."""
    hook = Webhook(url)
    assert repr(hook) == f"Webhook(webhook {shown})"


def test_without_httpx_the_error_has_the_command_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """At construction, not at the first alert."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'memwarden\[alerts\]'"):
        Webhook(URL)


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the Standard Webhooks reference implementations."""
    key = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


class Odd:
    """Something that JSON does not know."""

    def __str__(self) -> str:
        return "odd"


def test_the_body_has_the_decision_and_the_sender() -> None:
    """With a line for people, and nothing that JSON cannot hold."""
    reason = "name\n\x1b[31m \ud800 \u00e4"
    odd = decision(reason, dry_run=True, details={"nan": float("nan"), "at": Odd()})
    body = json.loads(body_of(replace(MESSAGE, decision=odd)))
    assert body["state"] == "firing"
    assert body["sequence"] == 1
    assert body["decision"] == json.loads(json.dumps(to_dict(odd)))
    assert "\n" not in body["text"]
    assert "\x1b" not in body["text"]
    assert "dry run" in body["text"]
    assert {"host", "pid", "program", "timestamp", "type", "schema", "test"} <= set(body)


def test_the_line_for_people() -> None:
    """State first; a test is marked as one; a reason without end is cut."""
    assert text_of(MESSAGE).startswith("[FIRING] r: because (")
    assert text_of(replace(MESSAGE, state="resolved")).startswith("[RESOLVED] r:")
    tried = decision(details={"test": True})
    assert text_of(replace(MESSAGE, decision=tried)).startswith("[TEST] r:")
    assert len(text_of(replace(MESSAGE, decision=decision("x" * 5000)))) == 1000


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("120", 120, 120),
        (" 0 ", 0, 0),
        ("9" * 30, 999_999_999, 999_999_999),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2199 07:28:00 GMT", 1e9, 1e10),
    ],
)
def test_retry_after(text: str, low: float, high: float) -> None:
    """A number of seconds, or a date; one that is over means now."""
    seconds = _retry_after(text)
    assert seconds is not None
    assert low <= seconds <= high


@pytest.mark.parametrize("text", [None, "", "soon", "-1", "1.5", "\u0661", "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_cannot_be_understood_is_none(text: str | None) -> None:
    """Then our own pace holds."""
    assert _retry_after(text) is None


@pytest.mark.parametrize(
    ("status", "refused", "after"),
    [
        *[(status, True, None) for status in (301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 413, 422)],
        *[(status, False, None) for status in (408, 425, 500, 502, 504, 599)],
        (429, False, 7.0),
        (503, False, 7.0),
    ],
)
def test_what_an_answer_means(status: int, refused: bool, after: float | None) -> None:
    """Refused: waiting does not help; else it does, for as long as the receiver requests."""
    failure = _refusal(status, {"Retry-After": "7"})
    assert (failure.refused, failure.after) == (refused, after)
    assert str(status) in str(failure)


def test_importing_it_brings_no_http() -> None:
    """A webhook that never fires does not load HTTP and TLS."""
    program = (
        "import sys; from memwarden.actions.alerting.webhook import Webhook;"
        "Webhook('https://example.org/x', secret='s');"
        "print(*{'httpx', 'http', 'ssl', 'urllib.request', 'asyncio', 'email', 'hmac', 'random'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
