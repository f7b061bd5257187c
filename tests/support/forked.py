"""Checks that run in a forked child."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

#: Seconds after which a child is killed.
ALARM = 20


def run_in_child(check: Callable[[], None], end: Callable[[int], None] = os._exit) -> NoReturn:
    """Run a check as the rest of a child's life: exit code 0, or 1 with a traceback."""
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(ALARM)
        check()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    end(code)
    raise AssertionError("the end of a child returned")


def ended_well(pid: int) -> bool:
    """Wait for a child; False where it failed or was killed by its alarm."""
    return os.waitpid(pid, 0)[1] == 0
