#!/usr/bin/env bash
# Runs the tests in .venv; arguments go to pytest, as in: bash scripts/test.sh tests/losses -k focal
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment dev
# The tests start many processes: each would compile focalbench anew.
unset PYTHONDONTWRITEBYTECODE
# One process a core, each with one thread: two that share cores slow each other down.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .venv/bin/python -m pytest --numprocesses auto --dist worksteal "$@"
