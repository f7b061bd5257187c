#!/bin/sh
# The main job on real files: one program that stays within its limit, and one that grows past it.
# Exits 0 if both ended as they should. MEMWARDEN names another command to try.
set -u
cd "$(dirname "$0")/.." || exit 1
memwarden=${MEMWARDEN:-.venv/bin/memwarden}
python=.venv/bin/python
limit=256MiB
ended_by_limit=123
out=.cache/demo

unexpected() {
    echo "demo: unexpected: $1" >&2
    exit 1
}

# The installed packages too: Debian and Docker images strip the tests from the standard library,
# and the rest of it alone would fit into the limit.
index() {
    name=$1
    shift
    "$memwarden" run --limit "$limit" -- \
        "$python" examples/fulltext_index.py build --site-packages --out "$out/$name" "$@"
}

rm -rf "$out"
mkdir -p "$out" || exit 1

echo "demo: a full-text index over this Python's own sources, twice, each held to $limit"
echo "demo: 1. with a budget: segments on disk, merged at the end; it should finish"
index stdlib.idx
status=$?
[ "$status" -eq 0 ] || unexpected "the index with a budget exited with $status instead of 0"

echo "demo: the files that speak of both weakref and finalize, by that index:"
"$python" examples/fulltext_index.py query --limit 3 "$out/stdlib.idx" weakref finalize ||
    unexpected "the index does not answer"

echo "demo: 2. without one: everything in memory; its limit should end it"
index in-memory.idx --in-memory
status=$?
[ "$status" -eq "$ended_by_limit" ] ||
    unexpected "the index in memory exited with $status instead of $ended_by_limit"
[ ! -e "$out/in-memory.idx" ] || unexpected "the ended run left an index behind"
echo "demo: as expected: the first finished within $limit, the second was ended by it"
