"""Plugins executed: once, from the text that was read, with every fault told by file and line."""

import sys

import pytest

from focalbench.errors import DataError, PluginError
from focalbench.plugins.loading import load_plugins, plugin_faults, registered
from focalbench.plugins.source import read_source

_HEAD = "import focalbench as fb\n"


def load(*entries: str):
    return load_plugins([read_source(entry) for entry in entries])


def test_what_a_plugin_registers_is_found_by_name_and_digest(plugin):
    (found,) = load(plugin())
    (entry,) = found.registrations
    assert (entry.kind, entry.name, entry.place, entry.options) == (
        "loss", "my_focal", "mine.py:8", {"activation": "sigmoid"},
    )  # fmt: skip
    assert registered("loss", "my_focal", found.source.digest) is entry
    with pytest.raises(PluginError, match="was not executed here"):
        registered("loss", "my_focal", "0" * 16)


def test_a_source_is_executed_once_a_process(plugin):
    text = f"{_HEAD}with open('marker', 'a') as f: f.write('.')\n@fb.loss('a')\ndef a(logits, targets): ...\n"
    assert load(plugin(text)) == load(plugin(text))
    with open("marker") as file:
        assert file.read() == "."


def test_what_was_read_is_executed_though_the_file_has_changed(plugin):
    source = read_source(plugin(f"{_HEAD}@fb.loss('before')\ndef before(logits, targets): ...\n"))
    plugin(f"{_HEAD}@fb.loss('after')\ndef after(logits, targets): ...\n")
    (found,) = load_plugins([source])
    assert found.registrations[0].name == "before"


def test_a_plugin_can_import_what_lies_beside_it(plugin):
    plugin("NAME = 'beside'\n", "helper_beside_mine.py")
    (found,) = load(plugin(f"{_HEAD}import helper_beside_mine as h\n@fb.loss(h.NAME)\ndef f(logits, targets): ...\n"))
    assert found.registrations[0].name == "beside"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{_HEAD}\n1 / 0\n", r"mine\.py:3: ZeroDivisionError: division by zero"),
        ("import no_such_package\n", r"mine\.py:1: ModuleNotFoundError: .*no_such_package.*: install it wherever"),
        ("import sys\nsys.exit(3)\n", r"mine\.py:2: ends the process"),
        ("x = 1\n", r"mine\.py: registers nothing: decorate"),
        (
            f"{_HEAD}@fb.loss('a')\ndef a(logits, targets): ...\n@fb.loss('a')\ndef b(logits, targets): ...\n",
            r"mine\.py:4: a loss a is defined twice, first at line 2: rename one",
        ),
        (f"{_HEAD}@fb.loss\ndef a(logits, targets): ...\n", r"mine\.py:2: TypeError: .*needs a name"),
        (f"{_HEAD}@fb.loss('no name')\ndef a(logits, targets): ...\n", r"mine\.py:2: ValueError: 'no name' cannot be"),
        (f"{_HEAD}@fb.loss('a', activation='relu')\ndef a(x, y): ...\n", r"mine\.py:2: .*'sigmoid' or 'softmax'"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_file_line_and_reason(plugin, text, words):
    with pytest.raises(PluginError, match=words):
        load(plugin(text))


def test_a_fault_inside_a_plugin_becomes_its_own_and_others_pass(plugin, capfd):
    (found,) = load(plugin(f"{_HEAD}@fb.loss('a')\ndef a(logits, targets):\n    return {{}}[logits]\n"))
    with pytest.raises(PluginError, match=r"mine\.py:4: KeyError: 3"), plugin_faults():
        found.registrations[0].target(3, 4)
    assert "Traceback" in capfd.readouterr().err
    with pytest.raises(ZeroDivisionError), plugin_faults():
        1 / 0  # noqa: B018
    with pytest.raises(DataError), plugin_faults():
        raise DataError("of the data")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the one file of an installed module."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> None:
        (tmp_path / "installed_losses.py").write_text(text)

    yield write
    sys.modules.pop("installed_losses", None)


def test_an_installed_module_is_a_plugin_until_it_is_edited_behind_the_process(package):
    package(f"{_HEAD}@fb.loss('installed')\ndef a(logits, targets):\n    return 1 / 0\n")
    (found,) = load("installed_losses")
    assert [entry.name for entry in found.registrations] == ["installed"]
    with pytest.raises(PluginError, match=r"installed_losses\.py:4: ZeroDivisionError"), plugin_faults():
        found.registrations[0].target(0, 0)
    package(f"{_HEAD}@fb.loss('edited')\ndef a(logits, targets): ...\n")
    with pytest.raises(PluginError, match="it was edited, or another version is installed here; run the command"):
        load("installed_losses")
