"""The modes of processing: an ordered ladder of plans, each with less memory than the one before.

The numbers are those that the video programs were written for (four workers with 512 MiB each down to one with 64),
so that a program that moves here keeps its shape.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from memwarden.model.units import KIB, MIB
from memwarden.model.verdicts import PressureLevel


class Profile(Enum):
    """How work is done, from the best quality to the least that avoids running out of memory."""

    #: Nothing is reduced; for level LOW.
    FULL_QUALITY = "full_quality"
    #: Quality weighed against memory; for MODERATE.
    BALANCED = "balanced"
    #: Lower quality, little memory; for HIGH.
    MEMORY_OPTIMIZED = "memory_optimized"
    #: The least that gets through; for CRITICAL.
    SURVIVAL = "survival"

    @property
    def smaller(self) -> Profile | None:
        """The next one that takes less memory; None below the last."""
        after = LADDER.index(self) + 1
        return LADDER[after] if after < len(LADDER) else None


#: All modes, the largest first.
LADDER = tuple(Profile)


class Numbers(NamedTuple):
    """What a mode works with."""

    #: How many work at the same time.
    workers: int
    #: Bytes of input that one of them has at a time.
    chunk: int
    #: An x264 preset. Only for who leaves it open: what somebody chose himself is never replaced.
    preset: str
    #: Bytes of a copy buffer.
    buffer: int
    #: How many encoders run at the same time.
    encoders: int
    #: Whether a graphics card may be used, whose driver takes memory of its own.
    hardware: bool = True
    #: Further reductions, by name.
    reduced: tuple[str, ...] = ()


NUMBERS = {
    Profile.FULL_QUALITY: Numbers(4, 512 * MIB, "slow", 128 * KIB, 3),
    Profile.BALANCED: Numbers(3, 256 * MIB, "medium", 64 * KIB, 2),
    Profile.MEMORY_OPTIMIZED: Numbers(2, 128 * MIB, "fast", 32 * KIB, 1, reduced=("reduce_resolution",)),
    Profile.SURVIVAL: Numbers(
        1, 64 * MIB, "ultrafast", 16 * KIB, 1, False, ("force_low_resolution", "skip_audio_normalization")
    ),
}

_BY_LEVEL = dict(zip(PressureLevel, LADDER, strict=True))


def profile_for(level: PressureLevel) -> Profile:
    """The mode for a pressure level: LOW allows everything, CRITICAL the least."""
    return _BY_LEVEL[level]
