"""How to process something safely: workers, chunks and quality from what is left, and from the input."""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

from memwarden.errors import ReadError
from memwarden.guards.budget.memory_guard import reserve_of
from memwarden.guards.budget.profiles import NUMBERS, Profile, profile_for
from memwarden.model.units import GIB, MIB, parse_size, size_text
from memwarden.model.verdicts import Assessment

#: A file above this is worked on in chunks where it is written, at any level: a run that ends can then be gone on with.
CHUNKED_ABOVE = 500 * MIB
#: At level HIGH: a file above this part of what is available.
CHUNKED_SHARE = 0.25
#: Below so many available bytes: so many workers and so much in a chunk, at most.
SMALL = ((2 * GIB, 1, 64 * MIB), (4 * GIB, 2, 128 * MIB))


class ProcessingConfig(NamedTuple):
    """How to process something with the memory that is there."""

    mode: Profile
    #: How many may work at the same time.
    max_workers: int
    #: Bytes of input that one of them has at a time.
    chunk_bytes: int
    #: An x264 preset, for who leaves it open.
    quality_preset: str
    #: Whether the input is to be worked on in chunks. False without an input.
    chunked: bool
    #: How many encoders may run at the same time, and bytes of a copy buffer.
    max_encoders: int
    buffer_bytes: int
    #: Whether a graphics card may be used.
    hardware: bool
    #: Further reductions, by name.
    reduced: tuple[str, ...]
    #: Bytes that were available, and whose limit leaves them.
    available: int | None
    source: str
    #: Bytes of the input; None without one.
    input_bytes: int | None
    #: Why it is so, a sentence for each choice.
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as a dict that JSON can hold."""
        plain = self._asdict() | {"mode": self.mode.value, "available_bytes": self.available}
        del plain["available"]
        return plain


def safe_processing_config(
    path: str | os.PathLike[str] | None = None,
    *,
    needs: int | str | None = None,
    assessment: Assessment | None = None,
    processors: int | None = None,
) -> ProcessingConfig:
    """Workers, chunk size and quality preset from the memory that is left here, with the reasons.

    ``path`` is the input, for its size; raises :class:`ReadError` where there is none. ``needs`` is what one worker
    takes (bytes or ``"700MiB"``), where it is known. ``assessment`` is a verdict to go by instead of a look now,
    ``processors`` how many there are.
    """
    size = None if path is None else _size(path)
    need = None if needs is None else parse_size(needs)
    found = _now() if assessment is None else assessment
    mode = profile_for(found.raw)
    numbers, available = NUMBERS[mode], found.available
    source = "" if found.binding is None else found.binding.limit.source
    if available is None:
        mode, numbers = Profile.BALANCED, NUMBERS[Profile.BALANCED]._replace(workers=2, encoders=1, hardware=False)
        reasons = [f"{mode.name}: nothing is known of this machine's memory"]
    else:
        ratio = 0.0 if found.ratio is None else found.ratio
        reasons = [f"{mode.name}: {source} is {ratio:.0%} used, {size_text(available)} are available"]
    workers, chunk = numbers.workers, numbers.chunk
    for below, most, largest in SMALL:
        if available is not None and available < below:
            if workers > most or chunk > largest:
                workers, chunk = min(workers, most), min(chunk, largest)
                reasons.append(
                    f"{workers} workers, {size_text(chunk)} each: less than {size_text(below)} are available"
                )
            break
    count = processors or os.cpu_count() or 1
    if workers > count:
        workers = count
        reasons.append(f"{workers} workers: so many processors are here")
    if need is not None and available is not None:
        total = 0 if found.effective is None else found.effective.bytes
        fit = (available - reserve_of(total)) // need
        if fit < workers:
            workers = max(1, fit)
            reasons.append(f"{workers} workers: each needs {size_text(need)}")
        if fit < 1:
            reasons.append(f"not even one fits: {size_text(need)} are more than is left")
    chunked, why = _chunked(mode, size, available)
    if why:
        reasons.append(why)
    if chunked and size is not None:
        pieces = max(1, math.ceil(size / chunk))
        if pieces < workers:
            workers = pieces
            reasons.append(f"{workers} workers: there are no more chunks of {size_text(chunk)}")
    encoders = min(numbers.encoders, workers)
    return ProcessingConfig(
        mode,
        workers,
        chunk,
        numbers.preset,
        chunked,
        encoders,
        numbers.buffer,
        numbers.hardware,
        numbers.reduced,
        available,
        source,
        size,
        tuple(reasons),
    )


def mode_now() -> Profile:
    """The mode that the memory here allows now; BALANCED where nothing is known of it."""
    found = _now()
    return Profile.BALANCED if found.available is None else profile_for(found.raw)


def _chunked(mode: Profile, size: int | None, available: int | None) -> tuple[bool, str]:
    if size is None:
        return False, ""
    if mode is Profile.SURVIVAL:
        return True, "in chunks: memory is critical, so whatever its size"
    if size > CHUNKED_ABOVE:
        return True, f"in chunks: {size_text(size)} are more than {size_text(CHUNKED_ABOVE)}"
    if mode is Profile.MEMORY_OPTIMIZED and available is not None and size > available * CHUNKED_SHARE:
        return True, f"in chunks: {size_text(size)} are more than {CHUNKED_SHARE:.0%} of what is available"
    return False, f"in one piece: {size_text(size)}"


def _size(path: str | os.PathLike[str]) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError) as error:
        why = "denied" if isinstance(error, PermissionError) else "absent"
        raise ReadError("input", os.fspath(path), why, str(error)) from None


def _now() -> Assessment:
    from memwarden.engine.warden import Warden

    warden = Warden()
    try:
        return warden.sample().assessment
    finally:
        warden.close()
