"""Names of a data set's splits as users write them: YEAR/SPLIT."""

import re


def parse_split(split: str) -> tuple[str, str]:
    """Takes ``2007/trainval`` apart into year and name, neither of which can lead out of the data set.

    Raises:
        ValueError: if it is not of this form.
    """
    parts = re.fullmatch(r"([0-9]{1,40})/([\w. -]{1,100})", split)
    if parts is None or ".." in split:
        raise ValueError("should be YEAR/SPLIT such as 2007/trainval")
    return parts[1], parts[2]
