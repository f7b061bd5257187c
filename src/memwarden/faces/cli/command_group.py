"""The commands' names, options and help; what they do stands in modules of their own, imported when used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from memwarden import __version__
from memwarden.faces.cli.completion import SHELLS, directories_of, files_of, programs, values_of
from memwarden.settings import OPTIONS
from memwarden.settings.options import Addresses

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _options(*names: str, **defaults: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Flags of the option table, by name; ``defaults`` are those of this command, where it has its own."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([each for each in OPTIONS if each.name in names]):
            default = "" if option.default in (None, False) else f" Default: {_shown(option.default)}."
            if option.name in defaults:
                default = f" Default: {defaults[option.name]}."
            help_text = f"{option.sentence}{default} [{option.variable}]"
            if option.is_switch:
                function = click.option(option.flag, option.name, is_flag=True, default=None, help=help_text)(function)
            elif isinstance(option.kind, Addresses):
                function = click.option(
                    option.flag, option.name, metavar=option.unit, multiple=True, callback=_given, help=help_text
                )(function)
            else:
                function = click.option(
                    option.flag, option.name, metavar=option.unit, help=help_text, shell_complete=values_of(option)
                )(function)
        return function

    return decorate


def _given(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    return values or None


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
    from memwarden.faces.cli.commands.run import run as perform

    return perform(command, flags, as_json=as_json)


@group.command(
    "map",
    context_settings={**CONTEXT, "allow_interspersed_args": False},
    short_help="Run a command for each of many inputs, as many at once as there is memory for.",
)
@_options("limit", "cgroup", "quiet", "config")
@click.option("--inputs", metavar="FILE", shell_complete=files_of, help="Read the inputs there, one a line.")
@click.option("-0", "--null", is_flag=True, help="Inputs are separated by NUL characters, as find -print0 has them.")
@click.option("--glob", "globs", metavar="PATTERN", multiple=True, help="Files are the inputs; ** for all folders.")
@click.option("-I", "--replace", metavar="TEXT", help="TEXT stands for the input, instead of {}, {name} and {stem}.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="At most so many at once. Default: processors.")
@click.option("--attempts", type=click.IntRange(1), metavar="N", help="Begin one at most so often. Default: 3.")
@click.option("--kind", metavar="NAME", help="Learn what they need under this name. Default: the command's words.")
@click.option("--reserve", metavar="SIZE", help="Each needs this. Default: what such commands were seen to need.")
@click.option(
    "--size-of",
    type=click.Choice(("bytes", "number", "none")),
    default="bytes",
    show_default=True,
    help="An input's size: that of the file it names, the number it is, or none.",
)
@click.option("--ledger", metavar="NAME", help="Share memory with those who name this ledger. Default: with all.")
@click.option("--output-dir", metavar="PATH", shell_complete=directories_of, help="Keep each one's output there.")
@click.option("--tag", is_flag=True, help="Begin each line of output with the input and a tab.")
@click.option("--keep-going/--fail-fast", default=True, help="After a failure go on (default), or begin no more.")
@click.option("--results", metavar="FILE", shell_complete=files_of, help="Write what came of each, a line of JSON.")
@click.option("--resume", is_flag=True, help="Leave out what is done as --results says.")
@click.option(
    "--report", "reports", metavar="FILE", multiple=True, help="Write a report of the batch: .txt, .json, .svg or .png."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON line on standard error.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=programs)
def map_command(command: tuple[str, ...], keep_going: bool, **flags: Any) -> int:
    """Run COMMAND for each of many inputs, as many at once as there is memory for.

    \b
        find videos -name '*.mp4' -print0 | memwarden map -0 --limit 4GiB -- ffmpeg -i {} small/{stem}.mkv

    {} stands for the input, {name} for its last part, {stem} for that without its suffix; without any of them the
    input comes last. Inputs are the lines of standard input, unless --inputs or --glob says others.

    What each command needs is learned from those before. One that needs more than there is room for waits; when
    nobody can go on, one is ended and run again later, so a command must bear to be begun more than once.

    Each command's output is printed whole, when it ends. Exits with 0 when all are done, 1 when not, 130 after Ctrl-C
    (143 after SIGTERM), 126 and 127 when the command cannot be executed or was not found, 2 on a bad option.
    """
    from memwarden.faces.cli.commands.map import MapOptions, perform

    settings = {name: flags.pop(name) for name in ("limit", "cgroup", "quiet", "config")}
    return perform(command, settings, MapOptions(fail_fast=not keep_going, **flags))


@group.command(context_settings=CONTEXT, short_help="Look on: the machine, or processes by pid or name.")
@click.option(
    "--pid",
    "pids",
    metavar="PID",
    multiple=True,
    type=click.IntRange(1),
    help="Watch this process and its tree; may be repeated.",
)
@click.option(
    "--name",
    metavar="TEXT",
    help="Watch the processes whose name or command line holds this, those that come included.",
)
@_options("interval", "duration", "preset", "config", "record", interval="1, or the preset's", record="no record")
@_options("webhook", "webhook_secret_file", "alerts")
@click.option("--gpu", is_flag=True, help="Read NVIDIA cards, too; so does a rule that asks for one.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each reading and event.")
@click.option("--dry-run", is_flag=True, help="Mark every decision as a rehearsal.")
def watch(pids: tuple[int, ...], name: str | None, gpu: bool, as_json: bool, dry_run: bool, **flags: Any) -> int:
    """Look on: the machine with its largest processes, or processes by pid or name.

    \b
        memwarden watch --pid 4242 --interval 500ms
        memwarden watch --json --duration 60s > memory.jsonl

    Live on a terminal; one line for each reading elsewhere, and where NO_COLOR is set. Rules of the settings file
    are followed and told, and read again when the file changes. Ends after --duration, on Ctrl-C, and when nobody
    of --pid is left: exit code 0 each time. 1 says that nobody is there, 2 that an option is wrong.
    """
    from memwarden.faces.cli.commands.watch import watch as perform

    return perform(flags, pids, name, gpu=gpu, as_json=as_json, dry_run=dry_run)


@group.command(context_settings=CONTEXT, short_help="List the largest processes of the machine.")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@click.option(
    "--sort",
    type=click.Choice(("rss", "pss")),
    default="rss",
    show_default=True,
    help="By resident size, or by fair share.",
)
@click.option("--once", is_flag=True, help="List them once, on a terminal, too.")
@_options("interval", "duration", "config", interval="1")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, once.")
def top(count: int, sort: str, once: bool, as_json: bool, **flags: Any) -> int:
    """List the largest processes of the machine: live on a terminal, once elsewhere."""
    from memwarden.faces.cli.commands.top import top as perform

    return perform(flags, count, sort=sort, once=once, as_json=as_json)


@group.command(context_settings=CONTEXT, short_help="Say what this machine grants, and why not more.")
@_options("cgroup", "config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool, **flags: Any) -> int:
    """Say what this machine grants, and why not more: limits, ceilings, sources of facts."""
    from memwarden.faces.cli.commands.doctor import examine

    return examine(flags, as_json=as_json)


@group.command(context_settings=CONTEXT, short_help="Show who has reserved memory, and who waits for it.")
@click.argument("name", required=False)
@click.option("--path", metavar="PATH", help="The ledger in this file, which programs named themselves.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ledger(name: str | None, path: str | None, as_json: bool) -> int:
    """Show who has reserved memory in the ledger NAME, who waits for it in which order, and what is left and why.

    Without NAME: in every ledger of this user in this host or container.
    """
    from memwarden.faces.cli.commands.ledger import show as perform

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
    from memwarden.faces.cli.commands.settings import show as perform

    return perform(flags, as_json=as_json)


@settings.command(context_settings=CONTEXT, short_help="Say everything that is wrong with a settings file.")
@click.argument("file", required=False, shell_complete=files_of)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: str | None, as_json: bool) -> int:
    """Say everything that is wrong with FILE, one fault a line; the exit code is then 1.

    Without FILE: with the settings file that is in force here, and with the environment's variables.
    """
    from memwarden.faces.cli.commands.settings import check as perform

    return perform(file, as_json=as_json)


@settings.command(context_settings=CONTEXT, short_help="Print the JSON Schema of a settings file.")
def schema() -> int:
    """Print the JSON Schema of a settings file, for an editor."""
    from memwarden.faces.cli.commands.settings import print_schema

    return print_schema()


@group.command(context_settings=CONTEXT, short_help="Say what rules would have done over a record.")
@click.argument("file", shell_complete=files_of)
@click.option("--rules", metavar="PATH", help="A settings file with the rules to try. Default: those in the record.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each event, and one for the whole.")
def replay(file: str, rules: str | None, as_json: bool) -> int:
    """Judge the record FILE again, and print what would have been done beside what was done.

    \b
        memwarden replay run.jsonl --rules new.toml

    FILE is a record of lines or a history in SQLite. Each line begins with = for what was told then and is told now,
    with - for what was only told then, with + for what is only told now. Nothing is done to anybody. Exits with 0,
    and with 2 when FILE or PATH cannot be read.
    """
    from memwarden.faces.cli.commands.replay import replay as perform

    return perform(file, rules, as_json=as_json)


@group.command(context_settings=CONTEXT, short_help="Compare two records, before and after a change.")
@click.argument("files", nargs=-1, required=True, metavar="FILE [OTHER]", shell_complete=files_of)
@click.option("--tolerance", metavar="PERCENT", help="Exit with 1 when OTHER used more than FILE by more than this.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(files: tuple[str, ...], tolerance: str | None, as_json: bool) -> int:
    """Print what the record FILE says in a few figures, and beside it what OTHER says: use, growth, leak, levels,
    alerts, and the limit that would do.

    \b
        memwarden compare before.jsonl after.jsonl --tolerance 10%

    Exits with 0; with 1 when OTHER's median, 95th hundredth or peak is over the tolerance; with 2 when a record
    cannot be read.
    """
    from memwarden.faces.cli.commands.compare import compare as perform

    return perform(files, tolerance, as_json=as_json)


@group.command(context_settings=CONTEXT, short_help="Show what tasks were learned to need.")
@click.argument("file", required=False, shell_complete=files_of)
@click.option("--plot", metavar="KIND", help="Draw the tasks and the curve of one kind, as SVG.")
@click.option("--output", metavar="PATH", help="Where the drawing goes. Default: standard output.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every task that is kept, curves, kills, drift.")
def footprints(file: str | None, plot: str | None, output: str | None, as_json: bool) -> int:
    """Show what tasks of each kind were learned to need: peak memory against input size.

    FILE is where they were kept; by default footprints.db beside memwarden's other records. KIND is a kind's name, or
    the end of one.
    """
    from memwarden.faces.cli.commands.footprints import draw, show

    return show(file, as_json=as_json) if plot is None else draw(file, plot, output)


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
@_options("webhook", "webhook_secret_file", "alerts", "config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def alerts_test(as_json: bool, **flags: Any) -> int:
    """Send one alert, marked as a test, to each target, and say what came of it.

    Targets are those of the options, else of the variables, else of the settings file. Exits with 0 when all of them
    took it, with 1 when one did not.
    """
    from memwarden.faces.cli.commands.alerts import send_test

    return send_test(flags, as_json=as_json)
