"""The ``memwarden`` command. Only this module turns errors into exit codes.

===== ==========================================================================
code  meaning
===== ==========================================================================
N     ``run``: the command's own exit code
128+N ``run``: the command was killed by signal N
123   ``run``: killed at its limit (by memwarden, or by the kernel at memwarden's ceiling)
125   ``run``: memwarden failed: a bad option, no ceiling
126   ``run``, ``map``: the command was found but cannot be executed
127   ``run``, ``map``: the command was not found
130   stopped by Ctrl-C; ``map``: 128+N for another signal
0, 1  other commands: success; failure
2     other commands: a bad option or argument
===== ==========================================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from memwarden.faces.cli.exit_codes import NOT_EXECUTABLE, NOT_FOUND, OWN_FAILURE, USAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    import click

    from memwarden.errors import LaunchError, MemwardenError
    from memwarden.faces.cli.command_group import group

    _need_standard_streams()
    args = list(sys.argv[1:] if arguments is None else arguments)
    running = bool(args) and args[0] == "run"
    try:
        result = group.main(args=args, prog_name="memwarden", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return USAGE
    except click.ClickException as error:
        known = args[:1] if args and args[0] in group.commands else []
        where = " ".join(["memwarden", *known])
        _print_error(f"{where}: {error.format_message().rstrip('.')}; see {where} --help")
        return OWN_FAILURE if running else USAGE
    except LaunchError as error:
        _print_error(f"memwarden {args[0]}: {error}")
        if error.stage != "exec":
            return OWN_FAILURE
        import errno

        return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    except MemwardenError as error:
        _print_error(f"memwarden{f' {args[0]}' if args[:1] in (['run'], ['map']) else ''}: {error}")
        return OWN_FAILURE if running else USAGE
    except (click.Abort, KeyboardInterrupt):
        return 130


def _need_standard_streams() -> None:
    """Open /dev/null for each of the first three descriptors that the parent has closed.

    Else the next opened file would get its number, and output would be written into that file.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", closefd=False))  # noqa: SIM115


def _print_error(line: str) -> None:
    from memwarden.model.text import printable

    print(printable(line.replace("\n", " ")), file=sys.stderr)
