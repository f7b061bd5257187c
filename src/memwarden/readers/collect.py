"""All readers into one set of facts; what fails becomes a gap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from memwarden.errors import ReadError
from memwarden.model.facts import Gap
from memwarden.protocols import Reader


def collect(readers: Iterable[Reader]) -> dict[str, Any]:
    """The fields of a :class:`~memwarden.model.sample.Sample` that the readers give, with ``gaps``.

    The first reader that gives a field wins, so a second one for the same fact is its stand-in.
    """
    facts: dict[str, Any] = {}
    gaps: list[Gap] = []
    for reader in readers:
        try:
            read = reader.read()
            gaps += read.get("gaps", ())
        except ReadError as error:
            gaps.append(Gap(error.what, error.where, error.why, error.detail))
            continue
        except Exception as error:  # noqa: BLE001 - a broken reader costs a gap, never the look
            gaps.append(Gap(reader.name, type(reader).__name__, "broken", repr(error)))
            continue
        for field in read:
            if field not in facts:
                facts[field] = read[field]
    facts["gaps"] = tuple(gaps)
    return facts
