#!/bin/sh
# Makes the virtual environment $1 and puts the locked packages and this checkout into it.
set -eu
cd "$(dirname "$0")/.."
venv=$1
python=${PYTHON:-python3}

"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"memwarden needs Python 3.11 or newer; this is {sys.version.split()[0]}."
             " Name another one: make PYTHON=python3.12 ...")
PY

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian keeps the venv module in a package of its own.
    . scripts/apt.sh
    apt_install python3-venv
fi

echo "setup: packages of requirements/dev.lock into $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export PIP_DISABLE_PIP_VERSION_CHECK PIP_NO_INPUT
"$venv/bin/python" -m pip install --quiet --require-hashes --only-binary :all: -r requirements/dev.lock
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
