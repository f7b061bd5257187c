"""``track``: exact peak and growth of a block or a function.

The peak is the kernel's (see :mod:`memwarden.guards.measure.peak_rss`), so that a block which takes and frees 1 GiB in
a millisecond is seen, at the cost of about two reads of ``/proc/self/status`` per call. The figures are those of the
process: memory of other threads counts, and calls that ran at the same time name each other (``shared``). Nested calls
each have a peak of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from memwarden.guards.measure.call_stats import call_stats
from memwarden.guards.measure.call_stats import growths as growths
from memwarden.guards.measure.measurement import Measurement
from memwarden.guards.measure.wrapping import name_of, wrap
from memwarden.readers.factory import process_peak as process_peak

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Track(Measurement):
    """A named block; see :func:`track`."""

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Decorate a function: measure each of its calls under this name."""
        measured: Callable[_P, _R] = _tracked(function, self.name)
        return measured


@overload
def track(target: Callable[_P, _R], /) -> Callable[_P, _R]: ...


@overload
def track(target: str = "block", /) -> Track: ...


def track(target: Any = "block", /) -> Any:
    """Measure a block or the calls of a function.

    ::

        with track("load") as load:
            rows = read_everything()
        print(load.peak, load.rise, load.growth)  # bytes of resident memory


        @track
        def load(): ...

    Functions may be plain, coroutines, generators (measured while their own code runs), asynchronous generators, and
    class or static methods. The calls of a name are added up: :func:`memwarden.guards.measure.profile.profile_report`.
    """
    if isinstance(target, str):
        return Track(target, call_stats(target))
    return _tracked(target, name_of(target))


def _tracked(function: Any, name: str) -> Any:
    stats = call_stats(name)
    return wrap(function, lambda: Measurement(name, stats))
