"""``make bench``: runs every benchmark (or ``python -m benchmarks NAME…``) and prints its tables.

Exits with 1 when a promise is not kept.
"""

from __future__ import annotations

import sys

from benchmarks import overshoot, records, sampling
from benchmarks.admission import footprints, ledger
from benchmarks.guards import limit

BENCHMARKS = {
    "sampling": sampling.main,
    "records": records.main,
    "overshoot": overshoot.main,
    "footprints": footprints.main,
    "ledger": ledger.main,
    "limit": limit.main,
}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in BENCHMARKS]:
        print(f"no benchmark {unknown[0]!r}: there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    kept = [BENCHMARKS[name]() for name in names or BENCHMARKS]
    return 0 if all(kept) else 1


sys.exit(main(sys.argv[1:]))
