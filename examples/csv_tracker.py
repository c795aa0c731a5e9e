"""A tracker of one's own: every number of a trial as a row of a CSV file, and every picture as a PNG.

What a service such as Weights & Biases is told, in the same calls.
"""

import csv
from pathlib import Path

from PIL import Image

import focalbench as fb


@fb.tracker("csv")
class CsvTracker(fb.tracking.Tracker):
    """Appends step, tag and value to a file in the trial's folder; a resumed trial loses and repeats nothing."""

    def __init__(self, trial: fb.tracking.TrackedTrial, *, file: str = "scalars.csv", pictures: bool = True) -> None:
        path, last = trial.folder / file, trial.resume_step
        kept = [] if last is None else [row for row in _rows(path) if int(row[0]) <= last]
        self._pictures = trial.folder / "pictures" if pictures else None
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerows(kept)

    def scalars(self, step, values):
        """See ``Tracker``."""
        self._writer.writerows([step, tag, value] for tag, value in values.items())

    def images(self, step, tag, image):
        """See ``Tracker``."""
        if self._pictures is not None:
            path = self._pictures / f"{tag.replace('/', '_')}-{step}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)

    def finish(self, state):
        """See ``Tracker``."""
        self._writer.writerow([-1, "state", state])

    def flush(self):
        """See ``Tracker``."""
        self._file.flush()

    def close(self):
        """See ``Tracker``."""
        self._file.close()


def _rows(path: Path) -> list[list[str]]:
    """What an earlier process wrote, without the line in which it says how it ended."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if row[0] != "-1"]
