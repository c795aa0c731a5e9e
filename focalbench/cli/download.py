"""``data download``: a year of Pascal VOC, fetched, verified and unpacked."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from focalbench import console
from focalbench.cli.config import AsJson


class Dataset(StrEnum):
    """Names what can be downloaded."""

    VOC2007 = "voc2007"
    VOC2012 = "voc2012"


def download(
    dataset: Annotated[Dataset, typer.Argument(help="voc2007: trainval and test, 0.9 GB. voc2012: trainval, 2 GB.")],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder in which VOCdevkit is created. Twice the size is needed.")
    ],
    as_json: AsJson = False,
) -> None:
    """Fetch Pascal VOC from its mirrors, check it and unpack it; run again, the same command resumes."""
    from focalbench.data import download as archives
    from focalbench.progress.download import DownloadDisplay

    try:
        with DownloadDisplay() as display:
            devkit = archives.download(dataset.value, folder, progress=display)
    except KeyboardInterrupt:
        console.error("stopped; run the same command again to resume from here")
        raise typer.Exit(130) from None
    if as_json:
        console.print_json({"root": str(devkit), "year": dataset.value.removeprefix("voc")})
    else:
        console.print_text(f"{dataset.value} is ready; use it with data.root: {devkit}")
