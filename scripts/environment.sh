# Sourced by the scripts beside it: goes to the checkout and makes .venv ready. Installs again only when pyproject.toml
# has changed.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A python on the PATH may be a shim that fails, or too old: each is tried by running it.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.11 or newer with venv and ensurepip found" >&2
    echo "(Debian and Ubuntu: apt install python3-venv; elsewhere: PYTHON=/path/to/python3 bash $0)" >&2
    return 2
}

# prepare_environment [EXTRA]: .venv with focalbench installed editable, with the extra's packages where one is named.
prepare_environment() {
    local extra="${1:-}" python
    local stamp=".venv/installed${extra:+-$extra}.toml"
    if ! .venv/bin/python -c '' >/dev/null 2>&1; then
        python="$(find_python)"
        echo "making .venv with $("$python" --version)" >&2
        "$python" -m venv --clear .venv
    fi
    if ! cmp -s pyproject.toml "$stamp"; then
        echo "installing focalbench${extra:+[$extra]} into .venv; the first time, torch brings several GB" >&2
        local quiet=--quiet
        if [ -t 2 ]; then quiet=; fi
        .venv/bin/python -m pip install $quiet --disable-pip-version-check -e ".${extra:+[$extra]}"
        cp pyproject.toml "$stamp"
    fi
}
