"""``%%memwarden`` for notebooks: what a cell took, and a limit for it.

``%load_ext memwarden`` first. IPython has been imported by then.
"""

from __future__ import annotations

import contextlib
import shlex
from importlib import import_module, util
from typing import Any

from memwarden.errors import LimitExceeded, ReadError, SettingsError
from memwarden.guards.measure.track import track
from memwarden.model.units import parse_size, size_text

USAGE = "%%memwarden [--limit SIZE]"
_LIMIT = "memwarden.guards.limit.memory_limit"


def load_ipython_extension(shell: Any) -> None:
    """Called by ``%load_ext memwarden``: makes the cell magic ``%%memwarden`` known to this shell.

    ``%%memwarden`` runs the cell and prints its peak, what stayed of it, and how long it took; with ``--limit 500MiB``
    the cell is ended with :class:`~memwarden.errors.LimitExceeded` when it takes more than that.
    """

    def memwarden(line: str, cell: str) -> None:
        try:
            limit = limit_of(line)
        except SettingsError as error:
            raise import_module("IPython.core.error").UsageError(str(error)) from None
        run_cell(shell, cell, limit)

    memwarden.__doc__ = f"{USAGE}\n\nRuns the cell and tells what it took; SIZE, such as 500MiB, is what it may take."
    shell.register_magic_function(memwarden, "cell", "memwarden")


def limit_of(line: str) -> int | None:
    """The limit in bytes that the magic's line asks for. Raises :class:`~memwarden.errors.SettingsError`."""
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
    """Run a cell in the shell, tell what it took, and raise what it raised."""
    exceeded: LimitExceeded | None = None
    result = None
    with track("cell") as call:
        try:
            with _held_to(limit):
                result = shell.run_cell(cell)
        except LimitExceeded as error:
            exceeded = error
    try:
        seen = call.memory
    except ReadError as error:
        print(f"memwarden: {error}")
    else:
        about = "" if seen.method == "kernel" else " (sampled: a short peak is missed)"
        print(
            f"memwarden: peak {size_text(seen.peak)}, {size_text(seen.rise)} above the beginning{about};"
            f" {size_text(seen.growth)} stayed; {seen.seconds:.2f} s"
        )
        if limit is not None and exceeded is None and seen.rise > limit and not util.find_spec(_LIMIT):
            exceeded = LimitExceeded(
                f"the cell took {size_text(seen.rise)} and may {size_text(limit)}", limit=limit, used=seen.rise
            )
    if exceeded is not None:
        raise exceeded
    failed = None if result is None else result.error_before_exec or result.error_in_exec
    if failed is not None:
        # It was shown in full where the cell ran; the run of a notebook must fail all the same.
        with contextlib.suppress(AttributeError):
            failed._render_traceback_ = lambda: [f"{type(failed).__name__}: see above"]
        raise failed


def _held_to(limit: int | None) -> contextlib.AbstractContextManager[object]:
    """Enforced while the cell runs where :mod:`memwarden.guards.limit.memory_limit` is there."""
    if limit is None or not util.find_spec(_LIMIT):
        return contextlib.nullcontext()
    held: contextlib.AbstractContextManager[object] = import_module(_LIMIT).memory_limit(limit)
    return held
