"""The kernel wakes a warden whose time has not come: a real group with a real limit, filled by a real process."""

from __future__ import annotations

WATCHER = """
import sys, time
from memwarden import EventKind, Warden
warden = Warden(interval=600)
told = []
warden.subscribe(lambda event: told.append(event) if event.kind is EventKind.LEVEL else None)
with warden:
    print("watching", warden.status()["woken_for"], flush=True)
    kept = []
    sys.stdin.readline()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(event.value.level.name == "CRITICAL" for event in told):
        if len(kept) < 93:
            kept.append(b"x" * (1 << 20))
        time.sleep(0.01)
    print([event.value.level.name for event in told], flush=True)
"""
