"""``validate``, ``show`` and ``schema``: a configuration looked at without running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from focalbench import console
from focalbench.cli.completion import complete_key
from focalbench.errors import ConfigError

if TYPE_CHECKING:
    from focalbench.config.schema import ExperimentConfig
    from focalbench.config.sweep import Trial

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the experiment.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Set a key, as in loss.gamma=0.5.",
        show_default=False,
        autocompletion=complete_key,
    ),
]
DataRoot = Annotated[
    Path, typer.Argument(metavar="ROOT", help="Folder that holds VOC2007, VOC2012, ...", show_default=False)
]
TrainSplits = Annotated[
    list[str] | None, typer.Option("--train", metavar="YEAR/SPLIT", help="Training split; may be repeated.")
]
ValSplits = Annotated[
    list[str] | None, typer.Option("--val", metavar="YEAR/SPLIT", help="Split to evaluate on; may be repeated.")
]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Include the keys of a plugin, which is executed; repeatable.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def validate(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a configuration and every trial of its sweep."""
    from focalbench.config.load import load_config
    from focalbench.config.notes import notes

    try:
        experiment = load_config(config, overrides or ())
    except ConfigError as fault:
        if not as_json:
            raise
        console.print_json({"valid": False, "errors": _faults(fault)})
        raise typer.Exit(fault.exit_code) from None
    loaded, trials = experiment.config, experiment.trials
    remarks = notes(loaded, trials)
    if as_json:
        console.print_json(
            {
                "valid": True,
                "name": loaded.name,
                "trials": [
                    {"name": trial.name, "arm": trial.arm, "seed": trial.seed, "differs": trial.differs}
                    for trial in trials
                ],
                "notes": remarks,
            }
        )
        return
    search = loaded.sweep.search if loaded.sweep is not None else None
    later = f", and {console.counted(search.num, 'arm')} that sweep.search will propose" if search is not None else ""
    console.print_text(f"{config}: valid; {_size(trials)}{later}")
    if loaded.sweep is not None:
        _print_arms(loaded, trials)
    for remark in remarks:
        console.warn(remark)


def _faults(error: ConfigError) -> list[str]:
    """One sentence for each thing that is wrong, without the lines of the file that stand between them."""
    return [line for line in str(error).splitlines() if not line.startswith("    ")]


def _size(trials: tuple[Trial, ...]) -> str:
    arms, seeds = {trial.arm for trial in trials}, {trial.seed for trial in trials}
    if len(trials) == 1:
        return "1 trial"
    return f"{len(trials)} trials: {len(arms)} arm{'s'[: len(arms) > 1]}, {len(seeds)} seed{'s'[: len(seeds) > 1]}"


def _print_arms(config: ExperimentConfig, trials: tuple[Trial, ...]) -> None:
    seeds: dict[str, list[int]] = {}
    for trial in trials:
        seeds.setdefault(trial.arm, []).append(trial.seed)
    rows = [(arm, _ranges(numbers)) for arm, numbers in seeds.items()]
    console.print_table(["arm", "seeds"], rows[:100])
    if len(rows) > 100:
        console.print_text(f"... and {len(rows) - 100} more arms")


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2 5``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def show(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the configuration with every default spelled out."""
    from focalbench.config.dump import dump_yaml
    from focalbench.config.load import load_config

    loaded = load_config(config, overrides or ()).config
    console.print_text(dump_yaml(loaded, allow_unicode=console.takes_unicode()))


def schema(plugin: Plugins = None) -> None:
    """Print the JSON Schema, for completion and checks in an editor."""
    from focalbench.config.json_schema import json_schema

    if not plugin:
        console.print_json(json_schema())
        return
    from focalbench.config.load import schema_of_plugins

    console.print_json(json_schema(schema_of_plugins(plugin)))
