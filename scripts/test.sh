#!/usr/bin/env bash
# Set up, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Several workers share the cores: a thread of torch's that waits gives its core away instead of spinning on it.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
exec .venv/bin/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0 "$@"
