"""A real HTTP receiver on a free port of 127.0.0.1 that can be as bad as receivers are."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

#: A self-signed certificate for 127.0.0.1 and its key, made for these tests and of no other use.
CERTIFICATE = Path(__file__).with_name("localhost.pem")


class Got(NamedTuple):
    """A request: what it held, and how it was treated."""

    line: str
    headers: dict[str, str]
    body: bytes
    treated: Any

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Treats one request after the other as ``script`` says, and when it is at its end, well.

    A treatment is a status; a status with headers (``(429, {"Retry-After": "1"})``); or one of ``"reset"`` (the
    connection is torn before anything is read), ``"cut"`` (torn when the request was read), ``"half"`` (torn within
    the status line), ``"slow"`` (200 after 0.2 s), ``"hang"`` (no answer), ``"drip"`` (a first line without an end).
    """

    def __init__(self, script: Iterable[Any] = (), *, tls: bool = False) -> None:
        self._script = list(script)
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATE)
        self.got: list[Got] = []
        self.refused = 0
        self._changed = threading.Condition()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/in/path-secret"

    def __enter__(self) -> Receiver:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Receiver:
        """Listen; again on the same port after ``stop``."""
        self._ended.clear()
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=16)
        self._thread = threading.Thread(target=self._serve, args=(self._socket,), name="receiver", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening: connections are refused by the system."""
        self._ended.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._socket.close()
            self._socket = None
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None

    def wait_for(self, count: int, seconds: float = 20.0) -> bool:
        """Wait until so many messages were answered with 2xx."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.answered()) >= count, seconds)

    def answered(self) -> list[Got]:
        """The requests that were answered with 2xx, in order."""
        return [got for got in self.got if got.treated in ("slow", "ok") or got.treated in range(200, 300)]

    def _serve(self, listening: socket.socket) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            treatment = self._script.pop(0) if self._script else "ok"
            connection.settimeout(10)
            with contextlib.suppress(OSError, ValueError), connection:
                if treatment == "reset":
                    self.refused += 1
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    continue
                if self._tls is None:
                    self._treat(connection, treatment)
                else:
                    with self._tls.wrap_socket(connection, server_side=True) as secured:
                        self._treat(secured, treatment)

    def _treat(self, connection: socket.socket, treatment: Any) -> None:
        with connection.makefile("rb") as lines:
            first = lines.readline().decode().strip()
            headers = {}
            while line := lines.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = lines.read(int(headers.get("content-length", 0)))
        if not first:
            return
        with self._changed:
            self.got.append(Got(first, headers, body, treatment))
            self._changed.notify_all()
        if treatment == "slow":
            self._ended.wait(0.2)
        status, more = treatment if isinstance(treatment, tuple) else (treatment, {})
        status = 200 if status in ("ok", "slow") else status
        if status == "half":
            connection.sendall(b"HTTP/1.")
        elif status == "hang":
            with contextlib.suppress(OSError):
                connection.recv(1)  # until the sender has had enough
        elif status == "drip":
            until = time.monotonic() + 10
            with contextlib.suppress(OSError):
                while time.monotonic() < until:
                    connection.sendall(b"x")
                    time.sleep(0.05)
        elif isinstance(status, int):
            lines_out = [f"HTTP/1.1 {status} Whatever", "Content-Length: 0", "Connection: close"]
            lines_out += [f"{name}: {value}" for name, value in more.items()]
            connection.sendall("\r\n".join([*lines_out, "", ""]).encode())
