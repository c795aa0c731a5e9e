"""Names of splits, which become parts of paths."""

import pytest

from focalbench.splits import parse_split


@pytest.mark.parametrize("split", ["2007/trainval", "1/a", "2012/my list-1.2", "2007/träin"])
def test_a_split_is_a_year_and_a_name(split: str) -> None:
    assert "/".join(parse_split(split)) == split


@pytest.mark.parametrize(
    "split", ["", "train", "2007/", "/train", "2007/a/b", "2007/..", "2007/a..b", "07a/b", "2007/a\n", "9" * 41 + "/a"]
)
def test_anything_else_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match="should be YEAR/SPLIT such as 2007/trainval"):
        parse_split(split)
