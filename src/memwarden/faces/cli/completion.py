"""Shell completion."""

from __future__ import annotations

import os
from collections.abc import Callable

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from memwarden.settings import Option
from memwarden.settings.options import Choice

SHELLS = ("bash", "zsh", "fish")

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

#: The shell's own completion of files and of directories.
files_of: Completer = click.Path().shell_complete
directories_of: Completer = click.Path(file_okay=False).shell_complete


def print_script(shell: str) -> int:
    """Print the script that the shell sources."""
    cls = get_completion_class(shell)
    assert cls is not None
    completer = cls(click.Command("memwarden"), {}, "memwarden", "_MEMWARDEN_COMPLETE")
    print(ShellComplete.source(completer))  # not bash's own, which starts a bash to ask for its version
    return 0


def values_of(option: Option) -> Completer:
    """Return the completer of an option's values."""
    if option.kind.is_path:
        return directories_of if option.unit == "DIRECTORY" else files_of
    known = option.kind.known if isinstance(option.kind, Choice) else ()
    return lambda context, parameter, incomplete: [
        CompletionItem(word) for word in known if word.startswith(incomplete)
    ]


def programs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return programs for the first word of a command; files for further words and for paths."""
    if context.params.get("command") or not incomplete or os.sep in incomplete:
        return files_of(context, parameter, incomplete)
    found = set()
    for folder in os.get_exec_path():
        try:
            with os.scandir(folder) as entries:
                found |= {
                    each.name for each in entries if each.name.startswith(incomplete) and os.access(each, os.X_OK)
                }
        except OSError:
            continue
    return [CompletionItem(name) for name in sorted(found)] or files_of(context, parameter, incomplete)
