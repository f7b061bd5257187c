"""Workers and chunk size from available memory and the size of the input."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from memwarden.errors import ReadError
from memwarden.guards.budget.memory_guard import reserve_of
from memwarden.guards.budget.profiles import NUMBERS, Profile, ProfileNumbers, profile_for
from memwarden.model.units import GIB, MIB, parse_size, size_text
from memwarden.model.verdicts import Assessment

#: A larger file is processed in chunks at any level, so that an interrupted run can be resumed.
CHUNKED_ABOVE = 500 * MIB
#: At level HIGH, a file above this share of the available memory is processed in chunks.
CHUNKED_SHARE = 0.25
#: Below so many available bytes: at most so many workers and so many bytes per chunk.
SMALL = ((2 * GIB, 1, 64 * MIB), (4 * GIB, 2, 128 * MIB))
#: Workers at most where available memory is unknown.
UNKNOWN_WORKERS = 2


class ProcessingConfig(NamedTuple):
    """Settings for processing an input with the available memory."""

    profile: Profile
    #: Concurrent workers.
    max_workers: int
    #: Bytes of input that one worker has at a time.
    chunk_bytes: int
    #: True where the input is to be processed in chunks; False without an input.
    chunked: bool
    #: Available bytes, and the source of the limit that leaves them.
    available: int | None
    source: str
    #: Size of the input; None without one.
    input_bytes: int | None
    #: One sentence for each choice.
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can represent."""
        plain = self._asdict() | {"profile": self.profile.value, "available_bytes": self.available}
        del plain["available"]
        return plain


def safe_processing_config(
    path: str | os.PathLike[str] | None = None,
    *,
    needs: int | str | None = None,
    numbers: Mapping[Profile, ProfileNumbers] = NUMBERS,
    assessment: Assessment | None = None,
    processors: int | None = None,
) -> ProcessingConfig:
    """Return workers and chunk size for the memory that is available, with the reasons.

    ``path`` is the input; :class:`ReadError` is raised where there is none. ``needs`` is the memory of one worker
    (bytes or ``"700MiB"``). ``numbers`` is a table of your own. ``assessment`` replaces a reading of the memory now,
    ``processors`` the number of processors.
    """
    size = None if path is None else _size(path)
    need = None if needs is None else parse_size(needs)
    found = _now() if assessment is None else assessment
    available = found.available
    source = "" if found.binding is None else found.binding.limit.source
    profile = _profile(found)
    workers, chunk = numbers[profile]
    if available is None:
        workers = min(workers, UNKNOWN_WORKERS)
        reasons = [f"{profile.name}: the memory of this machine cannot be read"]
    else:
        ratio = 0.0 if found.ratio is None else found.ratio
        reasons = [f"{profile.name}: {source} is {ratio:.0%} used, {size_text(available)} are available"]
        for below, most, largest in SMALL:
            if available < below:
                if workers > most or chunk > largest:
                    workers, chunk = min(workers, most), min(chunk, largest)
                    reasons.append(
                        f"{workers} workers, {size_text(chunk)} each: less than {size_text(below)} are available"
                    )
                break
    count = processors or os.cpu_count() or 1
    if workers > count:
        workers = count
        reasons.append(f"{workers} workers: the number of processors")
    if need is not None and available is not None:
        total = 0 if found.effective is None else found.effective.bytes
        fit = (available - reserve_of(total)) // need
        if fit < workers:
            workers = max(1, fit)
            reasons.append(f"{workers} workers: each needs {size_text(need)}")
        if fit < 1:
            reasons.append(f"not even one fits: {size_text(need)} are more than is available")
    chunked, why = _chunked(profile, size, available)
    if why:
        reasons.append(why)
    if chunked and size is not None:
        chunks = max(1, math.ceil(size / chunk))
        if chunks < workers:
            workers = chunks
            reasons.append(f"{workers} workers: there are no more chunks of {size_text(chunk)}")
    return ProcessingConfig(profile, workers, chunk, chunked, available, source, size, tuple(reasons))


def profile_now() -> Profile:
    """Return the profile for the memory that is available now."""
    return _profile(_now())


def _profile(found: Assessment) -> Profile:
    return Profile.BALANCED if found.available is None else profile_for(found.raw)


def _chunked(profile: Profile, size: int | None, available: int | None) -> tuple[bool, str]:
    if size is None:
        return False, ""
    if profile is Profile.SURVIVAL:
        return True, "in chunks: the pressure level is CRITICAL"
    if size > CHUNKED_ABOVE:
        return True, f"in chunks: {size_text(size)} are more than {size_text(CHUNKED_ABOVE)}"
    if profile is Profile.MEMORY_OPTIMIZED and available is not None and size > available * CHUNKED_SHARE:
        return True, f"in chunks: {size_text(size)} are more than {CHUNKED_SHARE:.0%} of the available memory"
    return False, f"in one piece: {size_text(size)}"


def _size(path: str | os.PathLike[str]) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError) as error:
        why = "denied" if isinstance(error, PermissionError) else "absent"
        raise ReadError("input", os.fspath(path), why, str(error)) from None


def _now() -> Assessment:
    from memwarden.engine.warden import Warden

    with contextlib.closing(Warden()) as warden:
        return warden.sample().assessment
