#!/usr/bin/env bash
# Make .venv beside this project and install it there, with the versions of constraints.txt. Quick when nothing
# has changed. Safe to repeat.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."

# The Pythons for which every version of constraints.txt has a wheel.
locked='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))'
python=""
for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13 python3.14 python; do
    if [ -n "$candidate" ] && "$candidate" -c "$locked" 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: no Python from 3.11 to 3.14 found; install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
    exit 2
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
stamp=.venv/installed
wanted=$(cat pyproject.toml setup.py constraints.txt | cksum)
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    # pip is the one that Python brought. setuptools, which builds the project, is of the tested version too.
    .venv/bin/python -m pip install --quiet --constraint constraints.txt setuptools
    # A newer pip repeats what setuptools always says of an editable installation.
    PYTHONWARNINGS='ignore:Editable installation' \
        .venv/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
    echo "$wanted" > "$stamp"
fi

# OpenCV's wheel needs libraries that bare servers lack: the package says so in one line, with the remedy.
if ! reason=$(.venv/bin/python -c 'import spp_det.runtime.opencv' 2>&1); then
    echo "setup: ${reason##*Error: }" >&2
    exit 2
fi
