"""metrics.jsonl read from its end, by whoever looks on while it grows."""

import json
import os
from pathlib import Path

import pytest

from focalbench.records import metrics
from focalbench.records.metrics import newest_values


def write(folder: Path, *lines: object, tail: str = "") -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def test_the_newest_value_of_each_tag_and_the_last_step(tmp_path: Path) -> None:
    write(
        tmp_path, {"step": 1, "a": 1.0, "b": 1.0}, {"step": 2, "a": 2.0}, {"step": 2, "c": 7.0}, {"step": 3, "a": None}
    )
    assert newest_values(tmp_path, ["a", "b", "d"]) == (3, {"a": None, "b": 1.0})
    assert newest_values(tmp_path, []) == (3, {})


@pytest.mark.parametrize("tail", ['{"step": 9, "a"', "\n\n", "null\n", '{"step": null}\n', "[" * 100000, "\x00\n"])
def test_what_is_no_line_is_passed_over(tmp_path: Path, tail: str) -> None:
    write(tmp_path, {"step": 1, "a": 1.0}, tail=tail)
    assert newest_values(tmp_path, ["a"]) == (1, {"a": 1.0})


def test_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"step": 1, "old": 1.0}, *({"step": step, "a": 1.0} for step in range(2, 100)))
    monkeypatch.setattr(metrics, "_END_BYTES", 1000)
    assert newest_values(tmp_path, ["a", "old"]) == (99, {"a": 1.0})


def test_no_file_and_no_regular_file_are_empty(tmp_path: Path) -> None:
    assert newest_values(tmp_path, ["a"]) == (None, {})
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert newest_values(tmp_path, ["a"]) == (None, {})
