#!/usr/bin/env python3
"""A batch that does not fit into memory all at once, done by a BudgetedExecutor.

    python resize_batch.py
    python resize_batch.py --budget 128MiB --images 60 --report batch.svg

Each task enlarges a generated image (a square of grey pixels) and counts the bright ones. Its memory grows with the
square of the image's side; a few images are transparent and take three times as much, which is not known in advance.
All of them at once would exceed the budget several times, so that the kernel would kill a process pool, and one worker
at a time would be slow. The executor learns the peak of each size, starts as many tasks as there is memory for, and
retries those that it had to kill.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from concurrent.futures import as_completed

from memwarden import BudgetedExecutor, MemwardenError, report_text, save_report

ENLARGED = 4  # times, each side


def enlarge(side: int, transparent: bool) -> int:
    """Make an image, enlarge it, and return how many of its pixels are bright."""
    small = random.Random(side).randbytes(side * side)
    rows = (small[at : at + side] for at in range(0, len(small), side))
    large = bytearray()
    for row in rows:
        wide = bytes(pixel for pixel in row for _ in range(ENLARGED))
        for _ in range(ENLARGED):
            large += wide
    planes = [bytearray(large) for _ in range(2 if transparent else 0)]
    time.sleep(0.05)  # written to a disk, say: the memory is held meanwhile
    return sum(pixel > 127 for pixel in large[::ENLARGED]) + sum(len(plane) < 0 for plane in planes)


def main() -> int:
    parser = argparse.ArgumentParser(description="Enlarge many images within a memory budget.")
    parser.add_argument("--budget", default="64MiB", help="for all of them together (default: 64MiB)")
    parser.add_argument("--images", type=int, default=40, help="how many (default: 40)")
    parser.add_argument("--workers", type=int, default=6, help="at most so many at once (default: 6)")
    parser.add_argument("--report", metavar="FILE", help="how it went: .txt, .json or .svg")
    options = parser.parse_args()

    chance = random.Random(7)
    images = [(chance.randrange(200, 800), chance.random() < 0.1) for _ in range(options.images)]
    try:
        with BudgetedExecutor(options.workers, budget=options.budget, progress=True, name="images") as executor:
            # The first int among the arguments is the size; else use with_options(size=...).
            futures = [executor.submit(enlarge, side, transparent) for side, transparent in images]
            bright = sum(future.result() for future in as_completed(futures))
        report = executor.report()
        if options.report:
            save_report(report, options.report)
    except MemwardenError as error:
        print(f"resize_batch: {error}", file=sys.stderr)
        return 1
    print(f"{bright} bright pixels in {options.images} images")
    print(report_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
