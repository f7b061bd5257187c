"""Print the rows of the contract that no test names, and whatever is wrong between the two.

The contract is docs/contract.toml; tests name its rows by `@pytest.mark.contract("S1-19", "S1-20")`
on a function, on a class, in a `pytestmark`, or in the marks of one `pytest.param`. The tests are
read and never imported, so this runs on a bare Python. It reports whether a row is named by a test,
not whether the test proves it.

The exit code is 0, however many rows have no test yet, and 1 when ledger and tests disagree.
"""

import argparse
import ast
import json
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = ("id", "kind", "promise", "ruling")
OPTIONAL = ("unkept",)

#: A test that names more rows than this proves none of them well.
MOST_ROWS_A_TEST = 5


class Row(NamedTuple):
    """One row of the ledger; `unkept` is the reason why it cannot be kept."""

    id: str
    kind: str
    promise: str
    ruling: str
    unkept: str | None

    @property
    def prefix(self) -> str:
        """The part of the id that says which seed or which kind of row this is."""
        return self.id.rpartition("-")[0]


class Mark(NamedTuple):
    """The rows that one test, class, module or parameter names, and where it stands."""

    where: str
    rows: tuple[str, ...]
    flaw: str | None = None


class Report(NamedTuple):
    """How the ledger and the tests stand to each other."""

    covered: list[Row]
    missing: list[Row]
    unkept: list[Row]
    problems: list[str]

    @property
    def summary(self) -> str:
        """The one line that ends the report."""
        total = len(self.covered) + len(self.missing) + len(self.unkept)
        return (
            f"{len(self.covered)} of {total} rows have a test, {len(self.missing)} without, {len(self.unkept)} unkept"
        )


def read_ledger(path: Path) -> tuple[list[Row], list[str]]:
    """Return the rows of the ledger that are whole, and a line for each one that is not."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("row", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return [], [f"{path}: cannot be read: {error}"]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return [], [f"{path}: 'row' is not a list of tables, write [[row]]"]
    rows: dict[str, Row] = {}
    problems: list[str] = []
    for number, table in enumerate(tables, start=1):
        name = f"{path.name}: row {table.get('id') or f'number {number}'}"
        faults = list(_faults(table))
        if not faults and table["id"] in rows:
            faults = ["stands twice"]
        problems += [f"{name} {fault}" for fault in faults]
        if not faults:
            rows[table["id"]] = Row(*(table.get(key) for key in REQUIRED + OPTIONAL))
    return list(rows.values()), problems


def _faults(table: dict[str, Any]) -> Iterator[str]:
    for key in REQUIRED:
        # A fact may be of no use to the compatibility layer, so its ruling may be empty.
        may_be_empty = key == "ruling" and table.get("kind") == "fact"
        if key not in table or not (table[key] or may_be_empty):
            yield f"lacks the key '{key}'"
    if table.get("unkept") == "":
        yield "is unkept without a reason"
    for key, value in table.items():
        # A mistyped 'unkept' would turn into a row that merely has no test.
        if key not in REQUIRED + OPTIONAL:
            yield f"has the unknown key '{key}'"
        elif not isinstance(value, str):
            yield f"has a '{key}' that is not text"


def read_marks(tests: Path) -> tuple[list[Mark], list[str]]:
    """Return the marks of all Python files below a folder, and a line for each unreadable file."""
    marks: list[Mark] = []
    problems: list[str] = []
    for path in sorted(tests.rglob("*.py")):
        shown = path.relative_to(tests.parent).as_posix()
        try:
            tree = ast.parse(path.read_bytes(), filename=shown)
        except (OSError, SyntaxError, ValueError) as error:
            problems.append(f"{shown}: cannot be read: {error}")
        else:
            marks += _marks_of_module(tree, shown)
    return marks, problems


def _marks_of_module(tree: ast.Module, shown: str) -> Iterator[Mark]:
    seen: set[ast.AST] = set()
    for node in ast.walk(tree):
        own: list[ast.expr] = []
        name = "module"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own += node.decorator_list
            name = node.name
        if isinstance(node, ast.Module | ast.ClassDef):
            own += _pytestmark(node.body)
        found = [decorator for decorator in own if _is_contract(decorator)]
        seen.update(found)
        if found:
            yield _mark(found, f"{shown}:{found[0].lineno} {name}")
    # What is left stands in the marks of a pytest.param: a set of its own for each parameter.
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_contract(node) and node not in seen:
            yield _mark([node], f"{shown}:{node.lineno} parameter")


def _pytestmark(body: Sequence[ast.stmt]) -> Iterator[ast.expr]:
    for statement in body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in targets):
            value = statement.value
            if isinstance(value, ast.List | ast.Tuple):
                yield from value.elts
            elif value is not None:
                yield value


def _is_contract(node: ast.expr) -> bool:
    """Return True if an expression is `pytest.mark.contract`, called or bare."""
    if isinstance(node, ast.Call):
        node = node.func
    if not (isinstance(node, ast.Attribute) and node.attr == "contract"):
        return False
    owner = node.value
    return (isinstance(owner, ast.Attribute) and owner.attr == "mark") or (
        isinstance(owner, ast.Name) and owner.id == "mark"
    )


def _mark(found: Sequence[ast.expr], where: str) -> Mark:
    rows: list[str] = []
    flaw = None
    for node in found:
        arguments = node.args if isinstance(node, ast.Call) else []
        if not arguments:
            flaw = "names no row"
        for argument in arguments:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                rows.append(argument.value)
            else:
                flaw = "names a row by something other than a quoted id"
    return Mark(where, tuple(rows), flaw)


def check(rows: Sequence[Row], marks: Sequence[Mark]) -> list[str]:
    """Return a line for everything in which the tests contradict the ledger."""
    known = {row.id: row for row in rows}
    problems: list[str] = []
    for mark in marks:
        if mark.flaw:
            problems.append(f"{mark.where}: {mark.flaw}")
        if len(set(mark.rows)) > MOST_ROWS_A_TEST:
            problems.append(f"{mark.where}: names {len(set(mark.rows))} rows, at most {MOST_ROWS_A_TEST} are allowed")
        for name in dict.fromkeys(mark.rows):
            if name not in known:
                problems.append(f"{mark.where}: names the unknown row {name}")
            elif known[name].unkept:
                problems.append(f"{mark.where}: names {name}, which the ledger calls unkept")
    return problems


def make_report(ledger: Path, tests: Path) -> Report:
    """Compare a ledger with a folder of tests."""
    rows, ledger_problems = read_ledger(ledger)
    marks, test_problems = read_marks(tests)
    problems = ledger_problems + test_problems
    # Against a ledger that cannot be read every name would be unknown: noise after the real fault.
    if rows or not ledger_problems:
        problems += check(rows, marks)
    named = {name for mark in marks for name in mark.rows}
    promises = [row for row in rows if row.kind != "fact"]
    kept = [row for row in promises if not row.unkept]
    return Report(
        covered=[row for row in kept if row.id in named],
        missing=[row for row in kept if row.id not in named],
        unkept=[row for row in promises if row.unkept],
        problems=problems,
    )


def as_text(report: Report, width: int) -> str:
    """Render a report for a terminal of the given width."""
    lines: list[str] = []
    # The ledger's own order is kept within a prefix; sorting by text would put S1-10 before S1-2.
    for prefix, group in groupby(sorted(report.missing, key=lambda row: row.prefix), key=lambda row: row.prefix):
        missing = list(group)
        lines += [f"{prefix}: {len(missing)} without a test"]
        lines += [_line(row.id, row.promise, width) for row in missing]
        lines += [""]
    if report.unkept:
        lines += ["Unkept, with the reason"]
        lines += [f"  {row.id:<6} {row.unkept}" for row in report.unkept]
        lines += [""]
    return "\n".join([*lines, report.summary])


def _line(name: str, text: str, width: int) -> str:
    label = f"  {name:<6} "
    left = max(width - len(label), 20)
    return label + textwrap.shorten(text, left, placeholder=" ...")


def as_json(report: Report) -> str:
    """Render a report for a machine."""
    return json.dumps(
        {
            "covered": [row.id for row in report.covered],
            "missing": [{"id": row.id, "promise": row.promise} for row in report.missing],
            "unkept": [{"id": row.id, "reason": row.unkept} for row in report.unkept],
            "problems": report.problems,
            "summary": report.summary,
        },
        indent=2,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report and return the exit code."""
    parser = argparse.ArgumentParser(description="Which rows of the contract no test names.")
    parser.add_argument("--ledger", type=Path, default=ROOT / "docs" / "contract.toml")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests")
    parser.add_argument("--json", action="store_true", help="print JSON, problems included")
    options = parser.parse_args(argv)
    report = make_report(options.ledger, options.tests)
    if options.json:
        print(as_json(report))
    else:
        print(as_text(report, shutil.get_terminal_size().columns), flush=True)
        for problem in report.problems:
            print(problem, file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
