"""Telling a receiver over HTTP: JSON, signed as the Standard Webhooks specification (1.0) says.

Each state change is posted until the receiver answers with 2xx. ``webhook-id`` is the same for every try, so
that a receiver can drop what it took already when only its answer was lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memwarden.actions.alerting.outbox import (
    FIRST,
    LONGEST,
    MOST,
    PATIENCE,
    Message,
    Outbox,
    Undelivered,
    close_all,
    take_all,
)
from memwarden.errors import SettingsError
from memwarden.model.decisions import Decision, Outcome
from memwarden.model.serialize import iso, to_dict
from memwarden.model.units import parse_duration

if TYPE_CHECKING:
    import socket
    from urllib.request import OpenerDirector

#: Answers of the 4xx kind after which waiting helps (RFC 9110, 6585 and 8470); the others are refusals.
_PASSING = frozenset((408, 425, 429))
#: Headers that are ours to set.
_OURS = frozenset(("connection", "content-length", "content-type", "transfer-encoding"))
_OURS |= {"webhook-id", "webhook-timestamp", "webhook-signature"}
#: Letters of a header's name (RFC 9110, 5.6.2).
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
#: Longest line of text for people, in characters.
_TEXT = 1000


class Webhook:
    """Posts each state change (firing, resolved) to ``url``, http or https, in order, until it is taken.

    ``run`` and ``undo`` only queue. ``secret`` signs the body: ``whsec_`` and base64, or plain text. ``timeout``
    bounds one try; tries come again after ``retry`` seconds, doubling up to ``longest``; ``close`` waits
    ``patience`` for what is left. ``reminders`` also tells repetitions. Redirects are not followed; proxies are
    taken from the environment as urllib does. Raises :class:`SettingsError`; neither the path of the address nor
    the secret is ever shown.
    """

    #: It tells, and changes nothing: also in a dry run.
    harms = False

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        timeout: float | str = 10.0,
        retry: float | str = FIRST,
        longest: float | str = LONGEST,
        patience: float | str = PATIENCE,
        headers: Mapping[str, str] | None = None,
        reminders: bool = False,
        most: int = MOST,
        name: str = "webhook",
    ) -> None:
        self.name = name
        self._url, self.target, login = _address(url)
        self._headers = {**login, **_headers(headers or {})}
        self._key = None if secret is None else key_of(secret)
        self._timeout = _seconds("timeout", timeout)
        self._opener: OpenerDirector | None = None
        self._held: socket.socket | None = None
        self._late = False
        self.outbox = Outbox(
            f"{name} {self.target}",
            "memwarden-webhook",
            _body,
            self._post,
            reminders=reminders,
            first=_seconds("retry", retry),
            longest=_seconds("longest", longest),
            patience=_seconds("patience", patience),
            most=most,
            give_up=self._cut,
            forget=self._let_go,
        )

    def __repr__(self) -> str:
        return f"Webhook({self.target!r})"

    def run(self, decision: Decision) -> Outcome:
        """Queue that a rule fires."""
        return self.outbox.take(decision)

    def undo(self, decision: Decision) -> Outcome:
        """Queue that it is resolved, where it was told that it fires."""
        return self.outbox.take(decision)

    def close(self) -> None:
        """Deliver what waits within ``patience``; what is left is named in the log."""
        self.outbox.close()

    # --- on the delivery thread -----------------------------------------------------------------------

    def _post(self, letter: Message, seconds: float | None) -> None:
        from urllib.error import HTTPError
        from urllib.request import Request

        seconds = self._timeout if seconds is None else min(seconds, self._timeout)
        request = Request(self._url, letter.payload, self._signed(letter), method="POST")
        self._late = False
        # A socket's timeout begins anew with every byte: a receiver that drips would never be late.
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no more threads: then the socket's own timeout must do
            timer.start()
        try:
            if self._opener is None:
                self._opener = _opener(self._hold)
            with self._opener.open(request, timeout=seconds):
                return  # anything but 2xx is an HTTPError
        except HTTPError as error:
            error.close()
            raise _refusal(error.code, error.headers) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the address
            self._opener = None  # proxies and certificates may be others by the next try
            if self._late or isinstance(_cause(error), TimeoutError):
                raise Undelivered(f"no answer within {seconds:g} s") from None
            raise _trouble(_cause(error)) from None
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()  # a late one must not cut the next try
            self._let_go()

    def _signed(self, letter: Message) -> dict[str, str]:
        stamp = str(int(time.time()))
        headers = {
            "User-Agent": "memwarden",
            **self._headers,
            "Content-Type": "application/json",
            "webhook-id": letter.id,
            "webhook-timestamp": stamp,
        }
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, letter.id, stamp, letter.payload)
        return headers

    def _hold(self, connection: socket.socket) -> None:
        # A copy, because TLS takes the socket itself over.
        self._held = connection.dup()
        if self._late:
            raise TimeoutError

    def _cut(self) -> None:
        """End a try that is under way, from another thread."""
        self._late = True
        held = self._held
        if held is not None:
            import socket

            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()


class Webhooks:
    """Posts each state change to every one of ``urls`` under one name; each has a queue of its own.

    ``more`` is what :class:`Webhook` takes. Raises :class:`SettingsError`.
    """

    #: It tells, and changes nothing: also in a dry run.
    harms = False

    def __init__(
        self, urls: Sequence[str], *, patience: float | str = PATIENCE, name: str = "webhook", **more: Any
    ) -> None:
        self.name = name
        self._patience = _seconds("patience", patience)
        self.outboxes: list[Outbox] = []
        for place, url in enumerate(urls, 1):
            try:
                self.outboxes.append(Webhook(url, patience=patience, name=name, **more).outbox)
            except SettingsError as error:
                raise SettingsError(f"number {place}: {error}" if len(urls) > 1 else str(error)) from None

    def __repr__(self) -> str:
        return f"Webhooks({', '.join(outbox.label for outbox in self.outboxes)})"

    def run(self, decision: Decision) -> Outcome:
        """Queue that a rule fires."""
        return take_all(self.outboxes, decision)

    def undo(self, decision: Decision) -> Outcome:
        """Queue that it is resolved, where it was told that it fires."""
        return take_all(self.outboxes, decision)

    def close(self) -> None:
        """Deliver what waits within ``patience``; what is left is named in the log."""
        close_all(self.outboxes, self._patience)


def sign(key: bytes, identity: str, stamp: str, body: bytes) -> str:
    """The ``webhook-signature`` of a body: ``v1,`` and the HMAC-SHA256 over ``id.timestamp.body`` in base64."""
    import base64
    import hashlib
    import hmac

    digest = hmac.new(key, f"{identity}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


# --- what is sent ------------------------------------------------------------------------------------------


def is_test(decision: Decision) -> bool:
    """Whether somebody only tries whether alerts arrive."""
    return bool((decision.details or {}).get("test"))


def text_of(letter: Message) -> str:
    """The alert as one line for people."""
    decision, mark = letter.decision, letter.state.upper()
    if letter.reminder:
        mark = f"STILL {mark}"
    if is_test(decision):
        mark = "TEST"
    rehearsed = ", dry run" if decision.dry_run else ""
    line = f"[{mark}] {decision.rule}: {decision.reason} ({_program()}, pid {os.getpid()}, {_host()}{rehearsed})"
    line = one_line(line)
    return line if len(line) <= _TEXT else f"{line[: _TEXT - 1]}…"


def one_line(text: str) -> str:
    """The text without line ends and control characters: a process chooses its name, and it may stand in a reason."""
    return "".join(each if each.isprintable() else " " for each in text)


def _body(letter: Message) -> bytes:
    decision = letter.decision
    body: dict[str, Any] = {
        "type": "memwarden.alert",
        "timestamp": iso(decision.wall),
        "text": text_of(letter),
        "schema": 1,
        "state": letter.state,
        "reminder": letter.reminder,
        "test": is_test(decision),
        "sequence": letter.number,
        "host": _host(),
        "pid": os.getpid(),
        "program": _program(),
        "decision": to_dict(decision),
    }
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


def _host() -> str:
    import socket

    return socket.gethostname()


def _program() -> str:
    path: str = (getattr(sys, "argv", None) or [""])[0]
    if path in ("", "-", "-c", "-m"):
        return "python"
    folder, name = os.path.split(path)
    return os.path.basename(folder) or name if name == "__main__.py" else name


# --- what went wrong ---------------------------------------------------------------------------------------


def _refusal(status: int, headers: Any) -> Undelivered:
    from http import HTTPStatus

    try:
        why = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        why = str(status)
    if 300 <= status < 400:
        return Undelivered(f"{why}: redirects are not followed; give the address that it leads to", refused=True)
    if status in (429, 503):
        return Undelivered(why, after=_retry_after(headers.get("Retry-After")))
    return Undelivered(why, refused=400 <= status < 500 and status not in _PASSING)


def _retry_after(text: str | None) -> float | None:
    """Seconds that a receiver asks for: a number, or a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _cause(error: BaseException) -> BaseException:
    reason = getattr(error, "reason", None)  # urllib wraps what the system said
    return reason if isinstance(reason, BaseException) else error


def _trouble(error: BaseException) -> Undelivered:
    """In words that hold nothing of the address or of the headers."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return Undelivered(f"its certificate is not trusted: {error.verify_message}", refused=True)
    if isinstance(error, OSError) and error.strerror:
        return Undelivered(error.strerror)
    name = type(error).__name__
    return Undelivered("it hung up before it answered" if name == "RemoteDisconnected" else f"{name} while sending")


def _opener(hold: Callable[[socket.socket], None]) -> OpenerDirector:
    """What posts: proxies of the environment, verified TLS, no redirects, nothing but http and https."""
    import http.client
    import ssl
    import urllib.request as request

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            hold(self.sock)

    class Secure(http.client.HTTPSConnection, Plain):
        """Connects as Plain does, then begins TLS."""

    class Http(request.HTTPHandler):
        def http_open(self, req: request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class Https(request.HTTPSHandler):
        def https_open(self, req: request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req, context=context)

    context = ssl.create_default_context()
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        Http(),
        Https(),
    ):
        opener.add_handler(handler)
    return opener


# --- what was given ----------------------------------------------------------------------------------------

_GOOD = "write one like https://hooks.example.org/in/1234"


def _address(url: object) -> tuple[str, str, dict[str, str]]:
    """The address as it is sent, as it may be shown, and the header that a login in it stands for."""
    from urllib.parse import quote, unquote, urlsplit

    if not isinstance(url, str) or not url:
        raise SettingsError(f"webhook url: no address was given; {_GOOD}")
    if any(each.isspace() or not each.isprintable() for each in url):
        raise SettingsError(f"webhook url: it has blanks or control characters; {_GOOD}")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("ascii" if ":" in (parts.hostname or "") else "idna").decode()
    except ValueError:  # UnicodeError is one
        raise SettingsError(f"webhook url: its host or port cannot be understood; {_GOOD}") from None
    if parts.scheme not in ("http", "https"):
        raise SettingsError(f"webhook url: it must begin with https:// or http://; {_GOOD}")
    if not host or port == 0:
        raise SettingsError(f"webhook url: it names no {'port' if host else 'host'}; {_GOOD}")
    place = f"[{host}]" if ":" in host else host
    if port is not None:
        place += f":{port}"
    path = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*-._")
    query = "?" + quote(parts.query, safe="/%:=&~+!$,;'@()*-._?") if parts.query else ""
    login = {}
    if parts.username is not None:
        import base64

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    base = f"{parts.scheme}://{place}"
    return base + path + query, base + ("/…" if path + query != "/" else "/"), login


def _headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not name or not set(name.lower()) <= _TOKEN:
            raise SettingsError(f"webhook headers: {name!r} is not the name of a header")
        if name.lower() in _OURS:
            raise SettingsError(f"webhook headers: {name} is set by memwarden itself; leave it out")
        if not isinstance(value, str) or not value.isprintable() or not value.isascii():
            raise SettingsError(f"webhook headers: the value of {name} must be one line of ASCII text")
    return dict(headers)


def key_of(secret: object) -> bytes:
    """What signs, from a secret as people write it. Raises :class:`SettingsError`, which shows nothing of it."""
    good = "write whsec_ and base64, or plain text"
    if not isinstance(secret, str) or not secret.strip():
        raise SettingsError(f"webhook secret: it is empty; {good}")
    secret = secret.strip()
    if not secret.startswith("whsec_"):
        return secret.encode()
    import base64
    import binascii

    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise SettingsError(f"webhook secret: what follows whsec_ is not base64; {good}")
    return key


def _seconds(name: str, value: float | str) -> float:
    try:
        return parse_duration(value)
    except SettingsError as error:
        raise SettingsError(f"webhook {name}: {error}") from None
