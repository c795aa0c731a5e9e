"""``data download`` says where the data are, and exits 2 in words or 130 with a way on."""

import json

import pytest
import typer
from typer.testing import CliRunner

from focalbench.cli import download as command
from focalbench.data import download as archives
from focalbench.errors import DataError


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(command.download)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def fake(monkeypatch, outcome):
    """Replaces the download by one that reports progress and then returns or raises ``outcome``."""
    asked = []

    def download(dataset, folder, *, progress):
        asked.append((dataset, folder))
        for there in range(0, 101, 5):
            progress("VOC.tar", there * 1_000_000, 100_000_000)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(archives, "download", download)
    return asked


def test_the_root_is_printed_and_progress_goes_to_stderr(run, tmp_path, monkeypatch):
    asked = fake(monkeypatch, tmp_path / "VOCdevkit")
    result = run("voc2007", tmp_path)
    assert result.exit_code == 0
    assert result.stdout == f"voc2007 is ready; use it with data.root: {tmp_path / 'VOCdevkit'}\n"
    assert len(result.stderr.splitlines()) == 11  # one line a tenth
    assert "VOC.tar: 50 of 100 MB" in result.stderr
    assert asked == [("voc2007", tmp_path)]


def test_json_is_the_only_thing_on_stdout(run, tmp_path, monkeypatch):
    fake(monkeypatch, tmp_path / "VOCdevkit")
    assert json.loads(run("voc2012", tmp_path, "--json").stdout) == {
        "root": str(tmp_path / "VOCdevkit"),
        "year": "2012",
    }


def test_an_unknown_data_set_is_refused(run, tmp_path):
    result = run("coco", tmp_path)
    assert result.exit_code == 2
    assert "voc2007" in result.output


def test_a_fault_reaches_the_command_line_as_it_is(run, tmp_path, monkeypatch):
    fake(monkeypatch, DataError("no mirror could deliver it"))
    assert isinstance(run("voc2007", tmp_path).exception, DataError)


def test_stopping_says_how_to_go_on(run, tmp_path, monkeypatch):
    fake(monkeypatch, KeyboardInterrupt())
    result = run("voc2007", tmp_path)
    assert result.exit_code == 130
    assert "run the same command again to resume" in result.stderr


def test_the_command_offers_what_can_be_downloaded():
    assert {dataset.value for dataset in command.Dataset} == set(archives.DATASETS)
