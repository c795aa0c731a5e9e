"""``focalbench data split``: the lists, a table of what is in them, and refusals in words."""

import json

import pytest
from imported_sets import Picture, write_coco

from focalbench.importing.convert import import_data


@pytest.fixture
def root(tmp_path):
    pictures = [
        Picture(f"{scene}_{n}.jpg", objects=(("dog" if scene < 5 else "cat", 1, 2, 8, 9),), shade=9 * scene + n)
        for scene in range(10)
        for n in range(2)
    ]
    write_coco(tmp_path / "source", [Picture(each.name, "", each.objects, shade=each.shade) for each in pictures])
    return import_data(tmp_path / "source", tmp_path / "root").root


def test_lists_are_written_with_a_table_and_the_next_command(focalbench, root):
    done = focalbench("data", "split", root, "--group-by", r"^\d", "--stratify")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("trainval 16 images (80.0 %) in 8 groups; test 4 images (20.0 %) in 2 groups\n")
    assert [line.split() for line in done.out.splitlines()[3:5]] == [
        ["cat", "8", "8", "2", "2"],
        ["dog", "8", "8", "2", "2"],
    ]
    assert done.out.endswith(f"next:  focalbench init {root}\n")
    done = focalbench("data", "split", root)
    assert (done.code, "lists are never overwritten" in done.err) == (2, True)


def test_three_lists_as_json(focalbench, root):
    document = json.loads(focalbench("data", "split", root, "--val", 0.25, "--test", 0.25, "--stratify", "--json").out)
    assert document["lists"] == {"train": 10, "val": 5, "test": 5}
    assert all(counts["dog"] >= 2 for counts in document["images"].values())
    assert document["missing"] == {}


@pytest.mark.parametrize("options", [("--test", 0), ("--test", 1), ("--test", "nan"), ("--val", 0.9), ("--val", -0.1)])
def test_shares_that_leave_nothing_are_refused(focalbench, root, options):
    done = focalbench("data", "split", root, *options)
    assert done.code == 2
    assert done.err.startswith(options[0])
