#!/usr/bin/env bash
# Make .venv beside this project and install it there; quick when nothing has changed. Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: no Python >= 3.11 found; install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
    exit 2
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
stamp=.venv/installed
wanted=$(cksum < pyproject.toml)
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    .venv/bin/python -m pip install --quiet --upgrade pip
    .venv/bin/python -m pip install --quiet --editable '.[dev]'
    echo "$wanted" > "$stamp"
fi

# OpenCV's wheel needs libraries that bare servers lack: the package says so in one line, with the remedy.
if ! reason=$(.venv/bin/python -c 'import spp_det.runtime.opencv' 2>&1); then
    echo "setup: ${reason##*Error: }" >&2
    exit 2
fi
