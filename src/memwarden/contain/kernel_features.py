"""Which facilities of the kernel and of Python are there, and what is lost without each."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from memwarden.errors import ReadError
from memwarden.readers.linux.process import read_pss


class KernelFeature(NamedTuple):
    """One facility. ``missing`` says why it is not there (empty: it is), ``otherwise`` what happens then."""

    name: str
    missing: str
    otherwise: str


def survey_kernel_features(proc: str = "/proc") -> list[KernelFeature]:
    """Each facility, tried."""

    def exists(path: str) -> str:
        return "" if os.path.exists(path) else f"{path} is absent"

    rows: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("process descriptors", _pidfd, "signals are checked by start time only (Linux 5.3 has them)"),
        (
            "children lists",
            lambda: exists(f"{proc}/self/task/{os.getpid()}/children"),
            "trees are found by a slower scan",
        ),
        ("proportional sizes", lambda: _pss(proc), "shared pages count once for each process"),
        ("pressure stall information", lambda: exists(f"{proc}/pressure/memory"), "no stall times (Linux 4.20, psi=1)"),
        ("death signal", _ctypes, "a command outlives a monitor that is killed"),
    )
    return [KernelFeature(name, probe(), otherwise) for name, probe, otherwise in rows]


def _pidfd() -> str:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return str(error)
    return ""


def _pss(proc: str) -> str:
    try:
        read_pss(os.getpid(), proc)
    except ReadError as error:
        return str(error)
    return ""


def _ctypes() -> str:
    try:
        import ctypes  # noqa: F401
    except ImportError:
        return "this Python was built without ctypes"
    return ""
