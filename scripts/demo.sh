#!/usr/bin/env bash
# Set up, then train and test a detector on generated photos. Arguments go to `spp-det demo`.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."
bash scripts/setup.sh
exec .venv/bin/spp-det demo "$@"
