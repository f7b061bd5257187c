"""``make bench``: runs every benchmark (or ``python -m benchmarks NAME…``) and prints its tables.

Exits with 1 when a promise is not kept.
"""

from __future__ import annotations

import sys

from benchmarks import guarding, leak, levels, overshoot, records, sampling
from benchmarks.admission import executor, footprints, ledger, simulation
from benchmarks.guards import limit, profile

BENCHMARKS = {
    "sampling": sampling.main,
    "records": records.main,
    "overshoot": overshoot.main,
    "footprints": footprints.main,
    "ledger": ledger.main,
    "executor": executor.main,
    "simulation": simulation.main,
    "profile": profile.main,
    "guarding": guarding.main,
    "leak": leak.main,
    "levels": levels.main,
    "limit": limit.main,
}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in BENCHMARKS]:
        print(f"no benchmark {unknown[0]!r}: there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    kept = [BENCHMARKS[name]() for name in names or BENCHMARKS]
    return 0 if all(kept) else 1


sys.exit(main(sys.argv[1:]))
