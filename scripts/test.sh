#!/bin/sh
# Every test of `make test`: the suite, the documentation, and the package as a user gets it.
# ORDER=random runs the suite in random order by SEED, a number, which is printed; without one by the time of day.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin

echo "test: the documentation site, strictly"
NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict --quiet --site-dir .cache/site

set -- -m "not long" -q
if [ "${ORDER:-}" = random ]; then
    SEED=${SEED:-$(date +%s)}
    set -- "$@" -p randomly "--randomly-seed=$SEED"
    echo "test: in random order; again: make test ORDER=random SEED=$SEED"
fi
# Tests with real processes wait most of their time. Two parts side by side took 9 to 10 minutes, one suite 16;
# every file is in exactly one of them.
live='tests/live/test_[a-p]*.py'
echo "test: the suite in two parts; that of $live writes to .cache/live.log and is shown afterwards"
mkdir -p .cache
# shellcheck disable=SC2086
"$bin/python" -m pytest "$@" -o cache_dir=.pytest_cache/live $live >.cache/live.log 2>&1 &
live_pid=$!
status=0
"$bin/python" -m pytest "$@" "--ignore-glob=$PWD/$live" || status=$?
wait $live_pid || status=$?
cat .cache/live.log
[ $status = 0 ] || exit $status

echo "test: a wheel in an empty environment"
rm -rf .cache/wheel
"$bin/python" -m build --wheel --no-isolation --outdir .cache/wheel . >/dev/null
"$bin/python" -m venv .cache/wheel/venv
.cache/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.lock
.cache/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index .cache/wheel/*.whl
(
    cd .cache/wheel # away from the checkout: only what was packed is found
    venv/bin/memwarden --version
    status=0
    venv/bin/memwarden run --quiet --record run.jsonl --limit 64MiB -- venv/bin/python -c 'b"x" * (200 << 20)' || status=$?
    [ "$status" = 123 ] || {
        echo "test: the wheel's memwarden exited with $status instead of 123" >&2
        exit 1
    }
    [ -s run.jsonl ]
)
echo "test: all of it passed"
