"""Facts of several readers as one dict; a reader that fails becomes a gap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap
from memwarden.protocols import Reader


def gap_of(error: ReadError) -> Gap:
    """Return the gap that an error of a reader stands for."""
    return Gap(error.what, error.where, error.why, error.detail)


def collect(readers: Iterable[Reader]) -> dict[str, Any]:
    """Return the fields of a :class:`~memwarden.model.sample.Sample` that the readers give, with ``gaps``.

    The first reader that gives a field wins, so a second one for the same fact is its fallback.
    """
    facts: dict[str, Any] = {}
    gaps: list[Gap] = []
    for reader in readers:
        try:
            read = reader.read()
            gaps += read.get("gaps", ())
        except ReadError as error:
            gaps.append(gap_of(error))
            continue
        except Exception as error:  # noqa: BLE001 - a broken reader costs a gap, never the sample
            gaps.append(Gap(reader.name, type(reader).__name__, "broken", repr(error)))
            continue
        for field in read:
            if field not in facts:
                facts[field] = read[field]
    facts["gaps"] = tuple(gaps)
    return facts
