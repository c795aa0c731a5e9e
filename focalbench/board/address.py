"""The addresses at which TensorBoard opens a sweep as it is to be read."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from urllib.parse import quote

from focalbench.board.names import ARMS, DIFFERENCE, VERDICT
from focalbench.tags import MEAN_AP

DEFAULT_PORT = 6006
"""TensorBoard's own."""
_ARM_OF_RUN = rf"^(.*?)(?:\b{ARMS}/)?([^/]*?)(?:-s\d+-\w{{8}})?$"
"""What a trial's run and its arm's have in common: the sweep's folder and the arm."""


def curves_address(port: int = DEFAULT_PORT) -> str:
    """Returns where the curves are: as they are, a colour an arm, mAP on top, first the means over the seeds."""
    pinned = [{"plugin": "scalars", "tag": tag} for tag in (MEAN_AP, DIFFERENCE)]
    query = {
        "smoothing": "0",
        "runFilter": f"{ARMS}/",
        "runColorGroup": f"regex:{_ARM_OF_RUN}",
        "pinnedCards": json.dumps(pinned, separators=(",", ":")),
    }
    words = "&".join(f"{key}={quote(value, safe='/:')}" for key, value in query.items())
    return f"http://localhost:{port}/?{words}#timeseries"


def page_addresses(port: int = DEFAULT_PORT) -> dict[str, str]:
    """Returns where what is: TensorBoard ticks no run by itself where there are more than 40, so each page is told."""
    base = f"http://localhost:{port}/"
    return {
        "curves": curves_address(port),
        "margins": f"{base}#custom_scalars&_smoothingWeight=0&regexInput={ARMS}%2F",
        "verdict": f"{base}#text&regexInput={VERDICT}%24",
        "all trials": f"{base}#hparams",
    }


def where_to_look(folder: Path) -> str:
    """Returns the lines that end a run or a comparison: what starts TensorBoard, and what to open then."""
    return f"curves:  focalbench tensorboard {shlex.quote(str(folder))}\n         {curves_address()}"
