"""The limit of S3's ``memory_optimizer``: ``@memory_limit(500)``, in megabytes that are MiB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from memwarden.errors import SettingsError
from memwarden.guards.limit import memory_limit

_F = TypeVar("_F", bound=Callable[..., Any])


def seed_memory_limit(max_memory_mb: float) -> Callable[[_F], _F]:
    """A decorator: the function may take so many MiB beyond what is in use at its entry, and else a MemoryError
    (:class:`~memwarden.errors.LimitExceeded`) comes out of it while it runs. Raises
    :class:`~memwarden.errors.SettingsError` for what is no positive number."""
    megabytes: Any = max_memory_mb
    number = isinstance(megabytes, int | float) and not isinstance(megabytes, bool)
    if not number or not 0 < megabytes < float("inf"):
        raise SettingsError(f"memory_limit({max_memory_mb!r}): must be a number of MB above zero, such as 500")
    return memory_limit(round(max_memory_mb * (1 << 20)))
