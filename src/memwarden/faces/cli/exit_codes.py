"""Exit codes of the command line."""

from __future__ import annotations

#: ``run``: the command was killed at its limit, by memwarden or by the kernel at memwarden's ceiling.
KILLED_AT_LIMIT = 123
#: ``run``: memwarden itself failed: a bad option, no ceiling.
OWN_FAILURE = 125
#: ``run``, ``map``: the command was found but cannot be executed.
NOT_EXECUTABLE = 126
#: ``run``, ``map``: the command was not found.
NOT_FOUND = 127
#: Other commands: a bad option or argument.
USAGE = 2
