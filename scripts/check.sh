#!/usr/bin/env bash
# Lint, format, types and import circles, all reported before it fails. --audit also asks the network whether a dependency
# has a known vulnerability.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment dev

status=0
.venv/bin/ruff check . || status=1
.venv/bin/ruff format --check . || status=1
.venv/bin/mypy || status=1
.venv/bin/python scripts/import_circles.py || status=1
if [ "${1:-}" = --audit ]; then
    # By itself pip-audit passes over what the package index does not know: then nothing was audited.
    .venv/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
        --requirement <(.venv/bin/python -m pip freeze --exclude-editable) || status=1
fi
exit "$status"
