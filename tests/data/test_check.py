"""The check before a run: all faults at once, counted, and nothing read twice."""

import json
import signal

import pytest

from focalbench.data import check as check_module
from focalbench.data.check import CheckReport, check_data
from focalbench.data.faults import Fault, pick_of_every_kind, raise_for_faults, shorten, summarise
from focalbench.errors import DataError, InterruptedTrial
from focalbench.runtime import StopFlag

TRAIN, VAL = ("2007/train",), ("2007/val",)


@pytest.fixture
def sound(voc, object_of):
    ids = [
        voc.add("a", object_of("cat") + object_of("dog", extra="<difficult>1</difficult>")),
        voc.add("b", object_of("dog")),
    ]
    voc.list("train", ids)
    voc.list("val", [voc.add("c", object_of("cat") + object_of("dog", (1, 1, 9, 9)))])
    return voc


def test_a_sound_set_has_facts_and_no_faults(sound):
    report = check_data(sound.root, TRAIN, VAL)
    assert (report.errors, report.warnings, report.classes) == ((), (), ("cat", "dog"))
    assert report.facts == {
        "train_images": 2,
        "val_images": 1,
        "train_objects": 2,
        "val_objects": 2,
        "train_difficult": 1,
        "val_difficult": 0,
    }
    raise_for_faults(report.errors)


def test_faults_of_all_files_and_splits_come_at_once(sound, object_of):
    sound.add("d", object_of(box=(9, 9, 1, 1)))
    sound.add("e", image=b"broken")
    sound.add("f", xml="<annotation>")
    sound.list("train", ["a", "b", "d", "e", "f", "../g", "absent"])
    sound.add("h", object_of("zebra") + object_of("horse"))
    sound.list("val", ["c", "h"])
    report = check_data(sound.root, (*TRAIN, "2007/nothing", "2012/train"), VAL, ("cat", "dog"))
    assert sorted(fault.kind for fault in report.errors) == [
        "bad-id",
        "bad-split",
        "bad-split",
        "image-broken",
        "missing-annotation",
        "missing-image",
        "swapped-box",
        "unknown-class",
        "unknown-class",
        "xml-broken",
    ]
    with pytest.raises(DataError) as caught:
        raise_for_faults(report.errors)
    assert str(caught.value).startswith("10 data errors: bad-split 2, unknown-class 2, ")


def test_a_missing_root_is_a_fault_like_any_other(tmp_path):
    (fault,) = check_data(tmp_path / "absent", TRAIN).errors
    assert (fault.kind, fault.reason.split(";")[0]) == ("bad-root", "does not exist")


def test_overlap_by_id_and_by_content_is_warned_of(sound):
    sound.add("copy", image=(sound.year / "JPEGImages" / "b.jpg").read_bytes())
    sound.list("val", ["a", "c", "copy"])
    faults = [fault for fault in check_data(sound.root, TRAIN, VAL).warnings if fault.kind == "train-val-overlap"]
    assert [fault.file for fault in faults] == ["VOC2007/JPEGImages/a.jpg", "VOC2007/JPEGImages/copy.jpg"]
    assert "VOC2007/JPEGImages/b.jpg" in faults[1].reason


def test_duplicate_ids_are_warned_of_within_and_across_lists(sound):
    sound.list("train", ["a", "b", "a"])
    sound.list("more", ["b"])
    report = check_data(sound.root, (*TRAIN, "2007/more"))
    assert [fault.kind for fault in report.warnings] == ["duplicate-id", "duplicate-id"]
    assert report.facts["train_images"] == 2


def test_a_class_without_countable_objects_is_warned_of(sound, object_of):
    sound.list("val", [sound.add("d", object_of("cat") + object_of("dog", extra="<difficult>1</difficult>"))])
    (fault,) = check_data(sound.root, TRAIN, VAL).warnings
    assert (fault.kind, fault.file, fault.object) == ("class-without-objects", "val", "class 'dog'")


def test_training_images_without_any_object_are_an_error(sound):
    sound.list("train", [sound.add("d", "")])
    assert [fault.kind for fault in check_data(sound.root, TRAIN).errors] == ["nothing-to-learn"]


def test_an_unchanged_set_is_not_read_twice_and_a_changed_one_is(sound, object_of, monkeypatch):
    first = check_data(sound.root, TRAIN, VAL)
    with monkeypatch.context() as patch:
        patch.setattr(check_module, "scan_samples", lambda *_, **__: pytest.fail("read again"))
        assert check_data(sound.root, TRAIN, VAL) == first
    sound.add("a", object_of(box=(5, 6, 5, 9)))
    assert [fault.kind for fault in check_data(sound.root, TRAIN, VAL).warnings] == ["zero-size-box"]


def test_a_kept_report_does_not_answer_for_other_lists(sound, tmp_path):
    """The same files in the same order, but listed twice, or on the other side of the border of train and val."""
    sound.list("train", ["a"])
    sound.list("val", ["b", "b", "c"])
    first = check_data(sound.root, TRAIN, VAL)
    assert "duplicate-id" in {fault.kind for fault in first.warnings}
    sound.list("val", ["b", "c"])
    second = check_data(sound.root, TRAIN, VAL)
    assert "duplicate-id" not in {fault.kind for fault in second.warnings}
    sound.list("train", ["a", "b"])
    sound.list("val", ["c"])
    assert check_data(sound.root, TRAIN, VAL).facts["train_images"] == 2


def test_a_second_image_file_is_warned_of_although_a_report_is_kept(sound):
    assert check_data(sound.root, TRAIN, VAL).warnings == ()
    (sound.year / "JPEGImages" / "a.png").write_bytes(b"unused")
    assert [fault.kind for fault in check_data(sound.root, TRAIN, VAL).warnings] == ["two-images"]


def test_reports_with_errors_are_never_kept(sound):
    path = sound.year / "JPEGImages" / "a.jpg"
    good = path.read_bytes()
    stamp = path.stat().st_mtime_ns
    path.write_bytes(good[:-300] + bytes(300))
    path.write_bytes(b"x" * len(good))
    assert check_data(sound.root, TRAIN).errors
    path.write_bytes(good)
    import os

    os.utime(path, ns=(stamp, stamp))
    assert check_data(sound.root, TRAIN).errors == ()


def test_a_kept_report_that_is_damaged_is_ignored(sound, tmp_path):
    expected = check_data(sound.root, TRAIN)
    for path in (tmp_path / "cache" / "checks").iterdir():
        path.write_text('{"errors": 3}')
    assert check_data(sound.root, TRAIN) == expected


def test_a_cache_folder_that_cannot_be_written_does_no_harm(sound, tmp_path):
    (tmp_path / "file").write_text("")
    assert check_data(sound.root, TRAIN, cache_dir=tmp_path / "file").errors == ()


def test_a_report_survives_json(sound):
    sound.list("val", ["a"])
    report = check_data(sound.root, TRAIN, VAL)
    document = json.loads(json.dumps(report.to_json()))
    assert CheckReport.from_json(document) == report
    assert set(document["warnings"][0]) == {"kind", "file", "object", "reason"}


def test_any_number_of_threads_gives_the_same_report(sound, tmp_path, monkeypatch):
    reports = []
    for number in (1, 7):
        monkeypatch.setattr("focalbench.data.scanning.num_cores", lambda number=number: number)
        reports.append(check_data(sound.root, TRAIN, VAL, cache_dir=tmp_path / f"{number}"))
    assert reports[0] == reports[1]


def test_a_stop_ends_the_check_between_two_images(sound):
    stop = StopFlag()
    stop.request(signal.SIGTERM)
    with pytest.raises(InterruptedTrial, match="stopped by SIGTERM while reading the images"):
        check_data(sound.root, TRAIN, VAL, stop=stop)


def test_a_rare_kind_is_shown_among_many_of_another():
    faults = [Fault("many", f"{i}", None, "x") for i in range(100)] + [Fault("rare", "file", None, "y")]
    assert [fault.kind for fault in pick_of_every_kind(faults, 3)] == ["many", "many", "rare"]
    lines = summarise(faults, "warning", 5)
    assert len(lines) == 5
    assert lines[0] == "101 warnings: many 100, rare 1"
    assert "rare" not in lines[1]
    assert lines[-2] == "  file: y"
    assert "98 more" in lines[-1]


def test_names_from_files_cannot_break_the_line_or_the_terminal():
    assert shorten("a\nb\x1b[31mc\u202ed") == "a?b?[31mc?d"
    assert len(shorten("x" * 10_000)) == 300
