"""``%%memwarden`` for notebooks: report and limit the memory of a cell.

``%load_ext memwarden`` loads it. IPython is imported by the caller.
"""

from __future__ import annotations

import contextlib
import shlex
from importlib import import_module
from typing import Any

from memwarden.errors import LimitExceeded, ReadError, SettingsError
from memwarden.guards.limit.memory_limit import memory_limit
from memwarden.guards.measure.track import track
from memwarden.model.units import parse_size, size_text

USAGE = "%%memwarden [--limit SIZE]"


def load_ipython_extension(shell: Any) -> None:
    """Register the cell magic ``%%memwarden``; called by ``%load_ext memwarden``.

    ``%%memwarden`` runs the cell and prints its peak, growth and duration; with ``--limit 500MiB`` the cell is stopped
    with :class:`~memwarden.errors.LimitExceeded` when it takes more.
    """

    def memwarden(line: str, cell: str) -> None:
        try:
            limit = limit_of(line)
        except SettingsError as error:
            raise import_module("IPython.core.error").UsageError(str(error)) from None
        run_cell(shell, cell, limit)

    memwarden.__doc__ = f"{USAGE}\n\nRun the cell and print its memory; SIZE, such as 500MiB, limits it."
    shell.register_magic_function(memwarden, "cell", "memwarden")


def limit_of(line: str) -> int | None:
    """Return the limit in the magic's line, in bytes. Raises :class:`~memwarden.errors.SettingsError`."""
    try:
        words = shlex.split(line.replace("--limit=", "--limit "))
    except ValueError as error:
        raise SettingsError(f"{error}; write {USAGE}") from None
    if not words:
        return None
    if words[0] != "--limit" or len(words) > 2:
        raise SettingsError(f"{line.strip()}: not understood; write {USAGE}")
    return parse_size(words[1] if len(words) == 2 else "")


def run_cell(shell: Any, cell: str, limit: int | None) -> None:
    """Run a cell in the shell, print its memory, and raise its error."""
    exceeded: LimitExceeded | None = None
    result = None
    with track("cell") as call:
        try:
            with contextlib.nullcontext() if limit is None else memory_limit(limit):
                result = shell.run_cell(cell)
        except LimitExceeded as error:
            exceeded = error
    try:
        memory = call.memory
    except ReadError as error:
        print(f"memwarden: {error}")
    else:
        remark = "" if memory.method == "kernel" else " (sampled: may miss a short peak)"
        print(
            f"memwarden: peak {size_text(memory.peak)}, {size_text(memory.rise)} above the start{remark};"
            f" growth {size_text(memory.growth)}; {memory.seconds:.2f} s"
        )
    if exceeded is not None:
        raise exceeded
    failed = None if result is None else result.error_before_exec or result.error_in_exec
    if failed is not None:
        # The shell has shown its traceback; it is raised again for tools that run notebooks.
        with contextlib.suppress(AttributeError):
            failed._render_traceback_ = lambda: [f"{type(failed).__name__}: see above"]
        raise failed
