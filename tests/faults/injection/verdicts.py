"""Every bad input met by the command that a user would type: its verdict, exit code, memory and time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from injection.bad_data import CASES, BadData
from injection.bad_files import CONFIGS, TRIALS, BadConfig, BadTrial
from injection.commands import Ended, Sandbox, digest_of
from injection.journal import Case, Journal
from injection.voc_set import DOG, SPLITS, VocSet, an_object, encoded, picture, size_tag

MEMORY_LIMIT_MB = 2048.0
TIME_LIMIT_S = 60.0
NUM_LARGE = 5000


def meet_data(journal: Journal, sandbox: Sandbox, scratch: Path) -> None:
    """``data check`` on each spoilt set."""
    by_name = {case.name: case for case in CASES}
    for name, _ in journal.missing("data", list(by_name)):
        case = by_name[name]
        shutil.rmtree(scratch, ignore_errors=True)
        voc = VocSet(scratch / "data")
        case.plant(voc)
        before = digest_of(scratch)
        classes = ("--classes", ",".join(case.classes)) if case.classes else ()
        ended = sandbox.run("data", "check", voc.root, *SPLITS, *classes, limit_s=2 * TIME_LIMIT_S)
        wrong = [*_data_faults(case, ended), *([] if digest_of(scratch) == before else ["the data were changed"])]
        journal.note("data", name, group=case.group, kinds=sorted(case.kinds), **_cost(ended), wrong=wrong)
    shutil.rmtree(scratch, ignore_errors=True)


def _data_faults(case: BadData, ended: Ended) -> list[str]:
    refused = case.group in ("error", "hostile") and bool(case.kinds)
    wrong = _command_faults(ended, 2 if refused else 0)
    told = ended.stderr if refused else ended.stdout
    noun = "data error" if refused else "warning"
    counted = re.search(rf"^\d+ {noun}s?: (.+)$", told, re.MULTILINE)
    kinds = {part.rsplit(" ", 1)[0] for part in counted[1].split(", ")} if counted else set()
    return wrong if kinds == case.kinds else [*wrong, f"told of {sorted(kinds)}, not of {sorted(case.kinds)}"]


def meet_configs(journal: Journal, sandbox: Sandbox, scratch: Path) -> None:
    """``validate`` on each configuration."""
    by_name = {case.name: case for case in CONFIGS}
    for name, _ in journal.missing("config", list(by_name)):
        case = by_name[name]
        scratch.mkdir(parents=True, exist_ok=True)
        path = scratch / "config.yaml"
        path.write_bytes(case.content)
        options = [word for override in case.overrides for word in ("-s", override)]
        ended = sandbox.run("validate", path, *options, limit_s=2 * TIME_LIMIT_S)
        journal.note("config", name, group="hostile", **_cost(ended), wrong=_config_faults(case, ended, sandbox))
    shutil.rmtree(scratch, ignore_errors=True)


def _config_faults(case: BadConfig, ended: Ended, sandbox: Sandbox) -> list[str]:
    wrong = _command_faults(ended, 2) + _owned(sandbox)
    return wrong if case.names in ended.stderr else [*wrong, f"does not say {case.names!r}: {ended.stderr[:300]}"]


def meet_trials(journal: Journal, sandbox: Sandbox, scratch: Path, trial: Path) -> None:
    """``evaluate``, ``compare`` and ``report`` on each spoilt copy of a finished trial."""
    by_name = {case.name: case for case in TRIALS}
    for name, _ in journal.missing("trial", list(by_name)):
        case = by_name[name]
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(trial, scratch / "runs" / "trial")
        case.spoil(scratch / "runs" / "trial")
        more = ("-o", sandbox.work / "report.html") if case.command == ("report",) else ()
        ended = sandbox.run(*case.command, scratch / "runs" / "trial", *more, limit_s=2 * TIME_LIMIT_S)
        journal.note("trial", name, group="hostile", **_cost(ended), wrong=_trial_faults(case, ended, sandbox))
    shutil.rmtree(scratch, ignore_errors=True)


def _trial_faults(case: BadTrial, ended: Ended, sandbox: Sandbox) -> list[str]:
    wrong = _command_faults(ended, case.code) + _owned(sandbox)
    told = ended.stdout + ended.stderr
    return wrong if case.names in told else [*wrong, f"does not say {case.names!r}: {told[:300]}"]


def _owned(sandbox: Sandbox) -> list[str]:
    return [f"code of the file was run: {path}" for path in sandbox.root.rglob("owned")]


def _command_faults(ended: Ended, code: int) -> list[str]:
    limits: Iterable[tuple[bool, str]] = (
        (ended.code != code, f"exit code {ended.code}, not {code}: {(ended.stderr or ended.stdout)[:300]}"),
        (ended.traceback, "traceback"),
        (len(ended.stderr.splitlines()) > 20, f"{len(ended.stderr.splitlines())} lines"),
        (ended.peak_mb > MEMORY_LIMIT_MB, f"{ended.peak_mb:.0f} MiB"),
        (ended.seconds > TIME_LIMIT_S, f"{ended.seconds:.0f} s"),
    )
    return [words for broken, words in limits if broken]


def _cost(ended: Ended) -> Case:
    return {"code": ended.code, "seconds": ended.seconds, "peak_mb": ended.peak_mb, "traceback": ended.traceback}


def check_large_set(journal: Journal, sandbox: Sandbox, scratch: Path) -> None:
    """A full check of 5000 images of VOC's size, each with its annotation, nothing of it known before."""
    for name, _ in journal.missing("large", [f"{NUM_LARGE} images"]):
        shutil.rmtree(scratch, ignore_errors=True)
        voc = VocSet(scratch / "data")
        width, height = 500, 375
        pictures = [encoded(picture(seed, (width, height)).reduce(1), quality=75) for seed in range(50)]
        ids = [f"large{number:05}" for number in range(NUM_LARGE)]
        for number, image_id in enumerate(ids):
            voc.image(image_id).write_bytes(pictures[number % len(pictures)])
            voc.annotate(an_object() + DOG, size_tag(width, height), image_id)
        voc.list("train", ids)
        ended = sandbox.run("data", "check", voc.root, *SPLITS, limit_s=300)
        size_kb = sum(map(len, pictures)) / len(pictures) / 1024
        journal.note("large", name, group="large", image_kb=size_kb, **_cost(ended), wrong=_command_faults(ended, 0))
    shutil.rmtree(scratch, ignore_errors=True)
