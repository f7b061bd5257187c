"""What came of a command that was run for an input."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["done", "failed", "not-started", "too-large", "lost"]


class CommandResult(NamedTuple):
    """What came of one input.

    ``state``: done (exit code 0), failed (another one, or a signal), not-started (no such program, too many
    arguments), too-large (it needs more memory than there is), lost (its worker ended, or could not do its part).
    """

    #: Its place among the inputs, from 1.
    number: int
    input: str
    state: State
    #: As a shell has it: 128+N for signal N; None where the command did not get to its end.
    exit_code: int | None
    #: Wall clock, and seconds.
    began: float | None
    seconds: float | None
    #: Bytes of its largest process, where they were more than the worker's own (the system counts those in).
    peak: int | None
    size: float | None
    #: Where its standard output and standard error are; None: nowhere, or nothing was written.
    output: str | None
    errors: str | None
    #: What went wrong, in words.
    why: str
