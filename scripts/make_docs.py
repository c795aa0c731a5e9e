"""Writes docs/configuration.md from the schema: keys, types, ranges, defaults and their documentation.

A test checks that the page is up to date.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from focalbench.config.base import Section
from focalbench.config.data import AugmentConfig
from focalbench.config.faults import BRANCHES, models_in, variants
from focalbench.config.forms import key_form, yaml_form
from focalbench.config.identity import EFFECTS, keeps_trial
from focalbench.config.loss import AlphaSchedule, GammaSchedule
from focalbench.config.schema import ExperimentConfig, RandomConfig, SearchConfig

_TOP = ("name", "base", "seed", "plugins")
PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
_FREE = ", ".join(f"`{key}`" for key in filter(keeps_trial, EFFECTS) if not key.startswith("run."))
_INTRODUCTION = f"""\
# Configuration

One YAML file is one experiment. Written by `python scripts/make_docs.py` from `focalbench/config`: edit the docstrings
there, not this page. `focalbench schema` prints the same as JSON Schema for editors, `focalbench show CONFIG` a file
with every default spelled out.

- `focalbench validate CONFIG` checks the file and every trial of its sweep; all errors are shown at once, as
  `file:line:column: key: reason`.
- `-s KEY=VALUE` sets a key for one call, as in `-s loss.gamma=0.5 -s sweep.seeds=[0,1]`; the value is read as YAML.
  A key that every arm of the sweep sets otherwise is refused: change it there, or train one trial: `-s sweep=null`.
- Setting `SECTION.name` to another variant, by `-s` or in a sweep, keeps the keys beside it that the new variant also
  has; `loss: {{name: ce}}` in a sweep's list replaces the whole section. Setting `optim.steps` drops
  `optim.epochs`, and the other way round.
- A section whose `name` is left out is its default variant, named first below.
- YAML is read as version 1.2: `no` is text, `1e-3` is a number. Repeated keys and tags are errors.
- Paths are relative to the current folder (`base`: to the file's own) and may contain `~`, `$VAR` and `${{VAR}}`.
- A trial's identity, the 8 hex digits of its name, comes from everything but
  {_FREE}, and of `run` all but `run.threads`.
  What a plugin provides is known by the digest of its source.
  So data moved to another folder are still the same data. A sweep over several `data.root` nevertheless has a trial
  for each; there too, another spelling of one folder is the same trial.
- Same trial, same bits: on one kind of processor and one version of torch a trial ends with the same weights, alone or
  in a sweep, on two cores or sixty-four, killed or not, because it has `run.threads` threads wherever it runs.
  `result.json` repeats the number under `environment`. (Several `run.devices` agree with one within rounding.)
"""
_SWEEP_EXAMPLE = """\
```yaml
sweep:                              # the union of the blocks, each crossed with seeds, without repeats
  seeds: [0, 1, 2, 3, 4, 5]
  grid: {loss.gamma: [0.5, 1, 2]}                           # every combination
  zip: {loss.gamma: [2, 5], loss.alpha: [0.25, 0.5]}        # side by side
  list:
    - {name: ce, loss: {name: ce}}                          # replaces the whole branch, names the arm
    - {loss.name: balanced_ce, loss.alpha: auto}            # sets keys
  random: {num: 8, seed: 7, params: {optim.lr: {log_uniform: [1e-4, 1e-1]}}}
  search: {num: 24, stop_at: 0.4, params: {loss.gamma: {uniform: [0, 5]}, loss.alpha: {uniform: [0.1, 0.9]}}}
  exclude: [{loss.gamma: 0.5, seed: 1}]
```
"""


def reference() -> str:
    """Return the page as Markdown."""
    top = [_row(key, ExperimentConfig) for key in _TOP]
    parts = [_INTRODUCTION, "## Top level\n", _table(top)]
    for branch in ExperimentConfig.model_fields:
        if branch in _TOP:
            continue
        parts.append(f"## `{branch}`\n")
        if branch in BRANCHES:
            models = variants(branch)
            default = ExperimentConfig.model_fields[branch].default.name
            for name in sorted(models, key=lambda name: name != default):
                parts += [f"### `{branch}: {{name: {name}}}`\n", _section(models[name])]
        else:
            model = models_in(ExperimentConfig.model_fields[branch].annotation)[0]
            parts.append(_section(model))
        if branch == "data":
            parts += ["### `data.augment`\n", _section(AugmentConfig)]
        if branch == "loss":
            parts += ["### Schedules of gamma and alpha\n", _schedules()]
        if branch == "sweep":
            parts += ["### `sweep.random`\n", _section(RandomConfig)]
            parts += ["### `sweep.search`\n", _section(SearchConfig), _SWEEP_EXAMPLE]
    return "\n".join(parts)


def _schedules() -> str:
    text = (
        "A number may be replaced by `{schedule: ..., values: [...], at: [...]}`; "
        "values of `gamma` are >= 0, those of `alpha` in [0, 1].\n\n"
    )
    assert set(GammaSchedule.model_fields) == set(AlphaSchedule.model_fields)
    return text + _table([_row(key, GammaSchedule) for key in GammaSchedule.model_fields])


def _section(model: type[BaseModel]) -> str:
    keys = sorted(model.model_fields, key=lambda key: key != "name")
    text = " ".join((model.__doc__ or "").split())
    return f"{text}\n\n" + _table([_row(key, model) for key in keys])


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _row(key: str, model: type[BaseModel]) -> tuple[str, ...]:
    schema = model.model_json_schema()
    field = model.model_fields[key]
    if field.default_factory is not None:
        default = "see meaning"
    elif field.is_required():
        default = "required"
    elif isinstance(field.default, Section):
        default = "as below"
    else:
        default = f"`{yaml_form(field.default)}`"
    return f"`{key}`", key_form(schema["properties"][key], schema), default, " ".join((field.description or "").split())


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    print(f"wrote {PAGE}")
