#!/usr/bin/env bash
# Runs the tests in .venv; arguments go to pytest, as in: bash scripts/test.sh tests/losses -k focal
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment dev
exec .venv/bin/python -m pytest "$@"
