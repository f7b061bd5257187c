"""Control groups of a test's own."""

from __future__ import annotations

import time
from pathlib import Path


def remove_group(path: Path, seconds: float = 10.0) -> None:
    """Remove a control group, as soon as its last process has been reaped."""
    end = time.monotonic() + seconds
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < end, path
            time.sleep(0.02)
