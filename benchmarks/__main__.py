"""``make bench``: runs every benchmark, prints its table, and exits with 1 when a promise is not kept."""

from __future__ import annotations

import sys

from benchmarks import overshoot, records


def main() -> int:
    kept = [overshoot.main(), records.main()]
    return 0 if all(kept) else 1


sys.exit(main())
