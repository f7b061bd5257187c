"""Names, options and help of all commands; each command's module is imported when the command runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from memwarden import __version__
from memwarden.faces.cli.completion import SHELLS, directories_of, files_of, programs, values_of
from memwarden.settings import OPTIONS
from memwarden.settings.options import Addresses

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
#: A command line of another program follows: its options are not ours.
_WITH_COMMAND = {"allow_interspersed_args": False}

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _options(*names: str, **sentences: str) -> Decorator:
    """Add flags of the option table; ``sentences`` replace the table's help where this command needs its own."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([each for each in OPTIONS if each.name in {*names, *sentences}]):
            default = "" if option.default in (None, False) else f" Default: {_shown(option.default)}."
            text = f"{sentences.get(option.name, option.sentence + default)} [{option.variable}]"
            more: dict[str, Any] = {"metavar": option.unit, "shell_complete": values_of(option)}
            if option.is_switch:
                more = {"is_flag": True, "default": None}
            elif isinstance(option.kind, Addresses):
                more = {"metavar": option.unit, "multiple": True, "callback": _none_if_empty}
            function = click.option(option.flag, option.name, help=text, **more)(function)
        return function

    return decorate


def _none_if_empty(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    return values or None


def _shown(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _json(text: str = "Print JSON.") -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=text)


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, message="memwarden %(version)s")
def group() -> None:
    """Keep workloads from running out of memory, and show where memory goes."""


@group.command(context_settings=_WITH_COMMAND)
@_options("limit", "interval", "record", "live", "grace", "ceiling", "cgroup", "quiet", "termination_log", "config")
@_json("Print the report as one JSON line on standard error.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=programs)
def run(command: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Run a command within a memory limit, and report.

    \b
        memwarden run --limit 2GiB -- python train.py --epochs 3

    COMMAND keeps the terminal and its standard streams; its whole process tree counts. The report goes to standard
    error. The exit code is the command's own (128+N after signal N); 123: killed at its limit; 125: memwarden failed;
    126: the command cannot be executed; 127: it was not found.
    """
    from memwarden.faces.cli.commands.run import run as perform

    return perform(command, flags, as_json=as_json)


@group.command("map", context_settings=_WITH_COMMAND)
@_options(
    "config",
    limit="Memory for all commands together: 512MiB, 2G, 500MB, 80%. Default: what is available.",
    cgroup="Run the commands in groups below this control group, which was delegated to you.",
    quiet="Print no progress and no summary.",
)
@click.option("--inputs", metavar="FILE", shell_complete=files_of, help="Read the inputs from this file, one a line.")
@click.option("-0", "--null", is_flag=True, help="Inputs are separated by NUL characters, as by find -print0.")
@click.option("--glob", "globs", metavar="PATTERN", multiple=True, help="Matching files are the inputs; ** recurses.")
@click.option("-I", "--replace", metavar="TEXT", help="Placeholder of the input, instead of {}, {name} and {stem}.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Maximum commands at once. Default: processors.")
@click.option("--attempts", type=click.IntRange(1), metavar="N", help="Maximum attempts per input. Default: 3.")
@click.option("--kind", metavar="NAME", help="Learn memory needs under this name. Default: the command's words.")
@click.option("--reserve", metavar="SIZE", help="Memory to reserve per command. Default: estimated from earlier runs.")
@click.option(
    "--size-of",
    type=click.Choice(("bytes", "number", "none")),
    default="bytes",
    show_default=True,
    help="Size of an input: that of the file it names, the number it is, or none.",
)
@click.option("--ledger", metavar="NAME", help="Share memory with the programs on this ledger. Default: all of yours.")
@click.option("--output-dir", metavar="PATH", shell_complete=directories_of, help="Keep each output in this folder.")
@click.option("--tag", is_flag=True, help="Prefix each line of output with the input and a tab.")
@click.option("--keep-going/--fail-fast", default=True, help="Continue after a failure (default), or start no more.")
@click.option("--results", metavar="FILE", shell_complete=files_of, help="Write each result as a line of JSON.")
@click.option("--resume", is_flag=True, help="Skip the inputs that are done according to --results.")
@click.option("--report", "reports", metavar="FILE", multiple=True, help="Write a report: .txt, .json, .svg, .png.")
@_json("Print the summary as one JSON line on standard error.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=programs)
def map_command(command: tuple[str, ...], keep_going: bool, **flags: Any) -> int:
    """Run a command per input, as many at once as fit into memory.

    \b
        find videos -name '*.mp4' -print0 | memwarden map -0 --limit 4GiB -- ffmpeg -i {} small/{stem}.mkv

    {} is replaced by the input, {name} by its last part, {stem} by that without its suffix; without a placeholder the
    input is appended. Inputs are the lines of standard input, unless --inputs or --glob is given.

    Memory needs are learned from earlier runs. A command waits until its reservation fits. When memory runs out, the
    cheapest command is killed and retried later, so commands must be safe to retry.

    The output of a command is printed when it has ended. Exit code 0: all done; 1: some failed; 130: Ctrl-C; 143:
    SIGTERM; 126: the command cannot be executed; 127: it was not found; 2: a bad option.
    """
    from memwarden.faces.cli.commands.map import MapOptions, perform

    settings = {name: flags.pop(name) for name in ("limit", "cgroup", "quiet", "config")}
    return perform(command, settings, MapOptions(fail_fast=not keep_going, **flags))


@group.command()
@click.option(
    "--pid",
    "pids",
    metavar="PID",
    multiple=True,
    type=click.IntRange(1),
    help="Watch this process and its tree; may be repeated.",
)
@click.option(
    "--name", metavar="TEXT", help="Watch all processes with TEXT in their name or command line, new ones too."
)
@_options(
    "preset",
    "config",
    "webhook",
    "webhook_secret_file",
    "alerts",
    interval="Seconds between two readings. Default: 1, or the preset's.",
    duration="Stop after this time.",
    record="Append readings and events to this file; a history in SQLite where its name ends with .sqlite, .sqlite3 "
    "or .db. Default: no record.",
)
@click.option("--gpu", is_flag=True, help="Read NVIDIA cards, too; a rule that needs them does the same.")
@_json("Print one line of JSON for each reading and event.")
@click.option("--dry-run", is_flag=True, help="Mark every decision as a dry run.")
def watch(pids: tuple[int, ...], name: str | None, gpu: bool, as_json: bool, dry_run: bool, **flags: Any) -> int:
    """Watch the machine, or processes by pid or name.

    \b
        memwarden watch --pid 4242 --interval 500ms
        memwarden watch --json --duration 60s > memory.jsonl

    Draws a live view on a terminal, and prints one line per reading elsewhere or where NO_COLOR is set. Rules of the
    settings file are applied and reported, and read again when the file changes. Stops after --duration, on Ctrl-C,
    and when no process of --pid is left, with exit code 0. 1: no such process; 2: a bad option.
    """
    from memwarden.faces.cli.commands.watch import watch as perform

    return perform(flags, pids, name, gpu=gpu, as_json=as_json, dry_run=dry_run)


@group.command()
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="Number of processes.")
@click.option(
    "--sort",
    type=click.Choice(("rss", "pss")),
    default="rss",
    show_default=True,
    help="Order by resident size, or by proportional share.",
)
@click.option("--once", is_flag=True, help="Print the list once, even on a terminal.")
@_options("config", interval="Seconds between two updates. Default: 1.", duration="Stop after this time.")
@_json("Print one line of JSON, once.")
def top(count: int, sort: str, once: bool, as_json: bool, **flags: Any) -> int:
    """List the largest processes of the machine.

    The list is live on a terminal, and printed once elsewhere.
    """
    from memwarden.faces.cli.commands.top import top as perform

    return perform(flags, count, sort=sort, once=once, as_json=as_json)


@group.command()
@_options("config", cgroup="Test the ceilings below this control group.")
@_json()
def doctor(as_json: bool, **flags: Any) -> int:
    """Show the limits and readings that this machine supports.

    Each ceiling is tested; what is missing is listed with the reason. Exit code 0: a ceiling can be enforced; 1: none
    can; 2: a bad option.
    """
    from memwarden.faces.cli.commands.doctor import examine

    return examine(flags, as_json=as_json)


@group.command()
@click.argument("name", required=False)
@click.option("--path", metavar="PATH", help="Show the ledger in this file.")
@_json()
def ledger(name: str | None, path: str | None, as_json: bool) -> int:
    """Show active and pending memory reservations.

    Also shows the memory that is left, and its limit. NAME is a ledger's name; without it: every ledger of this user on
    this host or in this container.
    """
    from memwarden.faces.cli.commands.ledger import show as perform

    return perform(name, path, as_json=as_json)


@group.group()
def settings() -> None:
    """Show, check and describe the settings.

    A flag overrides its environment variable, the variable the settings file, the file the default.
    """


@settings.command()
@_options("config")
@_json()
def show(as_json: bool, **flags: Any) -> int:
    """Show every option with its value and the source of the value."""
    from memwarden.faces.cli.commands.settings import show as perform

    return perform(flags, as_json=as_json)


@settings.command()
@click.argument("file", required=False, shell_complete=files_of)
@_json()
def check(file: str | None, as_json: bool) -> int:
    """List every error in a settings file.

    Without FILE: in the settings file that applies here, and in the environment's variables. Exit code 1: errors were
    found.
    """
    from memwarden.faces.cli.commands.settings import check as perform

    return perform(file, as_json=as_json)


@settings.command()
def schema() -> int:
    """Print the JSON Schema of a settings file, for an editor."""
    from memwarden.faces.cli.commands.settings import print_schema

    return print_schema()


@group.command()
@click.argument("file", shell_complete=files_of)
@click.option("--rules", metavar="PATH", help="Settings file with the rules to try. Default: the rules in the record.")
@_json("Print one line of JSON for each event, and one for the summary.")
def replay(file: str, rules: str | None, as_json: bool) -> int:
    """Apply rules to a record, and compare the decisions.

    \b
        memwarden replay run.jsonl --rules new.toml

    FILE is a record of JSON lines or a history in SQLite. Lines start with = for a decision in both, - for one in the
    record only, + for one of the replay only. No action is run. Exit code 2: a file cannot be read.
    """
    from memwarden.faces.cli.commands.replay import replay as perform

    return perform(file, rules, as_json=as_json)


@group.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE [OTHER]", shell_complete=files_of)
@click.option("--tolerance", metavar="PERCENT", help="Exit with 1 when OTHER used more than FILE by more than this.")
@_json()
def compare(files: tuple[str, ...], tolerance: str | None, as_json: bool) -> int:
    """Compare two records of memory use.

    \b
        memwarden compare before.jsonl after.jsonl --tolerance 10%

    Prints use, growth, leak verdict, levels, alerts and a suggested limit; with one FILE its figures alone. Exit code
    1: the median, 95th percentile or peak of OTHER exceeds the tolerance; 2: a record cannot be read.
    """
    from memwarden.faces.cli.commands.compare import compare as perform

    return perform(files, tolerance, as_json=as_json)


@group.command()
@click.argument("file", required=False, shell_complete=files_of)
@click.option("--plot", metavar="KIND", help="Draw the tasks and the fitted curve of one kind, as SVG.")
@click.option("--output", metavar="PATH", help="File for the drawing. Default: standard output.")
@_json("Print JSON: every stored task, curves, kills, drift.")
def footprints(file: str | None, plot: str | None, output: str | None, as_json: bool) -> int:
    """Show the learned memory needs of tasks.

    Needs are peak memory against input size. FILE is a footprint store; the default is footprints.db beside memwarden's
    other records. KIND is the name of a kind of task, or the last part of one.
    """
    from memwarden.faces.cli.commands.footprints import draw, show

    return show(file, as_json=as_json) if plot is None else draw(file, plot, output)


@group.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> int:
    """Print the completion script for a shell.

    \b
        source <(memwarden completion bash)
    """
    from memwarden.faces.cli.completion import print_script

    return print_script(shell)


@group.group()
def alerts() -> None:
    """Test alerts over webhooks and notification services."""


@alerts.command("test")
@_options("webhook", "webhook_secret_file", "alerts", "config")
@_json()
def alerts_test(as_json: bool, **flags: Any) -> int:
    """Send a test alert to each target, and report the result.

    Targets are those of the options, else of the variables, else of the settings file. Exit code 0: every target
    accepted it; 1: one did not.
    """
    from memwarden.faces.cli.commands.alerts import send_test

    return send_test(flags, as_json=as_json)
