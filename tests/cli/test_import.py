"""``focalbench data import``: the account, the faults in at most twenty lines, and what comes next."""

import json

import pytest
from imported_sets import Picture, write_coco


@pytest.fixture
def source(tmp_path):
    write_coco(tmp_path / "source", [Picture("a.jpg"), Picture("b.jpg", objects=(), shade=9)])
    return tmp_path / "source"


def test_the_account_ends_with_what_comes_next(focalbench, source):
    done = focalbench("data", "import", source, "-o", "my set")
    assert (done.code, done.err) == (0, "")
    assert "COCO JSON: 2 images, 1 object; 1 image without objects" in done.out
    assert "classes: cat 1; 2 without an object" in done.out
    assert done.out.endswith("next:  focalbench data split 'my set' --test 0.2\n")
    write_coco(source, [Picture("c.jpg", "val", shade=7)])
    assert focalbench("data", "import", source, "-o", "new").out.endswith("next:  focalbench init new\n")


def test_many_faults_are_said_in_twenty_lines_and_listed_as_json(focalbench, tmp_path):
    pictures = [Picture(f"{number}.jpg", objects=(("lynx", 1, 2, 8, 9),)) for number in range(40)]
    write_coco(tmp_path / "source", pictures)
    done = focalbench("data", "import", tmp_path / "source", "-o", "new")
    assert done.code == 2
    assert len(done.err.splitlines()) <= 20
    assert done.err.startswith("40 errors: unknown-category 40\n")
    assert "nothing was imported; --skip-faulty" in done.err
    done = focalbench("data", "import", tmp_path / "source", "-o", "new", "--json")
    assert (done.code, len(json.loads(done.out)["errors"])) == (2, 40)


def test_faulty_images_are_left_out_on_request_and_counted(focalbench, source):
    (source / "images" / "a.jpg").unlink()
    done = focalbench("data", "import", source, "-o", "new", "--skip-faulty")
    assert done.code == 0
    assert "left out: 1 image with errors\n1 error: missing-image 1\n" in done.out


def test_a_full_target_is_named(focalbench, source, tmp_path):
    done = focalbench("data", "import", source, "-o", tmp_path, "--copy")
    assert (done.code, "is not empty" in done.err) == (2, True)
