#!/usr/bin/env bash
# Trains the arms of experiments/quickstart.yaml on generated images and compares them: a few minutes on two cores.
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment

# Some trials may fail (exit code 3): the comparison of the others is still worth seeing.
status=0
.venv/bin/focalbench run experiments/quickstart.yaml >/dev/null || status=$? # its table is the one printed below
if [ "$status" -ne 0 ] && [ "$status" -ne 3 ]; then exit "$status"; fi
.venv/bin/focalbench compare runs/quickstart
exit "$status"
