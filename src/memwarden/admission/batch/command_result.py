"""Result of a command that was run for one input."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["done", "failed", "not-started", "too-large", "lost"]


class CommandResult(NamedTuple):
    """Result of one input.

    ``state``: done (exit code 0), failed (another code, or a signal), not-started (no such program, too many
    arguments), too-large (it needs more memory than the budget), lost (its worker ended, or could not do its part).
    """

    #: Position among the inputs, from 1.
    number: int
    input: str
    state: State
    #: As in a shell: 128+N for signal N; None where the command did not end by itself.
    exit_code: int | None
    #: Wall clock, and seconds.
    started: float | None
    seconds: float | None
    #: Bytes of its largest process, if more than the worker's own (the kernel counts those in).
    peak: int | None
    size: float | None
    #: Files of its standard output and standard error; None: none, or nothing was written.
    output: str | None
    errors: str | None
    #: Reason of a failure.
    reason: str
