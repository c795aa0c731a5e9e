"""``report``: runs as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from focalbench import console
from focalbench.cli.compare import BaselineOption, ResultPaths
from focalbench.errors import ConfigError


def report(
    paths: ResultPaths,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE.html",
            help="Default: report.html in PATH; with several, in the current folder.",
            show_default=False,
        ),
    ] = None,
    baseline: BaselineOption = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the figures as PDF and SVG, for a paper.", show_default=False),
    ] = None,
) -> None:
    """Write one self-contained HTML page: verdicts, curves, pictures, and how to repeat it. Needs no network."""
    from focalbench.report.html import write_report

    output = out if out is not None else (paths[0] if len(paths) == 1 else Path()) / "report.html"
    if output.is_dir():
        raise ConfigError(f"-o {output}: is a folder; name a file, such as {output / 'report.html'}")
    comparison = write_report(paths, output, baseline=baseline)
    console.print_text(str(output))
    if figures is not None:
        from focalbench.report.paper_figures import write_figures

        for path in write_figures(comparison, figures):
            console.print_text(str(path))
    num_finished = sum(len(result.arm.trials) for result in comparison.arms)
    unfinished = f", {len(comparison.unfinished)} not counted" if comparison.unfinished else ""
    console.info(
        f"{console.counted(num_finished, 'trial')} in {console.counted(len(comparison.arms), 'arm')}{unfinished}"
    )
    for warning in comparison.warnings:
        console.warn(warning)
