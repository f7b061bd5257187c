"""The program's log, under one name.

``logging`` costs 7 ms and half a MiB to import, so it is when there is something to say and not before; most programs
have it by then.
"""

from __future__ import annotations

import sys
from typing import Any


def warn(message: str, *arguments: object, **more: Any) -> None:
    """A warning to the logger ``memwarden``."""
    logger().warning(message, *arguments, **more)


def debug(message: str, *arguments: object, **more: Any) -> None:
    """A detail to the logger ``memwarden``; nobody can want it who has not imported ``logging``."""
    if "logging" in sys.modules:
        logger().debug(message, *arguments, **more)


def logger() -> Any:
    """The logger. Where the program has set nothing up, nothing is printed."""
    import logging

    found = logging.getLogger("memwarden")
    if not any(isinstance(handler, logging.NullHandler) for handler in found.handlers):
        found.addHandler(logging.NullHandler())
    return found
