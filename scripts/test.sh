#!/usr/bin/env bash
# Set up, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."
bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# Types need one core for half a minute in a fresh clone; the tests need not wait for them.
types=$(mktemp)
trap 'rm -f "$types"' EXIT
.venv/bin/mypy > "$types" 2>&1 &
checker=$!
unset PYTHONDONTWRITEBYTECODE  # else each of the tests' many processes compiles the package anew
# Several workers share the cores: a thread of torch's that waits gives its core away instead of spinning on it.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
tests=0
.venv/bin/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0 "$@" || tests=$?
typed=0
wait "$checker" || typed=$?
cat "$types"
exit $((tests > 0 ? tests : typed))
