#!/usr/bin/env bash
# Set up, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/pytest --numprocesses auto --dist loadfile --max-worker-restart 0 "$@"
