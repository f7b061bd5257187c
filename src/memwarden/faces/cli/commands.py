"""The commands' names, options and help; what they do stands in modules of their own, imported when used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from memwarden import __version__
from memwarden.faces.cli.completion import SHELLS, files_of, programs, values_of
from memwarden.settings import OPTIONS

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Flags of the option table, by name."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([each for each in OPTIONS if each.name in names]):
            default = "" if option.default in (None, False) else f" Default: {_shown(option.default)}."
            help_text = f"{option.sentence}{default} [{option.variable}]"
            if option.is_switch:
                function = click.option(option.flag, option.name, is_flag=True, default=None, help=help_text)(function)
            else:
                function = click.option(
                    option.flag, option.name, metavar=option.unit, help=help_text, shell_complete=values_of(option)
                )(function)
        return function

    return decorate


def _shown(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, message="memwarden %(version)s")
def group() -> None:
    """Keeps workloads from running out of memory, and shows where memory goes."""


@group.command(
    context_settings={**CONTEXT, "allow_interspersed_args": False},
    short_help="Run a command, hold it to a limit, report.",
)
@_options("limit", "interval", "record", "live", "grace", "ceiling", "cgroup", "quiet", "termination_log", "config")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON line on standard error.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=programs)
def run(command: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Run COMMAND, watch its whole process tree, hold it to a limit, and report.

    \b
        memwarden run --limit 2GiB -- python train.py --epochs 3

    The command owns the terminal. Its exit code is passed through (128+N for signal N); 123 means that
    the limit ended it, 125 that memwarden could not do its work, 126 and 127 that the command cannot be
    executed or was not found. The report goes to standard error.
    """
    from memwarden.faces.cli.run import run as perform

    return perform(command, flags, as_json=as_json)


@group.command(context_settings=CONTEXT, short_help="Say what this machine grants, and why not more.")
@_options("cgroup", "config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool, **flags: Any) -> int:
    """Say what this machine grants, and why not more: limits, ceilings, sources of facts."""
    from memwarden.faces.cli.doctor import examine

    return examine(flags, as_json=as_json)


@group.command(context_settings=CONTEXT, short_help="Show who has reserved memory, and who waits for it.")
@click.argument("name", required=False)
@click.option("--path", metavar="PATH", help="The ledger in this file, which programs named themselves.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ledger(name: str | None, path: str | None, as_json: bool) -> int:
    """Show who has reserved memory in the ledger NAME, who waits for it in which order, and what is left and why.

    Without NAME: in every ledger of this user in this host or container.
    """
    from memwarden.faces.cli.ledger import show as perform

    return perform(name, path, as_json=as_json)


@group.group(context_settings=CONTEXT, short_help="Show, check and describe the settings.")
def settings() -> None:
    """Show, check and describe the settings.

    An option wins over its variable, the variable over the settings file, the file over the default.
    """


@settings.command(context_settings=CONTEXT, short_help="Show every option, its value, and where that came from.")
@_options("config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool, **flags: Any) -> int:
    """Show every option, its value, and where that came from."""
    from memwarden.faces.cli.settings import show as perform

    return perform(flags, as_json=as_json)


@settings.command(context_settings=CONTEXT, short_help="Say everything that is wrong with a settings file.")
@click.argument("file", required=False, shell_complete=files_of)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: str | None, as_json: bool) -> int:
    """Say everything that is wrong with FILE, one fault a line; the exit code is then 1.

    Without FILE: with the settings file that is in force here, and with the environment's variables.
    """
    from memwarden.faces.cli.settings import check as perform

    return perform(file, as_json=as_json)


@settings.command(context_settings=CONTEXT, short_help="Print the JSON Schema of a settings file.")
def schema() -> int:
    """Print the JSON Schema of a settings file, for an editor."""
    from memwarden.faces.cli.settings import print_schema

    return print_schema()


@group.command(context_settings=CONTEXT, short_help="Print the script by which a shell completes memwarden's words.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> int:
    """Print the script by which SHELL completes memwarden's words.

    \b
        source <(memwarden completion bash)
    """
    from memwarden.faces.cli.completion import print_script

    return print_script(shell)


@group.group(context_settings=CONTEXT, short_help="Try whether alerts arrive.")
def alerts() -> None:
    """Alerts over webhooks and the services that people use."""


@alerts.command("test", context_settings=CONTEXT, short_help="Send a test alert to each target.")
@click.option(
    "--webhook",
    "webhooks",
    metavar="URL",
    multiple=True,
    envvar="MEMWARDEN_WEBHOOK",
    help="Post it to this address; may be given more than once. [MEMWARDEN_WEBHOOK]",
)
@click.option(
    "--alerts",
    "services",
    metavar="URL",
    multiple=True,
    envvar="MEMWARDEN_ALERTS",
    help="Send it over the service with this Apprise address; may be given more than once. [MEMWARDEN_ALERTS]",
)
@click.option(
    "--webhook-secret-file",
    "secret_file",
    metavar="PATH",
    envvar="MEMWARDEN_WEBHOOK_SECRET_FILE",
    help="Sign with the secret in this file, else with the one in the variable MEMWARDEN_WEBHOOK_SECRET. "
    "[MEMWARDEN_WEBHOOK_SECRET_FILE]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def alerts_test(webhooks: tuple[str, ...], services: tuple[str, ...], secret_file: str | None, as_json: bool) -> int:
    """Send one alert, marked as a test, to each target, and say what came of it.

    Exits with 0 when all of them took it, with 1 when one did not.
    """
    from memwarden.faces.cli.alerts import send_test

    return send_test(webhooks, services, secret_file, as_json=as_json)
