"""Alerts over HTTP: JSON, signed by the Standard Webhooks specification (1.0). Needs the extra ``alerts`` (httpx).

Each state change is posted until the receiver answers with 2xx. ``webhook-id`` is the same for every attempt, so that
a receiver can drop a duplicate when only its answer was lost.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memwarden.actions.alerting.outbox import FIRST, LONGEST, PATIENCE, Message, Outbox, OutboxAction, Undelivered
from memwarden.actions.alerting.payload import body_of, captured_logs
from memwarden.errors import ExtraMissing, SettingsError
from memwarden.model.units import parse_duration

if TYPE_CHECKING:
    import socket

    import httpx

#: 4xx answers after which a retry helps (RFC 9110, 6585 and 8470); the others are refusals.
_RETRIED = frozenset((408, 425, 429))
#: Headers that memwarden sets.
_OURS = frozenset(("connection", "content-length", "content-type", "transfer-encoding"))
_OURS |= {"webhook-id", "webhook-timestamp", "webhook-signature"}
#: Characters of a header's name (RFC 9110, 5.6.2).
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


class Webhook(OutboxAction):
    """Posts each state change (firing, resolved) to each of ``urls``, http or https, in order, until it is accepted.

    ``run`` and ``undo`` only queue; each address has a queue of its own. ``secret`` signs the body: ``whsec_`` and
    base64, or plain text. ``timeout`` bounds one attempt; the wait before a retry starts at ``retry`` seconds and
    doubles up to ``longest``; ``close`` waits ``patience`` for undelivered alerts. Redirects are not followed; proxies
    are taken from the environment. Raises :class:`SettingsError`, which shows neither the path of an address nor the
    secret, and :class:`ExtraMissing` without httpx.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        secret: str | None = None,
        timeout: float | str = 10.0,
        retry: float | str = FIRST,
        longest: float | str = LONGEST,
        patience: float | str = PATIENCE,
        headers: Mapping[str, str] | None = None,
        name: str = "webhook",
    ) -> None:
        from importlib.util import find_spec

        if find_spec("httpx") is None:
            raise ExtraMissing("webhook", "alerts")
        key = None if secret is None else key_of(secret)
        seconds = _seconds("timeout", timeout)
        given: Sequence[object] = urls if isinstance(urls, list | tuple) else [urls]
        outboxes = []
        for place, url in enumerate(given, 1):
            try:
                target = _target(url)
            except SettingsError as error:
                raise SettingsError(f"number {place}: {error}" if len(given) > 1 else str(error)) from None
            post = _Post(str(url), _headers(headers or {}), key, seconds)
            outboxes.append(
                Outbox(
                    f"{name} {target}",
                    "memwarden-webhook",
                    body_of,
                    post.send,
                    first=_seconds("retry", retry),
                    longest=_seconds("longest", longest),
                    abort=post.abort,
                    forget=post.forget,
                )
            )
        super().__init__(name, outboxes, _seconds("patience", patience))


class _Post:
    """Sender of one address, used by one delivery thread."""

    def __init__(self, url: str, headers: dict[str, str], key: bytes | None, timeout: float) -> None:
        self._url, self._headers, self._key, self._timeout = url, headers, key, timeout
        self._client: httpx.Client | None = None
        self._socket: socket.socket | None = None
        self._late = False

    def send(self, message: Message, seconds: float | None) -> None:
        seconds = self._timeout if seconds is None else min(seconds, self._timeout)
        self._late = False
        # The timeouts of HTTP clients start again with every byte: a receiver that drips would never be late.
        timer = threading.Timer(seconds, self.abort)
        timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no thread to be had: the client's own timeouts must do
            timer.start()
        try:
            with captured_logs():
                status, headers = self._post(message, seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may contain the address
            self._client = None  # proxies and certificates may have changed by the next attempt
            raise Undelivered(f"no answer within {seconds:g} s") if self._late else _failure(error, seconds) from None
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()  # a late one must not abort the next attempt
            self.forget(drop_client=False)
        if not 200 <= status < 300:
            raise _refusal(status, headers)

    def _post(self, message: Message, seconds: float) -> tuple[int, Mapping[str, str]]:
        import ssl

        import httpx

        if self._client is None:
            # The system's authorities instead of certifi's; one connection for each attempt.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._client = httpx.Client(verify=ssl.create_default_context(), limits=limits, follow_redirects=False)
        request = self._client.build_request(
            "POST", self._url, content=message.payload, headers=self._signed(message), timeout=seconds,
            extensions={"trace": self._trace},
        )  # fmt: skip
        response = self._client.send(request, stream=True)  # the rest of the answer is not read
        response.close()
        return response.status_code, response.headers

    def _signed(self, message: Message) -> dict[str, str]:
        stamp = int(time.time())
        headers = {
            "User-Agent": "memwarden",
            **self._headers,
            "Connection": "close",
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(stamp),
        }
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, message.id, stamp, message.payload)
        return headers

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Keep the socket, so that :meth:`abort` can interrupt the attempt. A copy, because TLS takes it over."""
        if event == "connection.connect_tcp.complete":
            self._socket = info["return_value"].get_extra_info("socket").dup()
            if self._late:
                self.abort()

    def abort(self) -> None:
        """Interrupt a running attempt, from another thread."""
        self._late = True
        connected = self._socket
        if connected is not None:
            import socket

            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def forget(self, *, drop_client: bool = True) -> None:
        """Close our copy of the socket; in a child after fork also drop the client, with the parent's locks."""
        connected, self._socket = self._socket, None
        if connected is not None:
            connected.close()
        if drop_client:
            self._client = None


def sign(key: bytes, identity: str, stamp: int, body: bytes) -> str:
    """Return the ``webhook-signature``: ``v1,`` and the HMAC-SHA256 over ``id.timestamp.body`` in base64."""
    import base64
    import hashlib
    import hmac

    digest = hmac.new(key, f"{identity}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


# --- failures ----------------------------------------------------------------------------------------------


def _refusal(status: int, headers: Mapping[str, str]) -> Undelivered:
    import httpx

    why = f"{status} {httpx.codes.get_reason_phrase(status)}".rstrip()
    if 300 <= status < 400:
        return Undelivered(f"{why}: redirects are not followed; use the address that it leads to", refused=True)
    if status in (429, 503):
        return Undelivered(why, after=_retry_after(headers.get("Retry-After")))
    return Undelivered(why, refused=400 <= status < 500 and status not in _RETRIED)


def _retry_after(text: str | None) -> float | None:
    """Return the requested wait in seconds, from a number or a date (RFC 9110, 10.2.3)."""
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


def _failure(error: BaseException, seconds: float) -> Undelivered:
    """Return the failure in words without any part of the address or the headers."""
    import ssl

    import httpx

    if isinstance(error, httpx.TimeoutException):
        return Undelivered(f"no answer within {seconds:g} s")
    cause: BaseException | None = error
    while cause is not None:  # httpx wraps the errors of httpcore, which wraps those of the system
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Undelivered(f"its certificate is not trusted: {cause.verify_message}", refused=True)
        if isinstance(cause, OSError) and cause.strerror:
            return Undelivered(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.InvalidURL):
        return Undelivered("its address is not valid", refused=True)
    if isinstance(error, httpx.RemoteProtocolError):
        return Undelivered("the receiver disconnected before it answered")
    return Undelivered(f"{type(error).__name__} while sending")


# --- settings ----------------------------------------------------------------------------------------------

_GOOD = "write one like https://hooks.example.org/in/1234"


def _target(url: object) -> str:
    """Check an address; return the part of it that may be shown."""
    from urllib.parse import urlsplit

    if not isinstance(url, str) or not url:
        raise SettingsError(f"webhook url: no address was given; {_GOOD}")
    if any(each.isspace() or not each.isprintable() for each in url):
        raise SettingsError(f"webhook url: it has blanks or control characters; {_GOOD}")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except ValueError:  # UnicodeError is one
        raise SettingsError(f"webhook url: its host or port is not valid; {_GOOD}") from None
    if parts.scheme not in ("http", "https"):
        raise SettingsError(f"webhook url: it must start with https:// or http://; {_GOOD}")
    if not host or port == 0:
        raise SettingsError(f"webhook url: it has no {'port' if host else 'host'}; {_GOOD}")
    base = f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")
    return base + ("/…" if parts.path not in ("", "/") or parts.query else "/")


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
    """Return the key of a secret. Raises :class:`SettingsError`, which shows nothing of it."""
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
        raise SettingsError(f"webhook secret: the part after whsec_ is not base64; {good}")
    return key


def _seconds(name: str, value: float | str) -> float:
    try:
        return parse_duration(value)
    except SettingsError as error:
        raise SettingsError(f"webhook {name}: {error}") from None
