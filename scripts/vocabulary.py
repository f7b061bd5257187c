"""Fail on retired words: as a part of an identifier or file name, and in docstrings, comments, messages and pages.

scripts/vocabulary.toml holds the words with their replacements, and the few exceptions with their reasons. Messages are
the string literals of src/, examples/, benchmarks/ and scripts/; those of tests/ may quote anything.

The exit code is 0, or 1 when a retired word was found.
"""

import argparse
import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WORDS = Path(__file__).with_suffix(".toml")
CODE = ("src", "tests", "benchmarks", "examples", "scripts")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


class Hit(NamedTuple):
    """A retired word, where it stands, and the term that replaces it."""

    path: str
    line: int
    word: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r} is retired; use: {self.replacement}"


class Vocabulary:
    """The word lists of a TOML file."""

    def __init__(self, file: Path = WORDS) -> None:
        lists = tomllib.loads(file.read_text(encoding="utf-8"))
        self._names = {tuple(name.split()): term for name, term in lists["names"].items()}
        self._prose = lists["prose"]
        phrases = [re.escape(phrase).replace(r"\ ", r"\s+") for phrase in sorted(self._prose, key=len, reverse=True)]
        self._phrases = re.compile(rf"\b({'|'.join(phrases)})\b", re.IGNORECASE)
        self._openings = re.compile(rf"\s*({'|'.join(lists['openings']['words'])})\b")
        self._allowed = [(each["path"], re.compile(each["pattern"])) for each in lists["allowed"]]

    def in_name(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield each retired word in an identifier or file name, with its replacement."""
        parts = tuple(part.lower() for part in _PARTS.findall(name))
        for words, term in self._names.items():
            if any(parts[at : at + len(words)] == words for at in range(len(parts))):
                yield " ".join(words), term

    def in_prose(self, text: str, path: str) -> Iterator[tuple[int, str, str]]:
        """Yield each retired word in a text with its offset in lines and its replacement."""
        allowed = [match.span() for where, pattern in self._allowed if path.startswith(where)
                   for match in pattern.finditer(text)]  # fmt: skip
        for match in self._phrases.finditer(text):
            if not any(start <= match.start() and match.end() <= end for start, end in allowed):
                word = " ".join(match[0].lower().split())
                yield text.count("\n", 0, match.start()), match[0], self._prose[word]

    def allows(self, name: str, path: str) -> bool:
        """Return True for an identifier that an exception covers."""
        return any(where and path.startswith(where) and pattern.search(name) for where, pattern in self._allowed)

    def opens_badly(self, docstring: str) -> str | None:
        """Return the question word with which a docstring opens, else None."""
        match = self._openings.match(docstring)
        return match[1] if match else None


def check_module(source: str, path: str, words: Vocabulary) -> Iterator[Hit]:
    """Yield the retired words of one Python file; ``path`` is relative to the repository."""
    docstrings = _docstrings(source)
    messages = not path.startswith("tests/")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.NAME and not words.allows(token.string, path):
            for word, term in words.in_name(token.string):
                yield Hit(path, line, f"{token.string} ({word})", term)
        elif token.type == tokenize.COMMENT or (token.type in _STRINGS and (messages or line in docstrings)):
            for offset, word, term in words.in_prose(token.string, path):
                yield Hit(path, line + offset, word, term)
    if path.startswith("src/"):
        for line, text in docstrings.items():
            opening = words.opens_badly(text)
            if opening is not None:
                yield Hit(path, line, f"{opening} ... as a docstring's opening", "an imperative or a noun phrase")


def _docstrings(source: str) -> dict[int, str]:
    """The docstrings of a module by the line on which they start."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found[first.lineno] = first.value.value
    return found


def check(root: Path, paths: Sequence[str], words: Vocabulary) -> Iterator[Hit]:
    """Yield the retired words below ``paths``, which are files and folders relative to ``root``."""
    for file in _files(root, paths):
        path = file.relative_to(root).as_posix()
        if file.suffix == ".py":
            source = file.read_text(encoding="utf-8")
            yield from check_module(source, path, words)
            for word, term in words.in_name(file.stem):
                yield Hit(path, 0, f"file name: {word}", term)
        else:
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                for _, word, term in words.in_prose(line, path):
                    yield Hit(path, number, word, term)


def _files(root: Path, paths: Sequence[str]) -> Iterator[Path]:
    for each in paths:
        place = root / each
        yield from (
            [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in (".py", ".md", ".sh"))
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the hits and return the exit code."""
    parser = argparse.ArgumentParser(description="Find retired words.")
    parser.add_argument("paths", nargs="*", default=[*CODE, *PAGES], help="files and folders of the repository")
    hits = list(check(ROOT, parser.parse_args(argv).paths, Vocabulary()))
    for hit in hits:
        print(hit)
    print(f"vocabulary: {len(hits)} retired words" if hits else "vocabulary: no retired word")
    return 1 if hits else 0


if __name__ == "__main__":
    raise SystemExit(main())
