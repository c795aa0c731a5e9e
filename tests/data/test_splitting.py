"""Lists by share and seed: whole groups, rare classes in each, nothing overwritten."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focalbench.data.splitting import Unit, divide, divide_data, make_units, write_lists
from focalbench.errors import DataError, StorageError

TWO = {"trainval": 0.8, "test": 0.2}
THREE = {"train": 0.6, "val": 0.2, "test": 0.2}


def unit(name, *classes, images=1):
    return Unit(name, tuple(f"{name}-{n}" for n in range(images)), dict.fromkeys(classes, images))


def names_of(division):
    return {name: {each.name for each in part} for name, part in division.items()}


@pytest.mark.parametrize(("number", "sizes"), [(10, (8, 2)), (7, (6, 1)), (3, (2, 1)), (101, (81, 20))])
def test_shares_are_met_to_the_image(number, sizes):
    division = divide([unit(f"i{n}") for n in range(number)], TWO)
    assert tuple(map(len, division.values())) == sizes


def test_seeds_differ_and_the_order_of_files_does_not_matter():
    units = [unit(f"i{n}", "cat" if n % 3 else "dog") for n in range(60)]
    for stratify in (False, True):
        first = names_of(divide(units, THREE, seed=5, stratify=stratify))
        assert names_of(divide(units[::-1], THREE, seed=5, stratify=stratify)) == first
        assert names_of(divide(units, THREE, seed=6, stratify=stratify)) != first


def test_stratified_lists_have_their_share_of_every_class():
    units = [unit(f"i{n}", *(["a"] * (n % 2) + ["b"] * (n % 10 == 0) + ["c"] * (n % 50 == 0))) for n in range(1000)]
    division = divide(units, TWO, stratify=True)
    for kind, share in (("a", 100), ("b", 20), ("c", 4)):
        assert sum(kind in each.images_of for each in division["test"]) == pytest.approx(share, abs=1)
    assert len(division["test"]) == pytest.approx(200, abs=2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdef"), max_size=3), min_size=6, max_size=30), st.integers(0, 3))
def test_every_unit_is_in_one_list_and_a_class_of_two_images_is_in_both_unless_others_forbid_it(classes, seed):
    units = [unit(f"i{n}", *kinds) for n, kinds in enumerate(classes)]
    division = divide(units, TWO, seed=seed, stratify=True)
    assert sorted(each.name for part in division.values() for each in part) == sorted(each.name for each in units)
    pairs = {kind for kind in "abcdef" if sum(kind in kinds for kinds in classes) >= 2}
    missing = [kind for kind in pairs for part in division.values() if not any(kind in each.images_of for each in part)]
    # ab, ac, bc: no division has all three in both lists. Only where each image has another such class is one missing.
    assert all(len(kinds & pairs) > 1 for kind in missing for kinds in classes if kind in kinds)


def test_a_class_of_two_images_is_in_both_lists():
    units = [unit("r0", "rare"), unit("r1", "rare", "common"), *(unit(f"c{n}", "common") for n in range(40))]
    for seed in range(10):
        division = divide(units, TWO, seed=seed, stratify=True)
        assert all(any("rare" in each.images_of for each in part) for part in division.values())


def test_a_class_of_two_images_is_in_both_lists_though_one_of_them_has_a_class_of_its_own():
    units = [*(unit(f"i{n}") for n in range(11)), unit("i11", "a", "c"), unit("i12", "b", "c")]
    for seed in range(10):
        division = divide(units, TWO, seed=seed, stratify=True)
        assert all(any("c" in each.images_of for each in part) for part in division.values())


def test_groups_stay_whole_and_meet_the_share_whatever_their_sizes():
    units = [unit("huge", images=500), *(unit(f"g{n}", images=20) for n in range(25))]
    division = divide(units, {"trainval": 0.75, "test": 0.25})
    assert sum(len(each.ids) for each in division["test"]) == pytest.approx(250, abs=20)


def test_groups_follow_from_the_first_group_of_the_expression_or_the_match():
    ids = ["v1_f1", "v1_f2", "v2_f1"]
    objects = {image_id: {} for image_id in ids}
    assert [each.name for each in make_units(ids, objects, r"(v\d+)_")] == ["v1", "v2"]
    assert [each.name for each in make_units(ids, objects, r"_f\d")] == ["_f1", "_f2"]
    with pytest.raises(DataError, match="matches nothing in 1 of 3 names \\(v2_f1\\)"):
        make_units(ids, objects, "v1")
    with pytest.raises(DataError, match="not a regular expression"):
        make_units(ids, objects, "(")


@pytest.fixture
def set_of_ten(voc, object_of):
    for number in range(10):
        voc.add(f"v{number // 2}_{number}", object_of("cat" if number else "dog"))
    return voc


def test_images_without_annotation_are_left_out_and_counted(set_of_ten):
    (set_of_ten.year / "Annotations" / "v0_0.xml").unlink()
    (set_of_ten.year / "JPEGImages" / "v1_2.jpg").unlink()
    division = divide_data(set_of_ten.root, TWO)
    assert sum(map(len, division.lists.values())) == 8
    assert division.left_out == {"images without an annotation": 1, "annotations without an image": 1}


def test_lists_are_written_and_never_overwritten(set_of_ten):
    division = divide_data(set_of_ten.root, TWO, group_by="v[0-9]", stratify=True)
    paths = write_lists(set_of_ten.root, division)
    texts = [path.read_text().split() for path in paths]
    assert sorted([*texts[0], *texts[1]]) == sorted(f"v{number // 2}_{number}" for number in range(10))
    assert not {name[:2] for name in texts[0]} & {name[:2] for name in texts[1]}
    assert division.missing == {"dog": ["test"]}
    with pytest.raises(StorageError, match=r"trainval\.txt and .*test\.txt: already there"):
        write_lists(set_of_ten.root, division)
    before = {path: path.read_bytes() for path in paths}
    with pytest.raises(StorageError, match="already there"):
        write_lists(set_of_ten.root, divide_data(set_of_ten.root, TWO, seed=1))
    assert {path: path.read_bytes() for path in paths} == before


def test_the_same_division_completes_what_a_kill_interrupted(set_of_ten):
    division = divide_data(set_of_ten.root, TWO)
    _, test = write_lists(set_of_ten.root, division)
    test.unlink()
    with pytest.raises(StorageError, match="already there"):
        write_lists(set_of_ten.root, divide_data(set_of_ten.root, TWO, seed=3))
    assert not test.exists()
    write_lists(set_of_ten.root, division)
    assert test.read_text().split() == division.lists["test"]


def test_a_list_that_cannot_be_written_takes_the_others_with_it(set_of_ten, monkeypatch):
    link = os.link

    def fail(source, target):
        if target.name == "test.txt":
            raise OSError(28, "No space left on device", str(target))
        link(source, target)

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(StorageError, match=r"test\.txt: cannot be written: No space"):
        write_lists(set_of_ten.root, divide_data(set_of_ten.root, TWO))
    assert list((set_of_ten.year / "ImageSets" / "Main").iterdir()) == []


def test_what_cannot_be_divided_is_said(set_of_ten):
    root = set_of_ten.root
    with pytest.raises(DataError, match="leave test without any"):
        divide_data(root, TWO, group_by="v")
    set_of_ten.list("two", ["v0_0", "v0_1"])
    assert list(map(len, divide_data(root, TWO, source="two").lists.values())) == [1, 1]
    set_of_ten.list("bad", ["v0_0", "absent"])
    with pytest.raises(DataError, match="missing-annotation"):
        divide_data(root, TWO, source="bad")
    (set_of_ten.year / "Annotations" / "v3_6.xml").write_text("<annotation>")
    with pytest.raises(DataError, match="xml-broken"):
        divide_data(root, TWO)
    (root / "VOC2012").mkdir()
    with pytest.raises(DataError, match="say which with --year"):
        divide_data(root, TWO)
