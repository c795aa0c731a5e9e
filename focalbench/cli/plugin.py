"""``plugin``: losses, backbones, detectors and trackers of one's own, looked at without a training."""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focalbench import console
from focalbench.cli.command import App
from focalbench.cli.config import AsJson
from focalbench.errors import PluginError

if TYPE_CHECKING:
    from focalbench.plugins.loading import Plugin
    from focalbench.plugins.registration import Registration
    from focalbench.testing import Report

plugin_app = App(name="plugin", help="Losses and networks of your own.", no_args_is_help=True)
_FAILED = 2
_STYLES = {"": {"failed": "bold red", "warning": "yellow", "ok": "green"}}


@plugin_app.callback()
def _group() -> None:
    """Losses and networks of your own."""


@plugin_app.command("check")
def check(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="FILE|MODULE", help="As in `plugins` of a configuration; it is executed.", show_default=False
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Check only what it registers under this name.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what a plugin provides, with its keys, and check it as focalbench's own losses are checked.

    Exit code 0: all checks passed, 2: something failed.
    """
    try:
        loaded = _load(plugin)
        chosen = _chosen(loaded, name)
    except PluginError as fault:
        if not as_json:
            raise
        console.print_json({"plugin": plugin, "ok": False, "error": str(fault)})
        raise typer.Exit(fault.exit_code) from None
    keys = [_keys(entry) for entry in chosen]
    if not as_json:
        _print_keys(loaded, chosen, keys)
    reports = []
    for entry in chosen:
        reports.append(_report(entry))
        if not as_json:
            _print_report(reports[-1])
    good = all(report.ok for report in reports)
    if as_json:
        registered = [
            {"kind": entry.kind, "name": entry.name, "place": entry.place, "keys": found, "ok": report.ok}
            | {"findings": [asdict(finding) for finding in report.findings]}
            for entry, found, report in zip(chosen, keys, reports, strict=True)
        ]
        document = {"plugin": plugin, "digest": loaded.source.digest, "ok": good, "registered": registered}
        console.print_json(document)
    if not good:
        raise typer.Exit(_FAILED)


def _load(plugin: str) -> Plugin:
    """Execute the plugin, and make sure that its names and keys can stand in a configuration."""
    from focalbench.config.plugin_sections import schema_with
    from focalbench.plugins.loading import load_plugins
    from focalbench.plugins.source import read_source

    (loaded,) = load_plugins([read_source(plugin)])
    schema_with([loaded])
    return loaded


def _chosen(loaded: Plugin, name: str | None) -> list[Registration]:
    found = [entry for entry in loaded.registrations if name in (None, entry.name)]
    if found:
        return found
    names = [entry.name for entry in loaded.registrations]
    close = get_close_matches(name or "", names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it registers {', '.join(names)}"
    raise PluginError(f"{loaded.source.name}: registers no {name}; {hint}")


def _keys(entry: Registration) -> list[dict[str, Any]]:
    """What each key takes, in words, and its default."""
    from focalbench.config.forms import key_form
    from focalbench.config.plugin_sections import schema_of_keys

    schema = schema_of_keys(entry)
    return [
        {"key": key, "takes": key_form(node, schema).replace("`", ""), "default": node.get("default")}
        for key, node in schema.get("properties", {}).items()
    ]


def _print_keys(loaded: Plugin, entries: list[Registration], keys: list[list[dict[str, Any]]]) -> None:
    from focalbench.config.forms import yaml_form

    rows = []
    for entry, found in zip(entries, keys, strict=True):
        cells = [(key["key"], key["takes"], yaml_form(key["default"])) for key in found] or [("(no keys)", "", "")]
        rows += [(f"{entry.kind} {entry.name}" if not index else "", *cell) for index, cell in enumerate(cells)]
    console.print_table(["", "key", "takes", "default"], rows, title=f"{loaded.source.name}: {loaded.source.digest}\n")


def _report(entry: Registration) -> Report:
    from focalbench.testing import loss_report, part_report

    return loss_report(entry) if entry.kind == "loss" else part_report(entry)


def _print_report(report: Report) -> None:
    rows = [(finding.state, finding.name, finding.words) for finding in report.findings]
    console.print_table(["", "check", "found"], rows, title=f"\n{report.verdict}\n", styles=_STYLES)
