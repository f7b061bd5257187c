"""``memwarden alerts test`` against real receivers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import memwarden
from support.receiver import Receiver


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it in an environment without settings of ours and without proxies."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept = {name: value for name, value in kept.items() if not name.startswith("MEMWARDEN_")}
    kept["PYTHONPATH"] = str(Path(memwarden.__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, "-m", "memwarden", "alerts", "test", *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_test_alert_arrives_and_is_reported(tmp_path: Path) -> None:
    """At a webhook, signed, and over a service; marked as a test; 0 when all have it."""
    secret = tmp_path / "secret"
    secret.write_text("plain words\n")
    with Receiver() as hook, Receiver() as service:
        address = f"json://127.0.0.1:{service.port}/path-secret"
        done = command("--webhook", hook.url, "--alerts", address, "--webhook-secret-file", str(secret))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"delivered      webhook http://127.0.0.1:{hook.port}/…",
        "delivered      alerts 1 (json)",
    ]
    (got,) = hook.got
    assert got.json["test"] is True
    assert got.json["text"].startswith("[TEST] test: ")
    signed = f"{got.id}.{got.headers['webhook-timestamp']}.".encode() + got.body
    signature = base64.b64encode(hmac.new(b"plain words", signed, hashlib.sha256).digest()).decode()
    assert got.headers["webhook-signature"] == f"v1,{signature}"
    (received,) = service.got
    assert received.json["type"] == "info"
    assert "[TEST]" in received.json["message"]


def test_one_that_does_not_arrive_is_named_with_its_reason() -> None:
    """Targets of the environment, more than one in a variable; 1, and JSON for machines."""
    with Receiver() as good, Receiver([403] * 9) as bad:
        done = command("--json", MEMWARDEN_WEBHOOK=f"{good.url} {bad.url}", MEMWARDEN_WEBHOOK_SECRET="whsec_aGVsbG8=")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {
        "schema": 1,
        "targets": [
            {"target": f"webhook http://127.0.0.1:{good.port}/…", "delivered": True, "why": ""},
            {"target": f"webhook http://127.0.0.1:{bad.port}/…", "delivered": False, "why": "403 Forbidden"},
        ],
    }
    assert "webhook-signature" in good.got[0].headers


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {}, "no target"),
        (["--webhook", "ftp://hunter2"], {}, "webhook url"),
        (["--alerts", "hunter2://x"], {}, "alerts urls: Apprise does not understand number 1"),
        (["--webhook", "http://127.0.0.1:9", "--webhook-secret-file", "/no/such"], {}, "/no/such"),
        (["--webhook", "http://127.0.0.1:9"], {"MEMWARDEN_WEBHOOK_SECRET": "whsec_hunter2"}, "webhook secret"),
        (["--what"], {}, "--what"),
        (["--webhook", " "], {}, "--webhook: must be an address"),
        ([], {"MEMWARDEN_WEBHOOK": "ftp://hunter2"}, "MEMWARDEN_WEBHOOK: webhook url"),
        (["--config", "/no/such"], {}, "/no/such"),
    ],
)
def test_bad_usage_exits_with_2(arguments: list[str], environment: dict[str, str], words: str) -> None:
    """In one line that shows no secret."""
    done = command(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr
