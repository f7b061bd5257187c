"""Calls that the standard library does not offer, and signals to processes of this machine."""

from __future__ import annotations

from memwarden.model.facts import ProcessKey
from memwarden.process import signals
from memwarden.readers.linux.identity import ProcProbe

PR_SET_CHILD_SUBREAPER = 36

_probe = ProcProbe()
key_of, alive = _probe.key_of, _probe.alive


def become_subreaper() -> bool:
    """Make this process the parent of its descendants' orphans (Linux 3.4). Only for a process that is ours."""
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, AttributeError, OSError):
        return False


def send(key: ProcessKey, number: int) -> None:
    """Signal exactly this process; see :func:`memwarden.process.signals.send`."""
    signals.send(key, number, _probe)
