"""The check of retired words finds a planted one, names its replacement, and passes standard terms."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("vocabulary", ROOT / "scripts" / "vocabulary.py")
assert _spec is not None
assert _spec.loader is not None
vocabulary = sys.modules["vocabulary"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vocabulary)

WORDS = vocabulary.Vocabulary()


def found(source: str, path: str = "src/memwarden/planted.py") -> list[tuple[int, str]]:
    return [(hit.line, hit.word) for hit in vocabulary.check_module(source, path, WORDS)]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("purse", "purse"),
        ("_seats", "seats"),
        ("WorkerSeat", "seat"),
        ("make_room", "room"),
        ("_let_go", "let go"),
        ("HANG_BELL", "bell"),
        ("putBack", "put back"),
    ],
)
def test_a_retired_word_in_an_identifier_is_found(name: str, word: str) -> None:
    hits = list(vocabulary.check_module(f"x = 1\n{name} = 2\n", "src/planted.py", WORDS))
    assert any(hit.line == 2 and word in hit.word and hit.replacement in str(hit) for hit in hits)


@pytest.mark.parametrize("name", ["heading", "headroom", "doorstep", "seated", "rebellion", "let_it_go"])
def test_a_word_that_only_contains_a_retired_one_passes(name: str) -> None:
    assert found(f"{name} = 2\n") == []


def test_things_are_not_persons_in_docstrings_comments_and_messages() -> None:
    source = '"""Read it.\n\nThe process who took it."""\n# nobody waits\nprint(f"{1} by somebody")\n'
    assert found(source) == [(3, "who"), (4, "nobody"), (5, "somebody")]


def test_people_are_persons() -> None:
    assert found('"""The menu for users who edit it."""\n') == []


def test_strings_of_tests_may_quote_while_their_docstrings_may_not() -> None:
    source = '"""Nobody."""\nx = "nobody"\n'
    assert found(source, "tests/unit/test_planted.py") == [(1, "Nobody")]


def test_a_docstring_opens_with_an_imperative_or_a_noun() -> None:
    source = 'def f():\n    """What is left."""\n'
    assert found(source) == [(2, "What ... as a docstring's opening")]


def test_file_names_and_pages_are_checked(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "nursery.py").write_text("")
    (tmp_path / "page.md").write_text("# Title\n\nAsk somebody.\n")
    hits = list(vocabulary.check(tmp_path, ["src", "page.md"], WORDS))
    assert [(hit.path, hit.line) for hit in hits] == [("src/nursery.py", 0), ("page.md", 3)]


def test_the_exit_code_says_whether_a_word_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("Nobody.\n")
    assert vocabulary.main(["page.md"]) == 1
    page.write_text("No process.\n")
    assert vocabulary.main(["page.md"]) == 0
