"""The YAML reader: types as in YAML 1.2, a place for every fault, and nothing hostile let in."""

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from focalbench.config.document import (
    MAX_BYTES,
    ConfigFault,
    Mark,
    config_error,
    dotted,
    parse_document,
    parse_value,
    read_document,
)
from focalbench.errors import ConfigError


def value_of(text):
    value, document = parse_value(text, "test")
    assert not document.faults, document.faults
    return value


def reason_of(text):
    document = parse_document(text, "file.yaml")
    assert document.faults, text
    return "\n".join(str(fault) for fault in document.faults)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E5", 100_000),
        ("1e3", 1000),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0.25", -0.25),
        ("1:30", "1:30"),
        ("0123", 123),
        ("0o17", 15),
        ("0xff", 255),
        ("1_000", "1_000"),
        ("no", "no"),
        ("off", "off"),
        ("Yes", "Yes"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2007-01-02", "2007-01-02"),
        ("2007/trainval", "2007/trainval"),
        ("'1e-3'", "1e-3"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{a: {b: [true]}}", {"a": {"b": [True]}}),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_scalars_are_read_as_in_yaml_1_2(text, expected):
    value = value_of(text)
    assert value == expected
    assert type(value) is type(expected)


def test_infinities_and_nan_are_numbers():
    assert value_of(".inf") == math.inf
    assert value_of("-.INF") == -math.inf
    assert math.isnan(value_of(".nan"))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_back(number):
    assert value_of(repr(number)) == number


def test_places_are_one_based_and_point_at_keys_and_values():
    document = parse_document("name: x\nloss:\n  gamma: 2\n", "exp.yaml")
    assert document.mark(("loss", "gamma"), on_key=True).where == "exp.yaml:3:3"
    assert document.mark(("loss", "gamma")).where == "exp.yaml:3:10"
    assert document.mark(("loss", "gamma")).line == "  gamma: 2"
    assert document.mark(("loss", "missing")).where == "exp.yaml:3:3"  # the mapping around it


def test_repeated_key_names_both_lines():
    text = reason_of("loss:\n  gamma: 1\n  alpha: 0.5\n  gamma: 2\n")
    assert "file.yaml:4:3: loss.gamma: repeated key; first used in line 2" in text


def test_all_repeated_keys_are_reported():
    assert len(parse_document("a: 1\na: 2\nb: 1\nb: 2\n", "f").faults) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/object/apply:os.system ['true']", "not allowed"),
        ("a: !!python/name:os.system", "not allowed"),
        ("a: !custom {b: 1}", "not allowed"),
        ("a: !!binary aGk=", "not allowed"),
        ("a: !!set {b: null}", "not allowed"),
        ("a: !!int x", "not allowed"),
        ("1: a", "key should be text"),
        ("null: a", "key should be text"),
        ("[1, 2]: a", "key should be text"),
        ("a: &x [*x]", "contains itself"),
        ("a: *nowhere", "undefined alias"),
        ("a: [1, 2", "not YAML"),
        ("a:\n\t- 1", "not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
        ("a: 'open", "not YAML"),
        ("- 1\n- 2", "`key: value`"),
        ("just text", "`key: value`"),
        ("", "is empty"),
        ("# a comment", "is empty"),
        ("a: \x07", "not YAML"),
        ("a: " + "9" * 5000, "digits"),
        ("a: " + "[" * 2000 + "]" * 2000, "levels deep"),
    ],
)
def test_bad_text_is_refused_with_a_place(text, expected):
    reason = reason_of(text)
    assert expected in reason
    assert reason.startswith("file.yaml")


def test_alias_is_copied_and_bomb_is_refused():
    document = parse_document("a: &x [1, 2]\nb: *x\n", "f")
    assert document.data == {"a": [1, 2], "b": [1, 2]}
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    assert "more than 100000 values" in reason_of("\n".join(levels))


def test_tagged_scalars_of_the_core_schema_are_fine():
    assert value_of("!!str 5") == "5"
    assert value_of("!!int 5") == 5
    assert value_of("!!float 5") == 5


def test_byte_order_mark_and_crlf_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\r\nseed: 3\r\n")
    assert read_document(path).data == {"name": "x", "seed": 3}


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00\x01", b"name: \xe9\n", b"\x00\x00\x00", b"\x89PNG\r\n\x1a\n\x00"])
def test_file_that_is_not_text(tmp_path, raw):
    path = tmp_path / "a.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        read_document(path)


def test_missing_folder_fifo_and_oversize(tmp_path):
    (tmp_path / "quickstart.yaml").write_text("name: x")
    with pytest.raises(ConfigError, match=r"no such file; did you mean .*quickstart\.yaml"):
        read_document(tmp_path / "quikstart.yaml")
    with pytest.raises(ConfigError, match=r"folder .* is missing"):
        read_document(tmp_path / "no" / "quikstart.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_document(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_document(tmp_path / "pipe.yaml")
    big = tmp_path / "big.yaml"
    big.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than"):
        read_document(big)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document(tmp_path / ("x" * 5000))


def test_error_shows_faults_of_one_line_together_and_in_order_of_the_file():
    first, second = Mark("f:1:1", "a: 1", (1, 1)), Mark("f:2:4", "b: [x, y]", (2, 4))
    faults = [
        ConfigFault(("b", 1), "wrong", second),
        ConfigFault(("a",), "bad", first),
        ConfigFault(("b", 0), "wrong", second),
    ]
    assert str(config_error(faults)) == "f:1:1: a: bad\n    a: 1\nf:2:4: b[1]: wrong\nf:2:4: b[0]: wrong\n    b: [x, y]"


@given(st.lists(st.integers(1, 60), max_size=60))
def test_message_never_exceeds_twenty_lines_and_counts_what_is_left_out(lines):
    faults = [
        ConfigFault(("k", i), "wrong", Mark(f"f:{line}:1", f"line {line}", (line, i))) for i, line in enumerate(lines)
    ]
    text = str(config_error(faults)).splitlines()
    assert len(text) <= 20
    shown = sum(": wrong" in line for line in text)
    left = int(text[-1].split()[2]) if text and text[-1].startswith("... and") else 0
    assert shown + left == len(lines)


def test_control_characters_of_a_file_do_not_reach_the_terminal():
    fault = ConfigFault(("a",), "wrong", Mark("f:1:1", "a: \x1b[31mred\x07", (1, 1)))
    assert "\x1b" not in str(config_error([fault]))
    assert "\x07" not in str(config_error([fault]))


def test_dotted_paths():
    assert dotted(("sweep", "list", 0, "loss", "gamma")) == "sweep.list[0].loss.gamma"
