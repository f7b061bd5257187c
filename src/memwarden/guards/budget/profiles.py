"""Processing profiles: plans in order, each needing less memory than the one before.

The numbers of :data:`NUMBERS` are those of the video programs that memwarden replaces (four workers with 512 MiB each
down to one with 64). A caller may pass its own table.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from memwarden.model.units import MIB
from memwarden.model.verdicts import PressureLevel


class Profile(Enum):
    """Plan of a piece of work, from the best quality to the least memory."""

    #: Nothing is reduced; for level LOW.
    FULL_QUALITY = "full_quality"
    #: Quality weighed against memory; for MODERATE.
    BALANCED = "balanced"
    #: Lower quality, little memory; for HIGH.
    MEMORY_OPTIMIZED = "memory_optimized"
    #: The least memory; for CRITICAL.
    SURVIVAL = "survival"

    @property
    def smaller(self) -> Profile | None:
        """The next profile that takes less memory; None below the last."""
        after = PROFILES.index(self) + 1
        return PROFILES[after] if after < len(PROFILES) else None


#: All profiles, the largest first.
PROFILES = tuple(Profile)


class ProfileNumbers(NamedTuple):
    """Numbers of one profile."""

    #: Concurrent workers.
    workers: int
    #: Bytes of input that one worker has at a time.
    chunk: int


NUMBERS = {
    Profile.FULL_QUALITY: ProfileNumbers(4, 512 * MIB),
    Profile.BALANCED: ProfileNumbers(3, 256 * MIB),
    Profile.MEMORY_OPTIMIZED: ProfileNumbers(2, 128 * MIB),
    Profile.SURVIVAL: ProfileNumbers(1, 64 * MIB),
}

_BY_LEVEL = dict(zip(PressureLevel, PROFILES, strict=True))


def profile_for(level: PressureLevel) -> Profile:
    """Return the profile for a pressure level."""
    return _BY_LEVEL[level]
