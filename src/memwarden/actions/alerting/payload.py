"""The content of an alert: one line for people, and JSON for programs; and the way to send it without a trace."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from memwarden.actions.alerting.outbox import Message
from memwarden.model.decisions import Decision
from memwarden.model.serialize import iso, to_dict

#: Longest line of text for people, in characters.
_TEXT = 1000
#: Loggers that write addresses, or parts of them, while something is sent.
_LOGGERS = (
    "apprise", "urllib3.connectionpool", "httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy",
)  # fmt: skip


def is_test(decision: Decision) -> bool:
    """Return whether the decision is a test of the alerts."""
    return bool((decision.details or {}).get("test"))


def text_of(message: Message) -> str:
    """Return the alert as one line for people."""
    decision, mark = message.decision, message.state.upper()
    if is_test(decision):
        mark = "TEST"
    dry_run = ", dry run" if decision.dry_run else ""
    line = f"[{mark}] {decision.rule}: {decision.reason} ({_program()}, pid {os.getpid()}, {_host()}{dry_run})"
    line = one_line(line)
    return line if len(line) <= _TEXT else f"{line[: _TEXT - 1]}…"


def one_line(text: str) -> str:
    """Return the text without line ends and control characters: a reason may contain the name of a process."""
    return "".join(each if each.isprintable() else " " for each in text)


def body_of(message: Message) -> bytes:
    """Return the alert as JSON."""
    decision = message.decision
    body: dict[str, Any] = {
        "type": "memwarden.alert",
        "timestamp": iso(decision.wall),
        "text": text_of(message),
        "schema": 1,
        "state": message.state,
        "test": is_test(decision),
        "sequence": message.number,
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


class _Capture(logging.Filter):
    """Collects the warnings of this thread, and keeps its records from going further."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
        return False


@contextlib.contextmanager
def captured_logs() -> Iterator[list[str]]:
    """Collect the warnings of the libraries that send; none reaches the program's log, because they show addresses."""
    capture = _Capture()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(capture)
    try:
        yield capture.warnings
    finally:
        for logger in loggers:
            logger.removeFilter(capture)
