"""Runs every file of experiments/ in its small form: generated images, short trainings, two cores, no data set.

    python scripts/small_forms.py OUT [NAME]... [-s KEY=VALUE]...

NAME is a file's name without .yaml; without any, all are run. OUT/NAME holds each sweep; the same command again goes on
where it was stopped. Further settings follow those of the small form, as in `-s sweep.seeds=[0,1,2,3,4,5]`. Exit code 1
when a command ended with something else than 0, or 3 (a trial may diverge: prior.yaml asks for it).
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
_SMALL_FORM = re.compile(r"^# Small form \(generated images, two cores\):\n((?:#   -s .*\n)+)", re.MULTILINE)


def head_of(path: Path) -> str:
    """The comment at the top of an experiment's file."""
    return "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))


def small_form(path: Path) -> list[str]:
    """The settings of the header's small form, as ``KEY=VALUE``."""
    (lines,) = _SMALL_FORM.findall(head_of(path))
    return [word for word in shlex.split(lines.replace("#", "")) if word != "-s"]


def command(path: Path, out: Path, more: Sequence[str]) -> list[str]:
    """What trains the small form of ``path``."""
    settings = [word for setting in (*small_form(path), *more) for word in ("-s", setting)]
    run = [sys.executable, "-m", "focalbench", "run", str(path.relative_to(ROOT))]
    return [*run, "--out", str(out.absolute() / path.stem), *settings]


def main() -> None:
    """Runs them one after the other; each prints its own comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("-s", dest="more", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    unknown = set(options.names) - {path.stem for path in FILES}
    if unknown:
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}")
    wrong = []
    for path in FILES:
        if options.names and path.stem not in options.names:
            continue
        words = command(path, options.out, options.more)
        print(f"\n$ {shlex.join(words[2:])}", flush=True)
        began = time.monotonic()
        code = subprocess.run(words, cwd=ROOT).returncode
        print(f"{path.stem}: exit code {code}, {time.monotonic() - began:.0f} s", flush=True)
        wrong += [path.stem] if code not in (0, 3) else []
    sys.exit(f"not run to the end: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
