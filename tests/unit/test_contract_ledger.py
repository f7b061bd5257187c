"""The ledger of the contract is whole, and scripts/contract.py sees when tests contradict it."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "docs" / "contract.toml"

# Written as numbers, so that a row that gets lost in an edit is noticed.
ROWS_BY_PREFIX = {
    "S0": 44,
    "S1": 76,
    "S2": 62,
    "S3": 69,
    "S4": 63,
    "X": 40,
    "V": 31,
    "W0": 9,
    "W1": 13,
    "W2": 8,
    "W3": 13,
    "W4": 9,
    "WX": 1,
    "F0": 11,
    "F1": 18,
    "F2": 6,
    "F3": 15,
    "F4": 8,
}
SEED_KINDS = {"API", "CLI", "THR", "OUT", "ENV", "BEH", "NUM", "PLAT", "DOC"}
KIND_BY_LETTER = {"X": "conflict", "V": "vague", "W": "weakness", "F": "fact"}

SMALL_LEDGER = """
[[row]]
id = "S0-1"
kind = "BEH"
promise = "The first promise, which is kept."
ruling = "Kept."

[[row]]
id = "S0-2"
kind = "BEH"
promise = "The second promise, which no test names yet."
ruling = "Kept."

[[row]]
id = "S1-1"
kind = "DOC"
promise = "A command with a flag that does not exist."
ruling = "The right command is documented."
unkept = "There is no such flag."

[[row]]
id = "F0-1"
kind = "fact"
promise = "Something about the original."
ruling = ""
"""


def load_script() -> ModuleType:
    """Import the script by its path, since scripts/ is no package."""
    spec = importlib.util.spec_from_file_location("contract", ROOT / "scripts" / "contract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ledger_of(*ids: str) -> str:
    """A ledger of whole rows with nothing in them but their ids."""
    return "".join(f'[[row]]\nid = "{i}"\nkind = "c"\npromise = "p"\nruling = "r"\n' for i in ids)


contract = load_script()
Problems = Callable[..., list[str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project: a ledger and an empty folder of tests."""
    (tmp_path / "contract.toml").write_text(SMALL_LEDGER, encoding="utf-8")
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def problems(tree: Path) -> Problems:
    """The problems found for one test file with the given text, against a given ledger."""

    def found(test: str = "", ledger: str = SMALL_LEDGER) -> list[str]:
        (tree / "contract.toml").write_text(ledger, encoding="utf-8")
        (tree / "tests" / "unit" / "test_it.py").write_text(test, encoding="utf-8")
        return contract.make_report(tree / "contract.toml", tree / "tests").problems

    return found


def test_the_ledger_is_whole_and_has_every_row_of_every_prefix() -> None:
    """Each row has its keys and an id of its own, and numbers run from 1 without a hole."""
    rows, faults = contract.read_ledger(LEDGER)
    assert faults == []
    assert Counter(row.prefix for row in rows) == ROWS_BY_PREFIX
    expected = {f"{p}-{n}" for p, count in ROWS_BY_PREFIX.items() for n in range(1, count + 1)}
    assert {row.id for row in rows} == expected
    assert len(rows) == 496


def test_every_row_has_the_kind_that_its_prefix_says() -> None:
    """Facts alone need no test, so a promise must not pass for a fact by its kind."""
    rows, _ = contract.read_ledger(LEDGER)
    for row in rows:
        if row.id.startswith("S"):
            assert set(row.kind.split("/")) <= SEED_KINDS, row.id
        else:
            assert row.kind == KIND_BY_LETTER[row.id[0]], row.id


def test_the_ledger_refers_only_to_rows_that_exist() -> None:
    """Rulings send the reader to other rows by their id, so each of these ids is there."""
    rows, _ = contract.read_ledger(LEDGER)
    known = {row.id for row in rows}
    for row in rows:
        named = re.findall(r"\b(?:[SFW]\d|WX|X|V)-\d+\b", f"{row.promise} {row.ruling} {row.unkept}")
        assert set(named) <= known, row.id


def test_the_real_tests_do_not_contradict_the_ledger() -> None:
    """What `make contract` would refuse, `make test` refuses as well."""
    assert contract.make_report(LEDGER, ROOT / "tests").problems == []


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        pytest.param(
            '@pytest.mark.contract("S0-1")\ndef test_a(): ...',
            {"S0-1"},
            id="a function",
        ),
        pytest.param(
            '@pytest.mark.contract("S0-1", "S0-2")\nasync def test_a(): ...',
            {"S0-1", "S0-2"},
            id="an async function with two rows",
        ),
        pytest.param(
            '@pytest.mark.contract("S0-2")\nclass TestA:\n    def test_a(self): ...',
            {"S0-2"},
            id="a class",
        ),
        pytest.param(
            'class TestA:\n    @mark.contract("S0-2")\n    def test_a(self): ...',
            {"S0-2"},
            id="a method, with mark imported by name",
        ),
        pytest.param(
            'pytestmark = pytest.mark.contract("S0-1")',
            {"S0-1"},
            id="a module",
        ),
        pytest.param(
            'pytestmark: list = [pytest.mark.long, pytest.mark.contract("S0-1")]',
            {"S0-1"},
            id="a module with several marks",
        ),
        pytest.param(
            'class TestA:\n    pytestmark = [pytest.mark.contract("S0-2")]',
            {"S0-2"},
            id="the body of a class",
        ),
        pytest.param(
            'CASES = [pytest.param(1, marks=pytest.mark.contract("S0-2"))]',
            {"S0-2"},
            id="one parameter of a table",
        ),
        pytest.param(
            '# @pytest.mark.contract("S0-1")\nTEXT = \'pytest.mark.contract("S0-1")\'',
            set(),
            id="a comment and a string are no marks",
        ),
        pytest.param(
            '@pytest.mark.contract("F0-1")\ndef test_a(): ...',
            set(),
            id="a fact may be named but does not count",
        ),
    ],
)
def test_marks_are_found_where_pytest_takes_them(tree: Path, test: str, expected: set[str]) -> None:
    """The rows that a test names count as covered, wherever its mark stands."""
    (tree / "tests" / "unit" / "test_it.py").write_text(test, encoding="utf-8")
    report = contract.make_report(tree / "contract.toml", tree / "tests")
    assert report.problems == []
    assert {row.id for row in report.covered} == expected
    assert {row.id for row in report.missing} == {"S0-1", "S0-2"} - expected
    assert [row.id for row in report.unkept] == ["S1-1"]


def test_an_unknown_row_is_a_problem(problems: Problems) -> None:
    """The line says the file, the line in it, the test and the row."""
    found = problems('\n@pytest.mark.contract("S0-1", "S9-9")\ndef test_a(): ...')
    assert found == ["tests/unit/test_it.py:2 test_a: names the unknown row S9-9"]


def test_more_than_five_rows_are_a_problem(problems: Problems) -> None:
    """Marks stacked on one test count together; five rows are still allowed."""
    rows = ledger_of(*(f"X-{n}" for n in range(9)))
    five = '@pytest.mark.contract("X-1", "X-2", "X-3")\n@pytest.mark.contract("X-4", "X-5")\n'
    assert problems(five + "def test_a(): ...", rows) == []
    assert problems('@pytest.mark.contract("X-6")\n' + five + "def test_a(): ...", rows) == [
        "tests/unit/test_it.py:1 test_a: names 6 rows, at most 5 are allowed"
    ]


def test_the_rows_of_different_tests_are_counted_apart(problems: Problems) -> None:
    """A table of parameters may name more than five rows, each parameter its own."""
    rows = ledger_of(*(f"X-{n}" for n in range(9)))
    cases = "\n".join(f'    pytest.param({n}, marks=pytest.mark.contract("X-{n}")),' for n in range(9))
    assert problems(f"CASES = [\n{cases}\n]", rows) == []


def test_an_unkept_row_named_by_a_test_is_a_problem(problems: Problems) -> None:
    """Either the row is kept after all, or the test does not prove it."""
    found = problems('@pytest.mark.contract("S1-1")\ndef test_a(): ...')
    assert found == ["tests/unit/test_it.py:1 test_a: names S1-1, which the ledger calls unkept"]


@pytest.mark.parametrize(
    ("mark", "flaw"),
    [
        ("@pytest.mark.contract", "names no row"),
        ("@pytest.mark.contract()", "names no row"),
        ("@pytest.mark.contract(ROW)", "names a row by something other than a quoted id"),
        ("@pytest.mark.contract(*ROWS)", "names a row by something other than a quoted id"),
    ],
)
def test_a_mark_that_cannot_be_read_is_a_problem(problems: Problems, mark: str, flaw: str) -> None:
    """A row hidden behind a name would be covered without notice."""
    found = problems(f"{mark}\ndef test_a(): ...")
    assert found == [f"tests/unit/test_it.py:1 test_a: {flaw}"]


def test_a_test_file_that_is_no_python_is_a_problem(problems: Problems) -> None:
    """The file is named instead of ending the run with a traceback."""
    (found,) = problems("def broken(:\n")
    assert found.startswith("tests/unit/test_it.py: cannot be read: ")


def test_a_row_that_stands_twice_is_a_problem(problems: Problems) -> None:
    """The first of the two counts."""
    again = '\n[[row]]\nid = "S0-1"\nkind = "BEH"\npromise = "Again."\nruling = "Kept."\n'
    assert problems(ledger=SMALL_LEDGER + again) == ["contract.toml: row S0-1 stands twice"]


@pytest.mark.parametrize("key", ["id", "kind", "promise", "ruling"])
@pytest.mark.parametrize("empty", [False, True], ids=["left out", "empty"])
def test_a_row_without_one_of_its_keys_is_a_problem(problems: Problems, key: str, empty: bool) -> None:
    """An empty value is as good as none, but for the ruling of a fact."""
    row = {"id": "X-1", "kind": "conflict", "promise": "p", "ruling": "r"}
    del row[key]
    if empty:
        row[key] = ""
    text = "[[row]]\n" + "\n".join(f'{name} = "{value}"' for name, value in row.items())
    name = "number 1" if key == "id" else "X-1"
    assert problems(ledger=text) == [f"contract.toml: row {name} lacks the key '{key}'"]


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        ('unkpet = "a slip"', "has the unknown key 'unkpet'"),
        ('unkept = ""', "is unkept without a reason"),
        ("unkept = true", "has a 'unkept' that is not text"),
    ],
)
def test_a_mistaken_key_is_a_problem(problems: Problems, line: str, flaw: str) -> None:
    """A slip in the one optional key would otherwise turn the row into a missing one."""
    assert problems(ledger=ledger_of("X-1") + line) == [f"contract.toml: row X-1 {flaw}"]


@pytest.mark.parametrize("text", ["[[row]\n", "row = 3\n", "row = [3]\n"])
def test_a_ledger_that_cannot_be_read_is_one_problem(problems: Problems, text: str) -> None:
    """The rows that tests name are not called unknown on top of it."""
    found = problems('@pytest.mark.contract("S0-1")\ndef test_a(): ...', text)
    assert len(found) == 1
    assert "contract.toml" in found[0]


def test_the_report_lists_missing_rows_unkept_rows_and_the_sum(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a test are no error: the ledger is full long before the tests are."""
    monkeypatch.setenv("COLUMNS", "40")
    (tree / "tests" / "test_it.py").write_text('@pytest.mark.contract("S0-1")\ndef test_a(): ...', encoding="utf-8")
    code = contract.main(["--ledger", str(tree / "contract.toml"), "--tests", str(tree / "tests")])
    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        "S0: 1 without a test",
        "  S0-2   The second promise, which ...",
        "",
        "Unkept, with the reason",
        "  S1-1   There is no such flag.",
        "",
        "1 of 3 rows have a test, 1 without, 1 unkept",
    ]


def test_rows_stay_in_the_order_of_the_ledger(tree: Path) -> None:
    """S0-2 comes before S0-10, and each prefix has one heading."""
    ledger = ledger_of("S0-2", "S1-1", "S0-10")
    (tree / "contract.toml").write_text(ledger, encoding="utf-8")
    text = contract.as_text(contract.make_report(tree / "contract.toml", tree / "tests"), 80)
    assert [line.split()[0] for line in text.splitlines()[:-1] if line] == [
        "S0:",
        "S0-2",
        "S0-10",
        "S1:",
        "S1-1",
    ]


def test_problems_are_printed_one_a_line_and_by_the_exit_code(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report still comes, so that one slip does not hide the rest."""
    (tree / "tests" / "test_it.py").write_text(
        '@pytest.mark.contract("S0-3", "S0-4")\ndef test_a(): ...', encoding="utf-8"
    )
    arguments = ["--ledger", str(tree / "contract.toml"), "--tests", str(tree / "tests")]
    assert contract.main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "tests/test_it.py:1 test_a: names the unknown row S0-3",
        "tests/test_it.py:1 test_a: names the unknown row S0-4",
    ]
    assert printed.out.splitlines()[-1] == "0 of 3 rows have a test, 2 without, 1 unkept"

    assert contract.main([*arguments, "--json"]) == 1
    output = json.loads(capsys.readouterr().out)
    assert output["problems"] == printed.err.splitlines()
    assert [row["id"] for row in output["missing"]] == ["S0-1", "S0-2"]
    assert output["unkept"] == [{"id": "S1-1", "reason": "There is no such flag."}]
    assert output["covered"] == []
