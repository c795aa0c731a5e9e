"""``compare``: arms side by side, with a verdict in words."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focalbench import console
from focalbench.analysis import formats
from focalbench.board.address import where_to_look
from focalbench.cli.completion import complete_arm, complete_metric
from focalbench.cli.config import AsJson
from focalbench.errors import ConfigError, DataError
from focalbench.tags import MEAN_AP

if TYPE_CHECKING:
    from focalbench.analysis.agreement import Agreement
    from focalbench.analysis.comparison import Comparison
    from focalbench.analysis.judged_arms import ArmResult
    from focalbench.analysis.published import ReproductionCard
    from focalbench.analysis.swept_keys import SweptGrid
    from focalbench.records.reader import TrialRecord

ResultPaths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="Run folders (runs/NAME) or trial folders.", show_default=False),
]
_PathsOrTable = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH",
        help="Run folders (runs/NAME), trial folders, or a table of results (CSV).",
        show_default=False,
    ),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        metavar="ARM",
        help="Arm to compare with. Default: plain cross entropy.",
        show_default=False,
        autocompletion=complete_arm,
    ),
]
_VERDICT_STYLES = {
    "better": "green",
    "worse": "red",
    "no practical difference": "cyan",
    "undecided": "yellow",
    "unstable": "red",
    "not enough seeds": "dim",
    "one seed: no claim": "dim",
    "not comparable": "magenta",
}
_BAR_WIDTH = 24
_SHADES = " .:*#"  # lowest to highest: readable in any terminal and in a log file
_MAX_UNFINISHED, _MAX_NAMED = 30, 8


def compare(
    paths: _PathsOrTable,
    baseline: BaselineOption = None,
    metric: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="val/mAP, AP/CLASS, time, or any other logged number.",
            autocompletion=complete_metric,
        ),
    ] = MEAN_AP,
    test_noise: Annotated[
        bool, typer.Option("--test-noise/--no-test-noise", help="Resample the test images too (takes some seconds).")
    ] = True,
    as_json: AsJson = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Also write one row per arm.", show_default=False)
    ] = None,
    latex: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the table of verdicts for LaTeX (booktabs).", show_default=False),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write that table as Markdown.", show_default=False)
    ] = None,
) -> None:
    """Compare arms over their seeds: mean, sd, paired difference to a baseline, and what can be claimed.

    Folders and a kept table of results together (runs/NAME results.csv): also says whether they agree.
    """
    from focalbench.analysis import tables
    from focalbench.analysis.comparison_document import comparison_document
    from focalbench.analysis.look_record import compare_and_record
    from focalbench.records.reader import read_trials
    from focalbench.storage import write_output

    held, kept = _split_off_kept(paths)
    trials = read_trials(held, tables=True)
    _require_own_files(paths, trials, [file for file in (csv, latex, markdown) if file is not None])
    comparison = compare_and_record(trials, baseline=baseline, metric=metric, with_test_set_noise=test_noise)
    if csv is not None:
        _write_csv(comparison, csv)
    if latex is not None:
        write_output(latex, tables.latex(comparison).encode())
    if markdown is not None:
        write_output(markdown, tables.markdown(comparison).encode())
    if as_json:
        document = comparison_document(comparison)
        document |= {"reproduction": [card.as_document() for card in _cards(comparison)]}
        document |= {"agreement": _agreement(comparison, kept).as_document()} if kept is not None else {}
        console.print_json(document)
        return
    print_comparison(comparison)
    if kept is not None:
        _print_agreement(_agreement(comparison, kept), kept)
    if not any(trial.from_table for trial in trials):
        console.print_text(f"\n{where_to_look(_common_folder([trial.folder.parent for trial in trials]))}")


def _require_own_files(read: Sequence[Path], trials: Sequence[TrialRecord], written: Sequence[Path]) -> None:
    """Refuses to write over what is compared, or one table over the other.

    Raises:
        ConfigError: naming the file.
    """
    from focalbench.records.results_table import RESULTS
    from focalbench.records.sweep import SweepFolder

    folders = {trial.folder.resolve() for trial in trials if not trial.from_table}
    own = [folder.parent / name for folder in folders for name in (RESULTS, SweepFolder.LIST)]
    taken = {path.resolve(): "is what is compared" for path in (*read, *own)}
    for path in written:
        if not folders.isdisjoint(path.resolve().parents):
            raise ConfigError(f"{path}: lies in the folder of a trial; name another file")
        if (reason := taken.get(path.resolve())) is not None and (path.is_file() or not path.exists()):
            raise ConfigError(f"{path}: {reason}; name another file")
        taken[path.resolve()] = "is to hold another table already"


def _split_off_kept(paths: Sequence[Path]) -> tuple[Sequence[Path], Path | None]:
    """The paths to compare, and the table that they are held against: one that is named beside others.

    Raises:
        ConfigError: for more tables than can be held against one another.
    """
    from focalbench.records.reader import is_table

    tables = [path for path in paths if is_table(path)]
    folders = [path for path in paths if path not in tables]
    if len(tables) > (1 if folders else 2):
        raise ConfigError(
            f"{', '.join(map(str, tables))}: too many tables; give one, or one beside what it is to be held against"
        )
    if len(paths) == 1 or not tables:
        return paths, None
    return folders or tables[:1], tables[-1]


def _agreement(comparison: Comparison, kept: Path) -> Agreement:
    from focalbench.analysis.agreement import hold_against
    from focalbench.records.reader import read_trials

    trials = read_trials([kept], tables=True)
    try:
        return hold_against(comparison, trials)
    except DataError as fault:
        raise DataError(f"{kept}: nothing can be held against it: {fault}") from fault


def _print_agreement(agreement: Agreement, kept: Path) -> None:
    from focalbench.analysis.agreement import COLUMNS, agreement_cells, agreement_note, agreement_sentence

    title = f"Beside {kept}, {formats.heading(agreement.metric)}"
    console.print_text("")
    console.print_table(COLUMNS, agreement_cells(agreement), title=title, note=agreement_note(agreement))
    for labels, where in ((agreement.only_here, f"no results in {kept}"), (agreement.only_kept, f"only in {kept}")):
        if labels:
            console.print_text(f"{where}: {', '.join(labels)}")
    console.print_text(agreement_sentence(agreement))
    for warning in agreement.warnings:
        console.warn(f"{kept}: {warning}")


def _common_folder(sweeps: Sequence[Path]) -> Path:
    """The folder of the sweep, or the innermost one that holds all of them."""
    mixed = len({path.is_absolute() for path in sweeps}) > 1
    return Path(os.path.commonpath([path.resolve() if mixed else path for path in sweeps]) or ".")


def print_comparison(comparison: Comparison) -> None:
    """Prints arms and verdicts, what the seeds can resolve, what was swept, and what does not count."""
    _print_verdicts(comparison)
    _print_resolution(comparison)
    _print_swept(comparison)
    _print_reproduction(comparison)
    _print_unfinished(comparison)
    for warning in comparison.warnings:
        console.warn(warning)


def verdict_table(comparison: Comparison, note: str | None = None) -> str:
    """Returns the table of arms and verdicts as text, the best mean first; on a terminal in colours."""
    from focalbench.analysis.tables import COLUMNS, title, verdict_cells

    styles = _styles(comparison)
    return console.table_text(COLUMNS, verdict_cells(comparison), title=title(comparison), note=note, styles=styles)


def _styles(comparison: Comparison) -> dict[str, dict[str, str]]:
    """How the cells of the verdict table look, by column and text."""
    verdicts = {"baseline": "bold"}
    for entry in comparison.comparisons:
        words = formats.verdict_words(entry, comparison.metric, comparison.margin)
        verdicts[words] = _VERDICT_STYLES.get(entry.verdict, "")
    return {"verdict": verdicts} | ({"arm": {comparison.baseline: "bold"}} if comparison.baseline else {})


def _print_verdicts(comparison: Comparison) -> None:
    from focalbench.analysis.tables import rule

    console.print_text(verdict_table(comparison, rule(comparison)))
    alike: dict[tuple[str, ...], list[str]] = {}
    for entry in comparison.comparisons:
        if entry.not_comparable:
            alike.setdefault(entry.not_comparable, []).append(entry.arm)
    to_what = f" with {comparison.baseline}" if comparison.baseline else ""
    for reasons, arms in alike.items():
        more = f" and {len(arms) - _MAX_NAMED} more" if len(arms) > _MAX_NAMED else ""
        verb = "is" if len(arms) == 1 else "are"
        console.print_text(f"{', '.join(arms[:_MAX_NAMED])}{more} {verb} not comparable{to_what}: {'; '.join(reasons)}")


def _print_resolution(comparison: Comparison) -> None:
    """What the sweep could have found at all, and the other tests."""
    paired = [entry for entry in comparison.comparisons if entry.judgement is not None and entry.judgement.n > 1]
    if not paired:
        return
    metric, with_images = comparison.metric, any(entry.noise is not None for entry in paired)
    columns = [*formats.RESOLUTION, *(formats.RESOLUTION_OF_IMAGES if with_images else ())]
    rows = [formats.resolution_cells(entry, metric, with_images=with_images) for entry in paired]
    note = formats.RESOLUTION_NOTE + formats.NEW_IMAGES_NOTE * with_images
    note = "\n".join([note, *formats.resolution_sentences(comparison)])
    console.print_text("")
    console.print_table(columns, rows, title=f"What these seeds can resolve, {formats.heading(metric)}", note=note)


def _print_swept(comparison: Comparison) -> None:
    from focalbench.analysis.swept_keys import swept_grids

    for grid in swept_grids(comparison.arms):
        if grid.form == "line":
            _print_line(grid, comparison.metric)
        elif grid.form == "map":
            _print_heat_map(grid, comparison.metric)


def _print_line(grid: SweptGrid, metric: str) -> None:
    rows = []
    for values, result in grid.line.items():
        summary, bar = result.summary, "|" + "#" * round(_BAR_WIDTH * grid.height(result))
        figures = [formats.value(summary.mean, metric), formats.value(summary.sd, metric), str(summary.n), bar]
        rows.append([*(f"{value:g}" for value in values), *figures])
    console.print_text("")
    title = f"{formats.heading(metric)} of {grid.title}"
    console.print_table([*grid.line_keys, "mean", "sd", "n", ""], rows, title=title)


def _print_heat_map(grid: SweptGrid, metric: str) -> None:
    rows = [[f"{y:g}", *(_heat_cell(grid, result, metric) for result in results)] for y, results in grid.rows.items()]
    corner = f"{grid.keys[0]} \\ {grid.keys[1]}"
    console.print_text("")
    console.print_table(
        [corner, *(f"{x:g}" for x in grid.axis(1))],
        rows,
        title=f"{formats.heading(metric)} of {grid.title} (## is highest)",
        note="+-: standard deviation over seeds" if any("+-" in cell for row in rows for cell in row) else None,
    )


def _heat_cell(grid: SweptGrid, result: ArmResult | None, metric: str) -> str:
    if result is None:
        return "-"
    shade = _SHADES[min(int(grid.height(result) * len(_SHADES)), len(_SHADES) - 1)]
    spread = "" if math.isnan(result.summary.sd) else f" +-{formats.value(result.summary.sd, metric)}"
    return f"{formats.value(result.summary.mean, metric)}{spread} {shade * 2}".rstrip()


def _cards(comparison: Comparison) -> list[ReproductionCard]:
    """The published curves that the sweep can be held against; they are of mAP only."""
    from focalbench.analysis.published import reproduction_cards

    return reproduction_cards(comparison.arms) if comparison.metric == MEAN_AP else []


def _print_reproduction(comparison: Comparison) -> None:
    from focalbench.analysis.published import CARD_RULE

    cards = _cards(comparison)
    if not cards:
        return
    rows = []
    for card in cards:
        agreement = [
            formats.signed(card.correlation),
            formats.p_value(card.p),
            formats.p_value(card.p_permutation),
            card.verdict,
        ]
        rows.append([card.published, card.group, len(card.values), len(card.seeds), *agreement])
    caveats = dict.fromkeys(card.caveat for card in cards if card.caveat)
    console.print_text("")
    console.print_table(
        ["published curve", "arms", "values", "seeds", "rank correlation", "p over seeds", "p over values", "verdict"],
        rows,
        title="Beside the published figures",
        note=" ".join([CARD_RULE, *caveats]),
    )


def _print_unfinished(comparison: Comparison) -> None:
    from focalbench.records.state import TrialState

    if not comparison.unfinished:
        return
    started = [trial for trial in comparison.unfinished if trial.state is not TrialState.NEW]
    console.print_text(f"\nNot counted ({len(comparison.unfinished)}):")
    for trial in started[:_MAX_UNFINISHED]:
        console.print_text(f"  {trial.folder.name}: {trial.reason or trial.state}")
    if len(started) > _MAX_UNFINISHED:
        console.print_text(f"  ... and {len(started) - _MAX_UNFINISHED} more")
    if len(comparison.unfinished) > len(started):
        console.print_text(
            f"  {len(comparison.unfinished) - len(started)} not started: listed in sweep.json, no folder yet"
        )


def _write_csv(comparison: Comparison, path: Path) -> None:
    """One row an arm: its summary, and its comparison with the baseline."""
    import csv
    import io

    from focalbench.analysis.comparison_document import comparison_document
    from focalbench.storage import write_output

    document = comparison_document(comparison)
    against = {entry["arm"]: entry for entry in document["comparisons"]}
    stopped: list[dict[str, Any]] = [{"arm": entry.arm, "n": 0, "seeds": []} for entry in comparison.without_result]
    text = io.StringIO()
    columns = ["arm", "metric", "n", "mean", "sd", "seeds", "baseline", "pairs", "difference", "ci_low", "ci_high"]
    columns += ["p", "p_corrected", "p_equivalence", "p_exact", "wins", "correlation_within_seeds"]
    columns += ["detectable_difference", "test_set_noise_sd", "failed", "not_comparable", "verdict", "words"]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for arm in document["arms"] + stopped:
        row = {key: arm.get(key) for key in ("arm", "n", "mean", "sd")}
        row |= {"metric": comparison.metric, "seeds": " ".join(map(str, arm["seeds"])), "baseline": comparison.baseline}
        entry = against.get(arm["arm"])
        if entry is not None:
            row |= {key: entry[key] for key in columns if key in entry and key not in row}
            row |= {"pairs": entry["n"], "not_comparable": "; ".join(entry["not_comparable"])}
            row["ci_low"], row["ci_high"] = entry["ci"] or ("", "")
            row["test_set_noise_sd"] = (entry["test_set_noise"] or {}).get("sd", "")
            row["failed"] = " ".join(map(str, (entry["failures"] or {}).get("seeds", ())))
        writer.writerow({key: "" if _is_nan(value) else value for key, value in row.items()})
    write_output(path, text.getvalue().encode())


def _is_nan(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
