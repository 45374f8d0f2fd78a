#!/usr/bin/env bash
# Renew constraints.txt: the newest versions of all that pyproject.toml asks for, its extras included.
# Arguments go to uv in the place of --upgrade:
#   bash scripts/lock.sh                            the newest of everything
#   bash scripts/lock.sh --upgrade-package pillow   the newest Pillow; the rest stays
#   bash scripts/lock.sh --no-upgrade               only what pyproject.toml asks for anew
# Needs uv (pip install uv). Then run scripts/test.sh with the oldest and the newest Python that the file names.
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."

if ! command -v uv > /dev/null; then
    echo "lock: uv is not installed: pip install uv" >&2
    exit 2
fi
[ $# -gt 0 ] || set -- --upgrade
# One version of each package for every Python and platform: what is tested is what all install.
uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --all-extras \
    --no-annotate --no-header "$@" --output-file constraints.txt pyproject.toml
pins=$(cat constraints.txt)
cat > constraints.txt << END
# The versions that were tested together, for Python 3.11 to 3.14: scripts/setup.sh installs these.
# Renewed by one command, \`bash scripts/lock.sh\`, which also says how to move a single package. Not to be edited.
$pins
END
