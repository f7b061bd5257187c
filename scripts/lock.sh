#!/bin/sh
# Renews the lock files. They carry hashes and no host: an installation uses the index that is configured there.
# Needs uv (pip install uv); run it when pyproject.toml or requirements/dev.in has changed.
set -eu
cd "$(dirname "$0")/.."
compile() {
    out=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links --no-annotate "$@" -o "$out"
}
compile requirements/run.lock pyproject.toml
compile requirements/dev.lock pyproject.toml requirements/dev.in
