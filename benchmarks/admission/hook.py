"""The executor as a runner of the admission harness: ``--runner benchmarks.admission.hook:run``.

``ctx`` is what the harness hands over: ``tasks`` (each with ``id``, ``kind``, ``size`` and an opaque ``payload``),
``execute(payload)``, ``budget`` in bytes, ``slots``, ``history`` of past ``(kind, size, peak, seconds)``, ``work`` (a
scratch directory), ``ready()`` and ``info``. ``run_polling`` is the same without a memory group.
"""

from __future__ import annotations

import os
import time
from typing import Any

from memwarden.admission.executor.executor import BudgetedExecutor
from memwarden.admission.footprints.predictors import Footprints
from memwarden.admission.ledger.ledger import Ledger


def run(ctx: Any, *, cgroup: bool | None = None) -> dict[int, Any]:
    """Do the batch; results by task."""
    predictor = Footprints(budget=ctx.budget, slots=ctx.slots)
    for kind, size, peak, seconds in ctx.history:
        predictor.observe(kind, size, peak, seconds)
    ledger = Ledger(ctx.budget, path=os.path.join(ctx.work, "ledger"))
    with BudgetedExecutor(ctx.slots, predictor=predictor, ledger=ledger, cgroup=cgroup) as executor:
        warm = executor.with_options(kind="warm-up", size=0)
        for future in [warm.submit(time.sleep, 0.3) for _ in range(ctx.slots)]:
            future.result()
        ctx.ready()
        futures = {
            task.id: executor.with_options(kind=task.kind, size=task.size).submit(ctx.execute, task.payload)
            for task in ctx.tasks
        }
        results = {}
        for number, future in futures.items():
            try:
                results[number] = future.result()
            except Exception as error:  # noqa: BLE001 - a lost task is a figure of the table
                ctx.info[f"lost {number}"] = repr(error)
        report = executor.report()
        ctx.info.update(
            backstop=report.enforcement,
            kills=report.kills,
            requeues=report.requeues,
            pauses=report.pauses,
            paused_seconds=report.paused_seconds,
            kernel_kills=report.kernel_kills,
            concurrency=report.concurrency,
        )
    return results


def run_polling(ctx: Any) -> dict[int, Any]:
    """The same where no group is to be had."""
    return run(ctx, cgroup=False)
