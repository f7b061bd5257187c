"""What could be done about the memory of a program, computed from what was measured of it and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from memwarden.model.calls import CallGrowth
from memwarden.model.units import MIB, size_text
from memwarden.model.verdicts import Trend

#: What stayed of a function's calls is told from this much on, and from this share of all that grew.
LEAST, SHARE = MIB, 0.1
#: So many functions, and so many peaks, are named at most.
MOST = 3
#: Less than this share of the limit is little.
LITTLE = 0.2


class Point(Protocol):
    """A snapshot, as far as advice goes by it."""

    @property
    def label(self) -> str: ...

    @property
    def rss(self) -> int: ...

    @property
    def peak(self) -> int: ...

    @property
    def available(self) -> int | None: ...

    @property
    def limit(self) -> int | None: ...

    @property
    def source(self) -> str: ...


def advice(
    points: Sequence[Point], spikes: Sequence[Point], trend: Trend, growths: Iterable[CallGrowth]
) -> tuple[str, ...]:
    """Sentences, the weightiest first; none where nothing stands out.

    ``points`` are snapshots in their order, ``spikes`` those before which memory peaked, ``growths`` what stayed of the
    calls of measured functions.
    """
    if not points:
        return ()
    grown = points[-1].rss - points[0].rss
    said = [*_short(points[-1]), *_keepers(growths, grown)]
    if not said and trend.word == "increasing" and grown >= LEAST:
        said.append(
            f"memory grew by {size_text(grown)} over {len(points)} snapshots, and no measured function accounts for it:"
            " put @memory_profile on those that run between them"
        )
    for spike in sorted(spikes, key=lambda each: -each.peak)[:MOST]:
        name = repr(spike.label) if spike.label else "a snapshot"
        said.append(
            f"before {name} memory peaked at {size_text(spike.peak)}, and"
            f" {size_text(spike.rss)} of it were there afterwards: work on less at a time there"
        )
    return tuple(said)


def _short(last: Point) -> Iterable[str]:
    if last.available is not None and last.limit and last.available < LITTLE * last.limit:
        yield (
            f"{size_text(last.available)} are left of {size_text(last.limit)} ({last.source}): give it more, or work on"
            " less at a time"
        )


def _keepers(growths: Iterable[CallGrowth], grown: int) -> Iterable[str]:
    kept = [(each.slope * each.calls, each) for each in growths if each.slope is not None]
    for total, each in sorted(kept, key=lambda pair: -pair[0])[:MOST]:
        assert each.slope is not None
        if total >= max(LEAST, SHARE * grown):
            yield (
                f"{each.name} keeps {size_text(each.slope)} of each call, {size_text(total)} over {each.calls} calls:"
                " look for what it adds to and nobody takes from"
            )
