#!/usr/bin/env python3
"""A full-text index over Python sources, built within a memory budget or, to compare, without one.

    python fulltext_index.py build --out stdlib.idx       # the standard library of this Python
    python fulltext_index.py build --out my.idx src tests
    python fulltext_index.py query stdlib.idx weakref finalize

`--spill` (the default) indexes in a single pass: every worker collects postings up to its part of
`--budget`, writes them as a sorted segment beside the output and starts afresh; at the end the
segments are merged into one file. `--in-memory` is what one writes first: read everything, put an
object for every word into a dict, write the dict. Both make the same file, byte for byte; they
differ in the memory that they need. Neither knows of memwarden, which only watches them. A build
that fails or is stopped leaves nothing; only SIGKILL can leave a folder `.NAME.…` of segments.

A word starts with a letter or an underscore; case does not count. `HTTPServer` is found as
`httpserver`, `http` and `server`. There is no phrase search and no ranking beyond counting.

The index, in the byte order of its machine: a record for every term, sorted; a record for every
document; the offsets of both kinds, eight bytes each; the footer. A record is the lengths of its
two parts, the term in UTF-8 (or the path), and 32-bit numbers: document, how often, that many
character offsets, the next document. A query finds its term by bisecting the offsets, in some
twenty seeks, and loads the records that it needs.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import itertools
import multiprocessing
import os
import re
import signal
import stat
import struct
import sys
import sysconfig
import tempfile
import time
import tokenize
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO, TextIOWrapper
from multiprocessing.connection import Connection
from types import FrameType
from typing import BinaryIO, NamedTuple, NoReturn

WORD = re.compile(r"\b[^\W\d]\w*")
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\WA-Z_]+")
LONGEST_WORD = 100  # longer ones are encoded data, which no query contains

MAGIC = b"FTINDEX1" if sys.byteorder == "little" else b"1XEDNITF"
FOOTER = struct.Struct("=QQQ8s")  # where the offsets begin, how many terms, how many documents
LENGTHS = struct.Struct("=II")

# What a term costs before its first posting: a str, an array, a place in the dict.
TERM_COST = sys.getsizeof("a_usual_name") + sys.getsizeof(array("I")) + 100
FAN_IN = 64  # segments merged at once: far below the 1024 files that a process may usually open
PROGRESS_EVERY = 2.0  # seconds
SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class UserError(Exception):
    """Something that the user can put right; it is shown as one line."""


class Record(NamedTuple):
    """A term and where it occurs."""

    term: bytes
    numbers: array[int]


class Report(NamedTuple):
    """What became of some files; the notes name those that were odd."""

    segments: list[str]
    words: int
    notes: list[str]


class Progress:
    """Prints a line about every two seconds, and none if the work is done sooner."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.due = time.monotonic() + PROGRESS_EVERY

    def tell(self, message: str) -> None:
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + PROGRESS_EVERY
            # One write a line: the lines of several processes do not mix.
            sys.stderr.write(f"{self.name}: {message}\n")


def find_sources(roots: Iterable[str], notes: list[str]) -> dict[str, int]:
    """Return the .py files below the roots with their sizes, sorted.

    Links to directories are not followed, so a loop of them is harmless. A directory of installed
    packages is indexed where it is a root, and passed by where it lies below one.
    """
    found: dict[str, int] = {}
    for root in roots:
        for folder, folders, names in os.walk(root, onerror=lambda error: notes.append(f"{error}")):
            folders[:] = [n for n in folders if n not in ("site-packages", "dist-packages")]
            for path in (os.path.join(folder, name) for name in names if name.endswith(".py")):
                try:
                    status = os.stat(path)
                except OSError as error:
                    notes.append(f"{error}")
                else:
                    if stat.S_ISREG(status.st_mode):  # to open a FIFO would be to wait for ever
                        found[path] = status.st_size
    return dict(sorted(found.items()))


def read_source(path: str, notes: list[str]) -> str:
    """Return the text of a source with plain newlines, and note what is odd about it."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        notes.append(f"{error}")
        return ""
    if b"\0" in raw:
        notes.append(f"binary, left out: {path!r}")
        return ""
    try:
        text = raw.decode(tokenize.detect_encoding(BytesIO(raw).readline)[0])
    except (SyntaxError, UnicodeError, LookupError):
        notes.append(f"not in its declared encoding, read as latin-1: {path!r}")
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


@lru_cache(maxsize=20_000)
def terms_of(word: str) -> tuple[str, ...]:
    """Return the terms under which a word is found: itself and its parts, without repetition."""
    if len(word) > LONGEST_WORD:
        return ()
    return tuple(dict.fromkeys([word.lower(), *(part.lower() for part in PART.findall(word))]))


# Within a budget.


def index_share(name: str, paths: list[str], first: int, budget: int, folder: str) -> Report:
    """Index the documents `first`, `first + 1`, … into segments of about `budget` bytes each.

    The budget is looked at between files, so the postings of one file may exceed it.
    """
    segments: list[str] = []
    notes: list[str] = []
    words, used = 0, 0
    postings: defaultdict[str, array[int]] = defaultdict(lambda: array("I"))
    progress = Progress(name)
    for document, path in enumerate(paths, first):
        here: defaultdict[str, list[int]] = defaultdict(list)
        for match in WORD.finditer(read_source(path, notes)):
            words += 1
            for term in terms_of(match[0]):
                here[term].append(match.start())
        for term, offsets in here.items():
            used += 0 if term in postings else TERM_COST
            postings[term].extend((document, len(offsets), *offsets))
            used += (2 + len(offsets)) * postings[term].itemsize
        if used >= budget or (postings and document == first + len(paths) - 1):
            segments.append(os.path.join(folder, f"{first}-{len(segments)}.segment"))
            with open(segments[-1], "wb") as file:
                for term in sorted(postings):  # by code point, which is the order of UTF-8 too
                    write_record(file, Record(term.encode(), postings[term]))
            postings.clear()
            used = 0
        progress.tell(f"{document - first + 1} of {len(paths)} files, {len(segments)} segments")
    return Report(segments, words, notes)


def work(sender: Connection, name: str, paths: list[str], first: int, budget: int, folder: str) -> None:
    """Index a share in a process of its own, and send the report or what prevented it."""
    # Ctrl-C reaches every process of the group; the parent answers it and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    result: Report | OSError
    try:
        result = index_share(name, paths, first, budget, folder)
    except OSError as error:
        result = error
    with suppress(BrokenPipeError):  # the parent was killed
        sender.send(result)


def build_spilling(sources: dict[str, int], folder: str, workers: int, budget: int) -> tuple[Report, Iterator[Record]]:
    """Index in worker processes; return their reports as one, and the merged records."""
    # Neighbouring files go to the same worker, about equally many bytes to each: so the segments,
    # in the order of the workers, hold the documents of a term in rising order.
    shares: list[list[str]] = [[] for _ in range(workers)]
    seen, total = 0, sum(sources.values()) + 1
    for path, size in sources.items():
        shares[seen * workers // total].append(path)
        seen += size
    context = multiprocessing.get_context("spawn")
    running = []
    reports: list[Report] = []
    try:
        first = 0
        for number, paths in enumerate(shares, 1):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=work,
                args=(sender, f"worker {number}", paths, first, budget // workers, folder),
                daemon=True,
            )
            process.start()
            sender.close()  # the worker holds the only other end: if it dies, recv ends
            running.append((process, receiver))
            first += len(paths)
        for process, receiver in running:
            try:
                report = receiver.recv()
            except EOFError:
                process.join()
                raise UserError(f"a worker died (exit code {process.exitcode})") from None
            if isinstance(report, OSError):
                raise report
            reports.append(report)
    finally:
        for child in multiprocessing.active_children():  # stopped, or about to leave
            child.terminate()
            child.join()
    segments = [segment for report in reports for segment in report.segments]
    notes = [note for report in reports for note in report.notes]
    return Report(segments, sum(r.words for r in reports), notes), merge(segments)


def merge(segments: list[str]) -> Iterator[Record]:
    """Yield the records of all segments by term, with the documents in the segments' order."""
    while len(segments) > FAN_IN:
        groups = [segments[at : at + FAN_IN] for at in range(0, len(segments), FAN_IN)]
        segments = [f"{group[0]}+" for group in groups]
        for group, merged in zip(groups, segments, strict=True):
            with open(merged, "wb") as file:
                for record in merge(group):
                    write_record(file, record)
    with ExitStack() as opened:
        files = [opened.enter_context(open(segment, "rb")) for segment in segments]
        # Of equal terms, heapq.merge gives the one of the earlier segment first.
        records = heapq.merge(*map(read_segment, files), key=lambda record: record.term)
        for term, same in itertools.groupby(records, key=lambda record: record.term):
            numbers = array("I")
            for record in same:
                numbers.extend(record.numbers)
            yield Record(term, numbers)


def read_segment(file: BinaryIO) -> Iterator[Record]:
    """Yield the records of a segment, one at a time."""
    while lengths := file.read(LENGTHS.size):
        term_length, numbers_length = LENGTHS.unpack(lengths)
        yield Record(file.read(term_length), array("I", file.read(numbers_length)))


# Without a budget.


@dataclass
class Hit:
    """Where a term occurs."""

    path: str
    offset: int


def build_in_memory(sources: dict[str, int]) -> tuple[Report, Iterator[Record]]:
    """Index as comes to mind first: all texts in a dict, all hits in another."""
    notes: list[str] = []
    words = 0
    progress = Progress("in memory")
    texts = {path: read_source(path, notes) for path in sources}
    index: defaultdict[str, list[Hit]] = defaultdict(list)
    for done, (path, text) in enumerate(texts.items(), 1):
        for match in WORD.finditer(text):
            words += 1
            for term in terms_of(match[0]):
                index[term].append(Hit(path, match.start()))
        progress.tell(f"{done} of {len(texts)} files, {len(index)} terms")

    def records() -> Iterator[Record]:
        documents = {path: document for document, path in enumerate(sources)}
        for term in sorted(index):
            numbers = array("I")
            for path, hits in itertools.groupby(index[term], key=lambda hit: hit.path):
                offsets = [hit.offset for hit in hits]
                numbers.extend((documents[path], len(offsets), *offsets))
            yield Record(term.encode(), numbers)

    return Report([], words, notes), records()


# The file.


def write_record(file: BinaryIO, record: Record) -> int:
    """Write a record and return its length."""
    numbers = record.numbers.tobytes()
    file.write(LENGTHS.pack(len(record.term), len(numbers)) + record.term + numbers)
    return LENGTHS.size + len(record.term) + len(numbers)


def write_index(path: str, records: Iterable[Record], documents: Iterable[str]) -> tuple[int, int]:
    """Write the index and return the number of terms and its size in bytes."""
    offsets = array("Q", [0])
    with open(path, "wb") as file:
        for record in records:
            offsets.append(offsets[-1] + write_record(file, record))
        terms = len(offsets) - 1
        for document in documents:
            record = Record(os.fsencode(document), array("I"))
            offsets.append(offsets[-1] + write_record(file, record))
        end = offsets.pop()
        file.write(offsets.tobytes())
        file.write(FOOTER.pack(end, terms, len(offsets) - terms, MAGIC))
        file.flush()
        os.fsync(file.fileno())
        return terms, file.tell()


class Index:
    """An index on disk: a sequence of its terms, as bisect wants it, that holds none of them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        size = file.seek(0, os.SEEK_END)
        if size < FOOTER.size:
            raise UserError("not an index, or not a whole one")
        file.seek(size - FOOTER.size)
        footer: tuple[int, int, int, bytes] = FOOTER.unpack(file.read(FOOTER.size))
        self.offsets, self.terms, self.documents, magic = footer
        if magic != MAGIC or size != self.offsets + 8 * (self.terms + self.documents) + FOOTER.size:
            raise UserError("not an index, or not a whole one, or one of another kind of machine")

    def __len__(self) -> int:
        return self.terms

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < self.terms:
            raise IndexError(number)
        return self.read(number)[0]

    def read(self, number: int) -> tuple[bytes, int]:
        """Return a record's first part and the length of its second, where the file then stands."""
        self.file.seek(self.offsets + 8 * number)
        self.file.seek(int.from_bytes(self.file.read(8), sys.byteorder))
        length, rest = LENGTHS.unpack(self.file.read(LENGTHS.size))
        return self.file.read(length), rest

    def path(self, document: int) -> str:
        """Return the path of a document."""
        return os.fsdecode(self.read(self.terms + document)[0])

    def find(self, word: str) -> dict[int, array[int]]:
        """Return the documents that hold a word, each with the offsets at which it does."""
        key = word.lower().encode(errors="surrogateescape")
        number = bisect.bisect_left(self, key)
        if number == len(self):
            return {}
        term, length = self.read(number)
        if term != key:
            return {}
        numbers = array("I", self.file.read(length))
        found, at = {}, 0
        while at < len(numbers):
            end = at + 2 + numbers[at + 1]
            found[numbers[at]] = numbers[at + 2 : end]
            at = end
        return found


# The commands.


def build(options: argparse.Namespace) -> int:
    """Build an index that appears whole or not at all."""
    started = time.monotonic()
    paths = sysconfig.get_paths()
    roots = options.directories or [paths["stdlib"]]
    if options.site_packages:
        roots = [*roots, paths["purelib"], paths["platlib"]]
    for root in roots:
        if not os.path.isdir(root):
            raise UserError(f"no such directory: {root}")
    out = os.path.abspath(options.out)
    if os.path.isdir(out):
        raise UserError(f"a directory, not a place for an index: {options.out}")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    notes: list[str] = []
    sources = find_sources(map(os.path.abspath, dict.fromkeys(roots)), notes)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(out), prefix=f".{os.path.basename(out)}.") as folder:
        if options.in_memory:
            report, records = build_in_memory(sources)
        else:
            report, records = build_spilling(sources, folder, options.workers, options.budget)
        whole = os.path.join(folder, "index")
        terms, size = write_index(whole, records, sources)
        os.replace(whole, out)
    print(
        f"{len(sources)} files, {report.words} words, {terms} distinct terms"
        f" from {len(report.segments) or 'no'} segments in {time.monotonic() - started:.1f} s;"
        f" {options.out}: {size / (1 << 20):.1f} MiB"
    )
    notes += report.notes
    if notes:
        print("files out of the ordinary:", len(notes))
        print(*(f"  {note}" for note in notes), sep="\n")
    return 0


def query(options: argparse.Namespace) -> int:
    """Print the files that hold all the words, those with the most occurrences first."""
    with open(options.index, "rb") as file:
        index = Index(file)
        found = [index.find(word) for word in options.words]
        common = set(found[0]).intersection(*found)
        counts = {doc: sum(len(offsets[doc]) for offsets in found) for doc in common}
        best = sorted(counts, key=lambda doc: (-counts[doc], doc))
        for doc in best[: options.limit]:
            path = index.path(doc)
            number, line = first_line(path, options.words, [offsets[doc] for offsets in found])
            print(f"{counts[doc]:6} {path}:{number}: {line.strip()[:100]}")
    print(f"{len(best)} files hold {' and '.join(options.words)}")
    return 0 if best else 1


def first_line(path: str, words: list[str], offsets: list[array[int]]) -> tuple[int, str]:
    """Return the number and text of the first line with all the words, else with any of them."""
    text = read_source(path, [])
    for word, at in ((word, at) for word, places in zip(words, offsets, strict=True) for at in places):
        match = WORD.match(text, at)
        if match is None or word.lower() not in terms_of(match[0]):
            return 0, "(changed since it was indexed)"
    breaks = [match.start() for match in re.finditer("\n", text)]
    lines = [{bisect.bisect_left(breaks, at) for at in places} for places in offsets]
    number = min(set.intersection(*lines) or set.union(*lines))
    return number + 1, text.split("\n")[number]


def size_in_bytes(text: str) -> int:
    """Return the number of bytes that a size such as 32MiB, 32M or 33554432 means."""
    match = re.fullmatch(r"(\d+)(?:([KMG])(?:iB)?)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a size such as 32MiB: {text}")
    return int(match[1]) * SIZE_UNITS[match[2] or ""]


def count(text: str) -> int:
    """Return a number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"not a number above 0: {text}")
    return int(text)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by way of everything that has to be cleared up, which a second signal must not cut."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stderr.write(f"stopped by {signal.Signals(number).name}\n")
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command, and turn errors into one line and an exit code."""
    parser = argparse.ArgumentParser(description="A full-text index over Python sources.")
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("build", help="index all .py files below directories")
    make.add_argument("directories", nargs="*", help="default: this Python's standard library")
    make.add_argument("--out", required=True, help="the index; it appears when it is complete")
    make.add_argument("--site-packages", action="store_true", help="also the installed packages")
    way = make.add_mutually_exclusive_group()
    way.add_argument("--spill", action="store_true", help="within a budget (the default)")
    way.add_argument("--in-memory", action="store_true", help="everything in one process's dict")
    make.add_argument("--budget", type=size_in_bytes, default="32MiB", help="for all workers")
    make.add_argument("--workers", type=count, default="2", help="processes (default: 2)")
    make.set_defaults(command=build)
    ask = commands.add_parser("query", help="find the files that hold all the words")
    ask.add_argument("index")
    ask.add_argument("words", nargs="+", metavar="word")
    ask.add_argument("--limit", type=count, default="10", help="files shown (default: 10)")
    ask.set_defaults(command=query)
    options = parser.parse_args()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    try:
        return int(options.command(options))
    except (UserError, OSError) as error:
        print(f"fulltext_index: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
