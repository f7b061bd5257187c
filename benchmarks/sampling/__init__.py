"""Cost of sampling: one sample against the floor in C, and a running monitor."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.sampling import compat, cost, overhead

#: All figures of the last run, in seconds and bytes.
FIGURES = Path(".cache/benchmarks/sampling.json")


def main() -> bool:
    """Print the tables; whether every promise was kept."""
    figures = {"cost": cost.main(), "overhead": overhead.main(), "compat": compat.main()}
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nall figures: {FIGURES}")
    return bool(figures["cost"]["kept"] and figures["overhead"]["kept"])
